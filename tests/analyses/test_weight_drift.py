"""Weight drift: NumPy as oracle, planted low-rank updates recovered, a frozen weight exactly 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analyses.weights import _names
from analyses.weights import weight_drift as module
from analyses.weights.weight_drift import weight_drift
from probe import Model
from probe.errors import InputError
from tests import tiny

GATE = "model.layers.1.mlp.gate_proj.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("drift") / "m")


@pytest.fixture
def pair(folder):
    return [Model.load(folder, check=False) for _ in range(2)]


def row(result, name=GATE):
    return result.table.set_index("matrix").loc[name]


def change(model: Model, name: str, by: np.ndarray) -> None:
    with torch.no_grad():
        model.weights()[name].add_(torch.as_tensor(by, dtype=torch.float32))


def test_norms_and_rank_agree_with_numpy(pair):
    base, tuned = pair
    before = base.weights()[GATE].detach().double().numpy().copy()
    change(tuned, GATE, np.random.default_rng(0).normal(size=before.shape))
    update = tuned.weights()[GATE].detach().double().numpy() - before
    found = row(weight_drift(base, tuned))
    s = np.linalg.svd(update, compute_uv=False)
    assert found["relative_norm"] == pytest.approx(np.linalg.norm(update) / np.linalg.norm(before))
    assert found["spectral_norm"] == pytest.approx(s[0])
    assert found["stable_rank"] == pytest.approx((s**2).sum() / s[0] ** 2)


def test_a_rank_one_update_has_rank_one_and_its_angle(pair):
    """An update along the base's own top direction has angle 0; along the weakest, 90 degrees."""
    base, tuned = pair
    before = base.weights()[GATE].detach().double().numpy().copy()
    u, _, vt = np.linalg.svd(before, full_matrices=False)
    change(tuned, GATE, 0.5 * np.outer(u[:, 0], vt[0]))
    found = row(weight_drift(base, tuned))
    assert found["stable_rank"] == pytest.approx(1.0, abs=1e-4)
    one = row(weight_drift(base, tuned, rank=1))
    assert one["angle_left"] < 0.5 and one["angle_right"] < 0.5
    change(tuned, GATE, 0.5 * np.outer(u[:, -1], vt[-1]) - 0.5 * np.outer(u[:, 0], vt[0]))
    weakest = row(weight_drift(base, tuned, rank=1))
    assert weakest["angle_left"] > 89 and weakest["angle_right"] > 89


def test_a_random_update_has_the_angle_of_chance(pair):
    base, tuned = pair
    change(tuned, GATE, np.random.default_rng(1).normal(size=base.weights()[GATE].shape))
    found = row(weight_drift(base, tuned, rank=4))
    for side in ("left", "right"):
        assert found[f"angle_{side}"] == pytest.approx(found[f"angle_chance_{side}"], abs=12), side
    assert 40 < found["angle_chance_left"] < 90


def test_what_was_frozen_has_drift_exactly_zero(pair):
    base, tuned = pair
    change(tuned, GATE, np.ones(base.weights()[GATE].shape))
    table = weight_drift(base, tuned).table.set_index("matrix")
    rest = table.drop(index=GATE)
    assert (rest["relative_norm"] == 0).all() and rest["stable_rank"].isna().all()
    assert table.loc[GATE, "relative_norm"] > 0 and table.loc[GATE, "layer"] == 1


def test_identical_checkpoints_warn(pair):
    result = weight_drift(*pair)
    assert "identical weights" in result.warnings[0]
    assert (result.data["relative_norm"] == 0).all() and np.isnan(result.data["angle_left"]).all()


def test_top_singular_is_the_svd_on_both_orientations():
    matrix = np.random.default_rng(2).normal(size=(30, 7))
    for m in (matrix, matrix.T):
        s, left, right = module.top_singular(m, 3)
        u, expected, vt = np.linalg.svd(m, full_matrices=False)
        np.testing.assert_allclose(s, expected[:3])
        np.testing.assert_allclose(np.abs(np.diag(left.T @ u[:, :3])), 1)
        np.testing.assert_allclose(np.abs(np.diag(right.T @ vt[:3].T)), 1)


def test_tied_weights_are_counted_once(tmp_path):
    folder = tiny.save(tmp_path / "tied", tie_word_embeddings=True)
    model = Model.load(folder, check=False)
    names = weight_drift(model, model).table["matrix"].tolist()
    assert sum("embed" in n or "lm_head" in n for n in names) == 1


def test_bad_input_is_refused(pair, tmp_path):
    base, tuned = pair
    with pytest.raises(InputError, match="rank=0"):
        weight_drift(base, tuned, rank=0)
    change(tuned, GATE, np.full(base.weights()[GATE].shape, np.nan))
    with pytest.raises(InputError, match=r"gate_proj\.weight is not finite"):
        weight_drift(base, tuned)


def test_figures(pair):
    base, tuned = pair
    change(tuned, GATE, np.ones(base.weights()[GATE].shape))
    assert set(module.figures(weight_drift(base, tuned))) >= {"relative_norm", "stable_rank"}


@pytest.mark.parametrize(
    ("name", "layer", "kind"),
    [
        ("model.layers.11.self_attn.q_proj.weight", 11, "self_attn.q_proj"),
        ("transformer.h.0.attn.c_attn.bias", 0, "attn.c_attn.bias"),
        ("gpt_neox.layers.3.mlp.dense_h_to_4h.weight", 3, "mlp.dense_h_to_4h"),
        ("model.language_model.layers.2.mlp.experts.7.up_proj.weight", 2, "mlp.experts.7.up_proj"),
        ("h.5.ln_1.weight", 5, "ln_1"),
        ("model.norm.weight", None, "model.norm"),
    ],
)
def test_weights_are_labelled_in_every_family(name, layer, kind):
    assert (_names.layer_of(name), _names.kind_of(name)) == (layer, kind)
