"""Rotation of states: planes recovered with their angle, a planted one found on new items, shifts and noise not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.linalg import block_diag

from analyses.states import activation_rotation as module
from analyses.states.activation_rotation import activation_rotation, angle_of, best_rotation, held_out, rotated
from probe.errors import InputError


def plane(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def test_angles_of_planes_add_in_quadrature() -> None:
    assert angle_of(plane(0.4)) == pytest.approx(0.4)
    assert angle_of(block_diag(plane(0.4), plane(0.4))) == pytest.approx(0.5657, abs=1e-4)
    assert angle_of(np.eye(5)) == 0
    assert angle_of(np.diag([1.0, 1, -1])) == pytest.approx(np.pi / 2**0.5)


def test_a_rotated_copy_is_recovered_exactly() -> None:
    rng = np.random.default_rng(0)
    x, q = rng.normal(size=(30, 5)), block_diag(plane(0.7), plane(0.2), [[1.0]])
    np.testing.assert_allclose(best_rotation(x - x.mean(0), (x - x.mean(0)) @ q), q, atol=1e-12)
    found = rotated(x, x @ q + 3, 5)
    assert found["fit"] == pytest.approx(1) and found["angle"] == pytest.approx(np.hypot(0.7, 0.2))
    assert found["unmoved"] < 1 and found["angle_mean"] == pytest.approx(0, abs=1e-4)
    same = rotated(x, x, 5)
    assert (same["angle"], same["fit"], same["unmoved"], same["angle_1"]) == (0, 1, 1, 0)
    assert np.isnan(rotated(np.ones((8, 4)), x[:8, :4], 2)["angle"])


def claim(change, n: int = 40, states: int = 3, seed: int = 0):
    rng = np.random.default_rng(seed)
    halves = rng.permutation(n) < n // 2
    rows = []
    for state in range(states):
        x = rng.normal(size=(n, 8)) * np.linspace(2, 0.5, 8)
        y = change(x, rng, state)
        rows.append(pd.DataFrame({"item": np.arange(n), "state": state, **held_out(x, y, 4, halves)}))
    return module._claim(pd.concat(rows), n, "at the last prompt token")


def test_a_planted_rotation_is_found_and_shifts_and_noise_are_not() -> None:
    q = block_diag(plane(0.8), np.eye(6))
    found = claim(lambda x, r, s: x @ q + 0.1 * r.normal(size=x.shape) if s == 1 else x + 0.3 * r.normal(size=x.shape))
    assert found.is_found and found.place == "state 1" and found.low > 0
    shift = claim(lambda x, r, s: x + 5.0)
    assert shift.answer == "none found"
    noise = [claim(lambda x, r, s: x + r.normal(size=x.shape), seed=s).answer for s in range(15)]
    assert noise.count("found") <= 2
    assert claim(lambda x, r, s: x).answer == "none found"
    assert claim(lambda x, r, s: x @ q, n=6).answer == "cannot be judged"


def test_on_a_model(base, tuned, prompts) -> None:
    result = activation_rotation(base, tuned, prompts, draws=5)
    assert len(result.table) == 12 * (base.shape.n_layers + 1) and result.data["angle"].dims == ("state",)
    with pytest.raises(InputError, match="components=1"):
        activation_rotation(base, tuned, prompts, components=1)
    with pytest.raises(InputError, match="at least 6"):
        activation_rotation(base, tuned, prompts.limit(5))
