"""The forward proxy: the same update 1, orthogonal 0, half an update 2, transformers as oracle, unrelated ones not."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analyses import run
from analyses.core.claim import FOUND, NONE, UNJUDGED
from analyses.weights import auxiliary_proxy as module
from analyses.weights.auxiliary_proxy import compared
from probe import InputError, Rollouts
from tests import logs, tiny


def example(folder: Path) -> dict[str, Any]:
    series = tiny.series(folder / "run", steps=(0, 20))
    log = Rollouts.of(logs.full(vocab=200))
    return {"base": series / "checkpoint-0", "tuned": series / "checkpoint-20", "rollouts": log, "draws": 20}


def drawn(n: int, seed: int, shared: float) -> pd.DataFrame:
    """Changes of 10 tokens of every item; `shared` of the auxiliary change is the main one."""
    rng = np.random.default_rng(seed)
    main, aux = rng.normal(size=(2, 10 * n))
    item = np.repeat(np.arange(n), 10)
    frame = pd.DataFrame({"item": item, "group": "g", "main": main, "aux": aux + shared * main})
    return module.of_items(frame)


def claim(table: pd.DataFrame) -> Any:
    return module._claim(table, module._arrays(table, 100, 0))


def test_the_same_update_is_one_half_of_it_two_and_an_orthogonal_one_nothing() -> None:
    x, y = np.array([1.0, -2.0, 0.5]), np.array([2.0, 1.0, 0.0])
    of = lambda a, b: {k: float(v) for k, v in compared(*(np.array(s) for s in (a @ b, a @ a, b @ b))).items()}  # noqa: E731
    assert of(x, x) == pytest.approx({"cosine": 1, "proxy": 1}) and of(x, x / 2)["proxy"] == pytest.approx(2)
    assert of(x, y) == {"cosine": 0, "proxy": 0} and of(x, -x)["proxy"] == 0
    assert np.isnan(list(of(x, 0 * x).values())).all()


def test_changes_are_those_of_transformers(tmp_path: Path) -> None:
    given = example(tmp_path)
    rows = logs.full(vocab=200)
    row = next(r for r in rows if r["prompt_id"] == "q0")
    given["rollouts"] = Rollouts.of([row])
    result = run("auxiliary_proxy", **given)
    from transformers import AutoModelForCausalLM

    ids, n = [*row["prompt_token_ids"], *row["response_token_ids"]], len(row["prompt_token_ids"])
    found = []
    for name in ("base", "tuned"):
        with torch.no_grad():
            log_p = (
                AutoModelForCausalLM.from_pretrained(given[name]).eval()(torch.tensor([ids])).logits[0].log_softmax(-1)
            )
        found.append(log_p[n - 1 : -1].gather(-1, torch.tensor(ids[n:])[:, None])[:, 0].numpy())
    kept = np.asarray(row["response_mask"], bool)
    main = (row["new_logp"].astype(float) - row["old_logp"])[kept]
    want = float((main * (found[1] - found[0])[kept]).sum())
    assert result.table["inner"].item() == pytest.approx(want, abs=1e-5)


def test_a_shared_pull_is_found_an_opposed_one_too_and_unrelated_ones_are_not() -> None:
    assert claim(drawn(20, 0, 0.7)).answer == FOUND
    assert "against" in claim(drawn(20, 0, -0.7)).what
    said = [claim(drawn(16, s, 0.0)).answer for s in range(12)]
    assert said.count(FOUND) <= 2 and NONE in said
    assert claim(drawn(4, 0, 0.9)).answer == UNJUDGED


@pytest.mark.verify
def test_unrelated_updates_over_100_seeds() -> None:
    assert [claim(drawn(16, s, 0.0)).answer for s in range(100)].count(FOUND) <= 10


def test_the_same_checkpoint_twice_and_a_log_without_the_update(tmp_path: Path) -> None:
    given = example(tmp_path)
    same = run("auxiliary_proxy", **{**given, "tuned": given["base"]})
    assert same.claims[0].answer == UNJUDGED and np.isnan(float(same.data["cosine"])) and same.warnings
    given["rollouts"] = Rollouts.of(logs.rows(vocab=200))
    with pytest.raises(InputError, match="new_logp"):
        run("auxiliary_proxy", **given)
