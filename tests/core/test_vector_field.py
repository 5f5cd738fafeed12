"""Vector fields: a linear system recovered, the integrator against expm, the interpolated means."""

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from analyses.states._vector_field import fit_field, integrate
from probe.errors import InputError


def test_regression_recovers_a_linear_system():
    """h_(l+1) = (I + A) h_l: the ridge part is A, and held-out updates are predicted."""
    rng = np.random.default_rng(1)
    a = 0.2 * rng.normal(size=(3, 3))
    states = [rng.normal(size=(80, 3))]
    for _ in range(5):
        states.append(states[-1] @ (np.eye(3) + a).T)
    z = np.stack(states, axis=1)
    field = fit_field(z[:60], hidden=8, steps=0, kind="regression", seed=[0])
    found = (field.linear.detach() * field.scale / field.scale_h).numpy()
    np.testing.assert_allclose(found, a, atol=1e-6)
    np.testing.assert_allclose(field.updates(z[60:], "regression"), np.diff(z[60:], axis=1), atol=1e-5)


def test_integration_matches_expm_with_fourth_order_error():
    a = torch.tensor([[0.0, 1.0], [-1.0, -0.1]], dtype=torch.float64)
    start = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    exact = np.stack([expm(a.numpy() * t) @ start[0].numpy() for t in range(4)])
    errors = [np.abs(integrate(lambda t, h: h @ a.T, start, 3, step)[0].numpy() - exact).max() for step in (0.5, 0.25)]
    assert errors[0] < 2e-3 and 12 < errors[0] / errors[1] < 20
    still = integrate(lambda t, h: torch.zeros_like(h), start, 3)
    assert (still == start).all()


def test_the_curve_of_means_is_read_between_layers():
    from analyses.states._vector_field import _at

    curve = torch.tensor([[0.0], [2.0], [6.0]])
    read = [_at(curve, torch.tensor(t)).item() for t in (0.0, 0.5, 1.0, 1.75, 2.0, 9.0)]
    assert read == [0.0, 1.0, 2.0, 5.0, 6.0, 6.0]


def test_a_constant_state_is_modelled_and_a_broken_one_refused():
    z = np.zeros((5, 3, 2))
    assert (fit_field(z, hidden=4, steps=3, kind="trajectory", seed=[1]).updates(z, "trajectory") == 0).all()
    with pytest.raises(InputError, match="not finite"):
        fit_field(np.full((5, 3, 2), np.nan), hidden=4, steps=0, kind="regression", seed=[0])
