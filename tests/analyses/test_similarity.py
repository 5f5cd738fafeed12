"""Similarity: invariances of CKA and Procrustes, SciPy as oracle, bias with few items, identical checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes

from analyses.states import similarity as module
from analyses.states.similarity import similarity
from probe.errors import InputError


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def one(x, y):
    return {name: values[0] for name, values in module.compared(x, y, np.ones((1, len(x)), bool)).items()}


def test_cka_by_definition(rng):
    x, y = rng.normal(size=(20, 6)), rng.normal(size=(20, 9))
    a, b = x - x.mean(0), y - y.mean(0)
    expected = np.linalg.norm(b.T @ a) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert one(np.pad(x, ((0, 0), (0, 3))), y)["cka"] == pytest.approx(expected)


def test_a_rotation_and_scale_leave_cka_at_one_and_are_undone_by_procrustes(rng):
    x = rng.normal(size=(30, 5))
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    found = one(x, 3.0 * x @ rotation + 7.0)
    assert found["cka"] == pytest.approx(1) and found["cka_unbiased"] == pytest.approx(1)
    assert found["procrustes"] == pytest.approx(0, abs=1e-9) and found["rotation_share"] == pytest.approx(1)
    assert found["change"] > 0.1


def test_procrustes_is_scipys(rng):
    x, y = rng.normal(size=(12, 20)), rng.normal(size=(12, 20))
    a, b = ((z - z.mean(0)) / np.linalg.norm(z - z.mean(0)) for z in (x, y))
    rotation, _ = orthogonal_procrustes(a, b)
    assert one(x, y)["procrustes"] == pytest.approx(np.linalg.norm(b - a @ rotation) ** 2)
    assert one(x, y)["change"] == pytest.approx(np.linalg.norm(b - a) ** 2)


def test_few_independent_items_look_alike_only_to_the_biased_form(rng):
    found = [one(rng.normal(size=(12, 100)), rng.normal(size=(12, 100))) for _ in range(40)]
    assert np.mean([f["cka"] for f in found]) > 0.7
    assert abs(np.mean([f["cka_unbiased"] for f in found])) < 0.1


def test_a_constant_state_is_not_measured(rng):
    assert np.isnan(list(one(np.full((6, 3), 2.0), rng.normal(size=(6, 3))).values())).all()


def test_one_checkpoint_with_itself(base, prompts):
    result = similarity(base, base, prompts, draws=5)
    assert "identical weights" in result.warnings[0]
    real = result.data.isel(state=slice(1, None))
    assert (real["cka"] == 1).all() and (real["procrustes"] == 0).all() and (real["change"] == 0).all()
    assert np.isnan(real["rotation_share"]).all() and (result.table["relative_change"] == 0).all()


def test_on_a_pair(base, tuned, prompts):
    result = similarity(base, tuned, prompts, draws=20)
    assert len(result.table) == 12 * (base.shape.n_layers + 1)
    assert (result.data["cka"].isel(state=-1) < 1) and (result.data["cka_n"].isel(state=-1) == 12)
    assert result.data["relative_change"].dims == ("state", "group")
    assert "cka" in module.figures(result)
    with pytest.raises(InputError, match="at least 4"):
        similarity(base, tuned, prompts.limit(3))
