"""A vector field dh/dt = f(h, t) over layers: fitted to updates or to trajectories, and integrated."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from probe.errors import InputError
from probe.lazily import sklearn

Array: TypeAlias = np.ndarray
Kind: TypeAlias = Literal["regression", "trajectory"]


class VectorField(nn.Module):
    """f(h, t) = m(t) + s (B u + g(u, t)) with u = (h - mean(t)) / s_h; time in layers, curves interpolated.

    m(t) and mean(t) are the training items' mean update and mean state: what the network has to add is what depends
    on the item. g starts at 0, so that the field starts as the ridge regression B.
    """

    def __init__(self, states: Tensor, updates: Tensor, linear: Tensor, hidden: int) -> None:
        super().__init__()
        k = states.shape[-1]
        self.mean_state, self.mean_update = states.mean(0), updates.mean(0)
        self.scale_h = (states - self.mean_state).std().clamp(min=1e-12)
        self.scale = (updates - self.mean_update).std().clamp(min=1e-12)
        self.linear = nn.Parameter(linear * self.scale_h / self.scale)
        last = nn.Linear(hidden, k)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.network = nn.Sequential(nn.Linear(k + 1, hidden), nn.Tanh(), last)

    def forward(self, t: Tensor, h: Float[Tensor, "... component"]) -> Float[Tensor, "... component"]:
        """f at time t (a scalar, or one per row of h)."""
        last = len(self.mean_update)
        u = (h - _at(self.mean_state, t)) / self.scale_h
        time = (t / last).expand(h.shape[:-1]).unsqueeze(-1).to(h.dtype)
        deviation = u @ self.linear.T + self.network(torch.cat([u, time], -1))
        return _at(self.mean_update, t) + self.scale * deviation

    def updates(self, z: Array, kind: Kind) -> Array:
        """Predicted updates [item, layer, component]: f at each state, or differences of the integrated path."""
        states = torch.as_tensor(z, dtype=torch.float64)
        with torch.no_grad():
            if kind == "regression":
                times = torch.arange(states.shape[1] - 1, dtype=torch.float64)
                return self(times, states[:, :-1]).numpy()
            path = integrate(self, states[:, 0], states.shape[1] - 1)
            return path.diff(dim=1).numpy()


def _at(curve: Float[Tensor, "time component"], t: Tensor) -> Tensor:
    """A curve known at 0, 1, 2, ... read at t: linear in between, constant beyond the ends."""
    t = t.clamp(0, len(curve) - 1)
    left = t.floor().long().clamp(max=max(len(curve) - 2, 0))
    right = (left + 1).clamp(max=len(curve) - 1)
    share = (t - left).unsqueeze(-1)
    return curve[left] * (1 - share) + curve[right] * share


def integrate(field: object, start: Float[Tensor, "item component"], n_layers: int, step: float = 0.5) -> Tensor:
    """Path [item, state, component] from `start` over t = 0 .. n_layers, by fourth-order Runge-Kutta (torchdiffeq)."""
    from torchdiffeq import odeint

    times = torch.arange(n_layers + 1, dtype=start.dtype)
    path = odeint(field, start, times, method="rk4", options={"step_size": step})
    assert isinstance(path, Tensor)
    return path.movedim(0, 1)


def fit_field(z: Array, *, hidden: int, steps: int, kind: Kind, seed: list[int], rate: float = 3e-3) -> VectorField:
    """A field fitted to states [item, state, component] of the training items.

    Args:
        z: states.
        hidden: width of the network.
        steps: optimiser steps (0: the ridge regression as it is).
        kind: least squares on updates, or (started there) on integrated states.
        seed: of the initialisation.
        rate: of Adam.

    Raises:
        InputError: states that are not finite or do not vary.
    """
    if not np.isfinite(z).all():
        raise InputError("states are not finite: no field can be fitted")
    states = torch.as_tensor(z, dtype=torch.float64)
    updates = states.diff(dim=1)
    torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    field = VectorField(states, updates, _ridge(states, updates), hidden).double()
    times = torch.arange(states.shape[1] - 1, dtype=torch.float64)
    _descend(field, lambda: ((field(times, states[:, :-1]) - updates) / field.scale).square().mean(), steps, rate)
    if kind == "trajectory":
        spread = (states - states.mean(0)).std().clamp(min=1e-12)
        n_layers = states.shape[1] - 1

        def loss() -> Tensor:
            return ((integrate(field, states[:, 0], n_layers, 1.0) - states) / spread).square().mean()

        _descend(field, loss, max(steps // 5, 1) if steps else 0, rate)
    return field


def _descend(field: VectorField, loss: Any, steps: int, rate: float) -> None:
    optimiser = torch.optim.AdamW(field.parameters(), lr=rate, weight_decay=1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()


def _ridge(states: Tensor, updates: Tensor) -> Tensor:
    """Linear map from state to update deviations, its penalty chosen by generalised cross-validation."""
    k = states.shape[-1]
    x = (states - states.mean(0))[:, :-1].reshape(-1, k).numpy()
    y = (updates - updates.mean(0)).reshape(-1, k).numpy()
    scale = float((x**2).sum(0).max())
    if scale == 0:
        return torch.zeros(k, k, dtype=torch.float64)
    alphas = scale * np.array([1e-10, 1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    fit = sklearn.linear_model.RidgeCV(alphas=alphas, fit_intercept=False).fit(x, y)
    return torch.as_tensor(np.asarray(fit.coef_, dtype=float).reshape(k, k))
