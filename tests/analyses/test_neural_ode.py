"""Neural ODE: linear systems recovered, expm matched, a planted bifurcation found, no localisation without R2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analyses.core.claim import sentence
from analyses.states import _integrated
from analyses.states import neural_ode as module
from analyses.states._part_claims import parted
from analyses.states.neural_ode import neural_ode
from probe.errors import InputError
from tests import tiny
from tests.planted import states_of

FAST = {"components": 4, "hidden": 8, "updates": 10, "seeds": 2, "permutations": 60, "draws": 30}


def example(folder: Path) -> dict:
    """For the contract tests: a tiny model and a small network."""
    from tests.tiny import twelve_items

    return {"model": str(tiny.save(folder / "m")), "prompts": twelve_items(), **FAST}


def bit_system(seed: int = 0, *, n: int = 60, n_layers: int = 8, at: int = 5, size: float = 2.0, noise: float = 0.2):
    """Coordinate 0 holds the group as a sign; block `at` writes it into coordinate 1; else small noise."""
    rng = np.random.default_rng(seed)
    is_first = np.arange(n) < n // 2
    start = 0.3 * rng.normal(size=(n, 4))
    start[:, 0] += np.where(is_first, 1.0, -1.0)
    states = [start]
    for layer in range(n_layers):
        update = noise * rng.normal(size=(n, 4))
        update[:, 1] += size * np.tanh(3 * start[:, 0]) * (layer == at)
        states.append(states[-1] + update)
    return states_of(np.stack(states, axis=1), is_first)


def run(states, fit="regression", **changes):
    settings = {
        "fit": fit,
        "field_of": "items",
        "components": 4,
        "hidden": 16,
        "updates": 150,
        "held_out": 0.4,
    } | changes
    seeds = settings.pop("seeds", 3)
    return module.fitted(states, states.groups == "leak", None, seeds, 200, 100, 0, **settings)[1]


# ---- the field


# ---- localisation


@pytest.mark.parametrize("fit", ["regression", "trajectory"])
def test_a_planted_bifurcation_is_found_at_its_layer(fit):
    data = run(bit_system(), fit=fit, seeds=2)
    assert float(data["r2"].sel(layer=5)) > 0.3
    assert int(data["force_squared"].argmax("layer")) == 5 and float(data["p_value"].sel(layer=5)) < 0.02
    said = parted(data, ("leak", "stable"), "at the last prompt token", "fitted moves")
    assert said.is_found and said.place == "layer 5" and sentence(said).startswith("Fitted moves part leak and stable")


def test_the_field_at_group_means_finds_it_too_and_the_null_is_not_found():
    data = run(bit_system(), field_of="means", seeds=2)
    assert int(data["force_squared"].argmax("layer")) == 5 and float(data["p_value"].sel(layer=5)) < 0.02
    permuted = bit_system(seed=3)
    mixed = states_of(permuted.values, np.random.default_rng(0).permutation(permuted.groups == "leak"))
    assert not (run(mixed, field_of="means", seeds=2)["p_value"] <= 0.02).any()


def test_a_linear_field_at_means_is_its_mean_over_items():
    from analyses.states._energy_distance import layer_statistics

    rng = np.random.default_rng(0)
    z, matrix = rng.normal(size=(12, 4, 3)), rng.normal(size=(3, 3))

    class Linear:
        def updates(self, states, fit):
            return states[:, :-1] @ matrix

    weights = [rng.integers(0, 3, (5, 12)).astype(float) + 0.1 for _ in range(2)]
    found = module._at_means(weights, Linear(), z, z, "regression")
    for layer in range(3):
        moved = z[:, layer] @ matrix
        wanted = layer_statistics(moved @ moved.T, *weights)
        assert found["force_squared"][:, layer] == pytest.approx(wanted["force"] ** 2)
        assert found["velocity_difference"][:, layer] == pytest.approx(wanted["velocity_difference"])


def test_without_predictable_updates_nothing_is_localised():
    """Updates that are noise: R2 <= 0, force not measured."""
    data = run(bit_system(size=0.0), updates=40)
    hidden = data["r2"].to_numpy() <= 0
    assert hidden.sum() >= 6
    assert (
        np.isnan(data["force_squared"].to_numpy()[hidden]).all() and np.isnan(data["p_value"].to_numpy()[hidden]).all()
    )
    nowhere = data.isel(layer=np.flatnonzero(hidden))
    said = parted(nowhere, ("leak", "stable"), "at the last prompt token", "fitted moves")
    assert said.answer == "cannot be judged" and said.why.startswith("the field predicts no held-out update")


def test_permuted_labels_find_nothing():
    states = bit_system()
    states.groups = np.random.default_rng(3).permutation(states.groups)
    p = run(states)["p_value"].to_numpy()
    assert np.nanmin(p) > 0.05


def test_shuffled_later_states_change_the_answer():
    """A fit that ignores states 3..L cannot localise: here they matter."""
    states = bit_system()
    before = run(states, updates=20, seeds=1)["force_squared"].to_numpy()
    states.values[:, 3:] = states.values[:, 3:][:, ::-1]
    after = run(states, updates=20, seeds=1)["force_squared"].to_numpy()
    assert np.nan_to_num(before - after).any()


def test_r2_is_of_items_the_fit_has_not_seen():
    """Wide network, pure noise: a fit scored on its own items would have R2 near 1."""
    data = run(bit_system(size=0.0, n=24), hidden=64, updates=150, seeds=2)
    assert float(data["r2"].mean()) < 0.1


def test_refitting_under_permuted_labels_is_a_null_too():
    states = bit_system(n=40, n_layers=3, at=1)
    settings = {"fit": "regression", "field_of": "items", "components": 4, "hidden": 4, "updates": 5, "held_out": 0.4}

    def fit(y):
        return module.fitted(states, y, None, 1, 40, 2, 0, **settings)

    is_first = states.groups == "leak"
    p = _integrated.refitted_p(fit, fit(is_first)[1], is_first, None, 19, 0)
    mixed = np.random.default_rng(1).permutation(is_first)
    assert p == 1 / 20 and _integrated.refitted_p(fit, fit(mixed)[1], mixed, None, 19, 0) > 1 / 20
    assert np.isnan(_integrated.refitted_p(fit, fit(is_first)[1], is_first, None, 0, 0))


def test_a_second_fit_is_left_out_where_it_would_take_hours():
    assert module._fits("auto", 60, 28) == (["regression", "trajectory"], [])
    fits, (said,) = module._fits("auto", 2000, 28)
    assert fits == ["regression"] and "not integrated" in said


# ---- on a model


def test_on_a_model(base, prompts):
    result = neural_ode(base, prompts, **FAST)
    assert len(result.table) == 12 * base.shape.n_layers and result.data["r2_by_seed"].dims == ("split", "layer")
    assert result.data["force_squared_null"].shape == (60, base.shape.n_layers)
    assert set(module.figures(result)) == {"r2", "force_squared", "velocity_difference", "bifurcation"}
    assert {"r2_integrated", "r2_integrated_ci_low", "p_value_integrated"} <= set(result.data)
    assert result.data["path_1"].dims == ("variant", "group", "state")
    observed, integrated = (
        result.data["path_1"].sel(variant="observed"),
        result.data["path_1"].sel(variant="integrated"),
    )
    np.testing.assert_allclose(observed.sel(state=0), integrated.sel(state=0))


def test_bad_input_is_refused(base, prompts):
    with pytest.raises(InputError, match="at least 6 in each"):
        neural_ode(base, prompts.limit(10))
    with pytest.raises(InputError, match=r"held_out=1\.5"):
        neural_ode(base, prompts, held_out=1.5)
    with pytest.raises(InputError, match="seeds=0"):
        neural_ode(base, prompts, seeds=0)
