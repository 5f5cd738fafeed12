"""Published forms beside ours: the released distance without the final norm, the probe of one split."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from analyses import get
from analyses.states._published_probe import published
from probe import Model, Prompts
from tests.planted import bifurcation


def test_the_released_distance_stands_beside_ours_under_its_own_name(
    base: Model, tuned: Model, prompts: Prompts
) -> None:
    """The root of the JSD of softmax(W_U x), no final norm; ours is what it is without the switch."""
    two = prompts.limit(2)
    result, same = get("divergence")(base, tuned, two, legacy=True), get("divergence")(base, tuned, two).table
    assert result.table["jsd_nats"].tolist() == same["jsd_nats"].tolist() and "legacy_js_distance" not in same
    item = two.items[0]
    (batch,) = base.batches(Prompts((item,)), batch_size=1)
    p, q = (
        (m.run(batch, read=["resid_post.1"])["resid_post.1"][0] @ m.unembed_weights()[0]).double().softmax(-1).numpy()
        for m in (base, tuned)
    )
    middle = (p + q) / 2
    jsd = ((p * np.log(p / middle)).sum(-1) + (q * np.log(q / middle)).sum(-1)) / 2
    rows = result.table[(result.table["item"] == item.id) & (result.table["layer"] == 1)].sort_values("pos")
    np.testing.assert_allclose(rows["legacy_js_distance"], np.sqrt(jsd), atol=1e-5)
    assert not np.allclose(rows["legacy_js_distance"], np.sqrt(rows["jsd_nats"]), rtol=1e-3)


def test_the_published_probe_is_scikit_learns_on_one_split() -> None:
    states = bifurcation(np.random.default_rng(0), n=48, n_layers=2, d=60, at=0)
    is_first = states.groups == "leak"
    split = train_test_split(states.layer(1), is_first, test_size=0.2, random_state=42, stratify=is_first)
    fit: Any = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000))
    fit.fit(split[0], split[2])
    found = published(cast(Any, states), is_first)["legacy_auc"]
    assert float(found[1]) == pytest.approx(roc_auc_score(split[3], fit.decision_function(split[1])))
