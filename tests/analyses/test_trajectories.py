"""Trajectories: closed forms of F, V, D, the split-half identity, a planted bifurcation, and nulls."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analyses.core.claim import sentence
from analyses.states import trajectories as module
from analyses.states._part_claims import parted
from analyses.states.trajectories import trajectories
from probe import Item, Model, Prompts, add
from probe.errors import InputError
from tests import tiny
from tests.planted import bifurcation, states_of


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def curves(states, permutations=300, draws=100, strata=None, seed=0):
    return module.curves(states, states.groups == "leak", strata, draws, permutations, seed)[1]


def test_force_velocity_and_distance_by_definition(rng):
    states = bifurcation(rng, n=14, n_layers=4)
    first = states.groups == "leak"
    data = curves(states)
    for layer in range(4):
        a, b = states.update(layer)[first].mean(0), states.update(layer)[~first].mean(0)
        force, norms = np.linalg.norm(a - b), (np.linalg.norm(a), np.linalg.norm(b))
        cell = data.sel(layer=layer)
        assert float(cell["force"]) == pytest.approx(force)
        assert float(cell["velocity_difference"]) == pytest.approx(abs(norms[0] - norms[1]))
        assert float(cell["force_relative"]) == pytest.approx(2 * force / sum(norms))
        h = states.layer(layer)
        expected = np.linalg.norm(h[first].mean(0) - h[~first].mean(0))
        assert float(data["distance"].sel(state=layer)) == pytest.approx(expected)


def test_velocity_difference_never_exceeds_force(rng):
    for _ in range(5):
        data = curves(bifurcation(rng, n=8, n_layers=3), permutations=5, draws=5)
        assert (data["velocity_difference"] <= data["force"] + 1e-12).all()


def test_identical_groups_are_zero(rng):
    half = rng.normal(size=(6, 4, 5))
    data = curves(states_of(np.concatenate([half, half]), np.arange(12) < 6))
    for name in ("force", "velocity_difference", "energy_distance", "distance"):
        np.testing.assert_allclose(data[name], 0, atol=1e-6)
    assert (data["p_value"] > 0.05).all()


def test_constant_offset_is_distance_without_force(rng):
    half = rng.normal(size=(6, 4, 5))
    data = curves(states_of(np.concatenate([half, half + np.array([3.0, 4, 0, 0, 0])]), np.arange(12) < 6))
    np.testing.assert_allclose(data["distance"], 5.0)
    np.testing.assert_allclose(data["force"], 0, atol=1e-6)


def test_rotated_updates_are_force_without_velocity_difference(rng):
    updates = np.tile([1.0, 0.0], (6, 3, 1))
    turned = np.tile([0.0, 1.0], (6, 3, 1))
    values = np.concatenate([np.zeros((12, 1, 2)), np.concatenate([updates, turned]).cumsum(1)], 1)
    data = curves(states_of(values, np.arange(12) < 6))
    np.testing.assert_allclose(data["velocity_difference"], 0, atol=1e-12)
    np.testing.assert_allclose(data["force"], np.sqrt(2))


def test_orthogonal_change_of_basis_changes_nothing(rng):
    states = bifurcation(rng, n=12, n_layers=3)
    basis = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    turned = states_of(states.values @ basis, states.groups == "leak")
    for name, values in curves(states).data_vars.items():
        np.testing.assert_allclose(curves(turned)[name], values, atol=1e-8)


def test_planted_bifurcation_is_found_at_its_layer(rng):
    data = curves(bifurcation(rng, at=6))
    assert int(data["force_squared"].argmax("layer")) == 6 and int(data["force_z"].argmax("layer")) == 6
    assert float(data["p_value"].sel(layer=6)) < 0.01
    assert (data["p_value"].drop_sel(layer=6) > 0.05).all()
    said = parted(data, ("leak", "stable"), "at the last prompt token", "blocks")
    assert said.is_found and said.place == "layer 6" and said.effect > 3
    assert sentence(said).startswith("Blocks part leak and stable at the last prompt token, most at layer 6: ")
    null = parted(curves(bifurcation(rng, size=0.0)), ("leak", "stable"), "over the prompt", "blocks")
    few = parted(curves(bifurcation(rng, n=12)), ("leak", "stable"), "over the prompt", "blocks")
    assert (null.answer, few.answer) == ("none found", "cannot be judged")


def test_no_layer_is_found_without_a_difference():
    """Null: the share of runs with any significant layer stays near .05."""
    found = sum(
        float(curves(bifurcation(np.random.default_rng(s), size=0.0, n=20), 100, 2)["p_value"].min()) <= 0.05
        for s in range(60)
    )
    assert found <= 8  # binomial .999 quantile at .05


def test_strata_absorb_a_difference_that_is_the_strata(rng):
    states = bifurcation(rng, n=80, size=0.0)
    stratum = np.arange(80) % 2
    states.values[:, 3:] += 3.0 * stratum[:, None, None]
    states.groups[:] = np.where(rng.random(80) < 0.2 + 0.6 * stratum, "leak", "stable")
    assert float(curves(states)["p_value"].min()) < 0.01
    assert float(curves(states, strata=stratum)["p_value"].min()) > 0.05


def test_on_a_model(base, prompts):
    result = trajectories(base, prompts, draws=50, permutations=50)
    assert set(result.table.columns) == {"item", "group", "layer", "update_norm", "state_norm"}
    assert len(result.table) == 12 * base.shape.n_layers
    assert result.data["distance"].dims == ("state",) and result.data.attrs["groups"] == ["leaked", "unseen"]
    assert (result.data["force_n"] == 6).all()
    assert set(module.figures(result)) == {*module.UNITS, "bifurcation"}


def test_bad_groups_are_refused(base, prompts):
    with pytest.raises(InputError, match="exactly two"):
        trajectories(base, prompts.where(group="leaked"))
    with pytest.raises(InputError, match="at least 4 in each"):
        trajectories(base, prompts.limit(7))
    with pytest.raises(InputError, match="not a column"):
        trajectories(base, prompts, strata=("dataset",))


def test_a_memory_read_at_the_answer_token_is_found_there_and_nowhere_else():
    """Block 1 writes one direction into leaked items where their answer is said, and into nothing else."""
    words = tiny.word_tokenizer()
    model = Model.wrap(tiny.model(vocab_size=len(words)), words, check=False)
    ask = [("+", "what is {} plus {} ?"), ("-", "what is {} take {} ?")]
    numbers = np.random.default_rng(0).integers(0, 10, (40, 3))
    items = [Item(f"q{i:02d}", ask[i // 2 % 2][1].format(a, b), f"ans {c}", "leaked" if i % 2 else "unseen")
             for i, (a, b, c) in enumerate(numbers)]  # fmt: skip
    (batch,) = model.batches(Prompts(tuple(items)), batch_size=40)
    said = torch.zeros_like(batch.mask)
    for row, item in enumerate(batch.items):  # "ans" is where the number is decided
        said[row, -2] = item.group == "leaked"
    written = 3 * torch.nn.functional.one_hot(torch.tensor(5), 32).float()
    with model.edited(add("mlp_out.1", written, said)):
        told = {p: trajectories(model, Prompts(tuple(items)), pooling=p, batch_size=40, permutations=200, draws=100)
                for p in ("last_prompt", "mean_prompt", "answer_first", "answer_last", "answer")}  # fmt: skip
    places = {p: r.claims[0].place if r.claims[0].is_found else None for p, r in told.items()}
    assert places == {"last_prompt": None, "mean_prompt": None, "answer_first": None,
                      "answer_last": "layer 1", "answer": "layer 1"}  # fmt: skip
