"""The published classifier: that it learns, and that it cannot localise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from analyses.states import legacy_classifier as module
from analyses.states.legacy_classifier import legacy_classifier
from probe.errors import InputError
from tests import tiny
from tests.planted import bifurcation, states_of


def example(folder: Path) -> dict:
    """For the contract tests: two epochs."""
    from tests.tiny import twelve_items

    return {"model": str(tiny.save(folder / "m")), "prompts": twelve_items(), "epochs": 2, "latent": 8}


def classified(states, epochs=8):
    return module.classified(states, states.groups == "leak", epochs, 8, 3e-3, 0)


def test_shuffled_later_states_change_nothing():
    """Rows 3 .. L may be anything: every output is the same bit for bit, so no curve can be about layers."""
    states = bifurcation(np.random.default_rng(0), n=30, n_layers=8, at=5)
    other = states_of(states.values.copy(), states.groups == "leak")
    other.values[:, 3:] = np.random.default_rng(1).permutation(other.values[:, 3:], axis=1) * 100
    (table, data), (again, same) = classified(states, 2), classified(other, 2)
    assert table["probability"].tolist() == again["probability"].tolist()
    for name in ("force", "velocity", "importance"):
        assert np.array_equal(data[name], same[name])


def test_the_planted_layer_is_not_where_its_force_peaks_for_the_right_reason():
    """Moving the planted block from 4 to 7 does not move the curves at all."""
    early, late = (bifurcation(np.random.default_rng(0), n=30, n_layers=8, at=at) for at in (4, 7))
    assert np.array_equal(classified(early, 2)[1]["importance"], classified(late, 2)[1]["importance"])


def test_it_does_learn_what_rows_0_to_2_hold():
    states = bifurcation(np.random.default_rng(2), n=60, n_layers=4, at=0, size=4.0)
    table, _ = classified(states, 25)
    test = table[table["split"] != "train"]
    assert roc_auc_score(test["group"] == "leak", test["probability"]) > 0.8
    assert table["split"].value_counts().to_dict() == {"train": 41, "test": 12, "validation": 7}


def test_docstring_verdict_and_figure_say_it(base, prompts):
    result = legacy_classifier(base, prompts, epochs=1, latent=8)
    assert "cannot localise" in result.verdict and "cannot localise" in result.warnings[0]
    assert "cannot localise" in module.__doc__.splitlines()[0]
    assert "CANNOT LOCALISE" in module.figures(result)["curves"].layout.title.text


def test_too_few_layers_are_refused():
    with pytest.raises(InputError, match="2 layers"):
        classified(bifurcation(np.random.default_rng(0), n=10, n_layers=2))
