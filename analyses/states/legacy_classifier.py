"""The published neural-ODE classifier, which cannot localise: kept to show that its peak has no tie to layers.

Definition: as in the released code of arXiv 2601.11061: the states of "question, answer", mean-pooled over tokens; an
    encoder of rows 0, 1 and 2 gives z(0); dz/dt = g(z) + Linear(t) is integrated over t = 0 .. L (fourth-order
    Runge-Kutta, step .5); a head on z(L) is trained to tell the groups (binary cross-entropy only). force(t) =
    |f(mean_leak z(t), t) - f(mean_stable z(t), t)|; velocity(t) = | |d mean_leak z/dt| - |d mean_stable z/dt| | by
    finite differences; importance = velocity + force (the published weight of the distance is 0).
Units: none: z is a learned space, t is not a layer.
Source: arXiv 2601.11061, released code (read, re-implemented). Departures: gradients through the solver, not by its
    adjoint (same values, faster); dropout and splits seeded.
Does not show: ANYTHING ABOUT LAYERS. Rows 3 .. L of the states enter neither the forward pass nor the loss, so
    exchanging them changes nothing (a test does that), and no peak of these curves can be a layer. Use trajectories
    (model-free) or neural_ode (fitted to all states, with held-out R2).
Control: trajectories and neural_ode on the same items; the same run with rows 3 .. L shuffled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.figures import curve
from analyses.core.reading.where_read import pooled_sites
from analyses.core.result import Result
from analyses.core.work import every_state
from probe.errors import InputError
from probe.lazily import torch

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from torch import Tensor, nn

    from analyses.core.reading.pooled import States
    from probe import Model, Prompts

ROWS = 3  # rows 0-2 are all that the encoder sees
WARNING = "this classifier cannot localise: states of later layers do not enter it, so its time axis is not depth"


@analysis(renamed={"width": "latent"}, work=every_state, reads=pooled_sites)
def legacy_classifier(
    model: Model,
    prompts: Prompts,
    *,
    groups: tuple[str, ...] = (),
    epochs: int = 50,
    latent: int = 128,
    learning_rate: float = 1e-3,
    template: Literal["none", "chat"] = "none",
    batch_size: int = 8,
    seed: int = 42,
) -> Result:
    """Force, velocity and importance of the published classifier over its own time, which is not depth.

    Rows: item, group, split (train, validation, test), probability (of the first group). Arrays over `state` (points of
    time that the paper reads as layers): force, velocity, importance; no interval, since no item enters them twice.

    Args:
        groups: the first is scored positive.
        epochs: passes over the training items.
        latent: of z; hidden layers are twice as wide.
        learning_rate: of Adam.
        seed: splits, initialisation and dropout.
    """

    first, second = reading.two_groups(prompts, groups)
    kept = prompts.where(group=[first, second])
    states = reading.pooled_states(model, kept, pooling="mean", what="states", batch_size=batch_size, template=template)
    table, data = classified(states, states.groups == first, epochs, latent, learning_rate, seed)
    verdict = f"none found, and none could be: {WARNING}"
    return Result.of(table, data.assign_attrs(groups=[first, second]), verdict=verdict, warnings=[WARNING])


def classified(
    states: States, is_first: np.ndarray, epochs: int, width: int, learning_rate: float, seed: int
) -> tuple[pd.DataFrame, xr.Dataset]:
    """The trained classifier's probabilities and curves."""
    if states.n_layers + 1 <= ROWS:
        raise InputError(f"{states.n_layers} layers: the classifier reads {ROWS} states and needs later ones to ignore")
    torch.manual_seed(seed)
    x = torch.as_tensor(np.concatenate([states.layer(r) for r in range(ROWS)], axis=1), dtype=torch.float32)
    y = torch.as_tensor(is_first, dtype=torch.float32)
    split = _splits(len(y), seed)
    network = _network(x.shape[1], width)
    _train(network, x, y, split, states.n_layers, epochs, learning_rate)
    network.eval()
    with torch.no_grad():
        path = _path(network, x, states.n_layers)
        probability = torch.sigmoid(network["head"](path[-1])).squeeze(-1).numpy()
        curves = _curves(network, path, is_first)
    table = pd.DataFrame({"item": states.ids, "group": states.groups, "split": split, "probability": probability})
    data = xr.Dataset({name: ("state", values, {"units": ""}) for name, values in curves.items()})
    return table.sort_values("item", kind="stable"), data.assign_coords(state=np.arange(states.n_layers + 1))


def _splits(n: int, seed: int) -> np.ndarray:
    """80/20 into rest and test, the rest 85/15 into train and validation, not stratified (as published)."""
    order = np.random.default_rng(seed).permutation(n)
    split = np.full(n, "train", dtype=object)
    n_test = max(1, round(0.2 * n))
    split[order[:n_test]] = "test"
    split[order[n_test : n_test + max(1, round(0.15 * (n - n_test)))]] = "validation"
    return split


def _network(inputs: int, width: int) -> torch.nn.ModuleDict:
    encoder = torch.nn.Sequential(
        torch.nn.Linear(inputs, 2 * width), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(2 * width, width)
    )
    field = torch.nn.Sequential(
        torch.nn.Linear(width, 2 * width),
        torch.nn.Tanh(),
        torch.nn.Linear(2 * width, 2 * width),
        torch.nn.Tanh(),
        torch.nn.Linear(2 * width, width),
    )
    for layer in field:
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=0.1)
            torch.nn.init.zeros_(layer.bias)
    head = torch.nn.Sequential(
        torch.nn.Linear(width, 2 * width), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(2 * width, 1)
    )
    return torch.nn.ModuleDict({"encoder": encoder, "field": field, "time": torch.nn.Linear(1, width), "head": head})


def _field(network: nn.ModuleDict, t: Tensor, z: Tensor) -> Tensor:
    return network["field"](z + network["time"](t.reshape(1, 1).to(z.dtype)))


def _path(network: nn.ModuleDict, x: Tensor, n_layers: int) -> Tensor:
    """z at t = 0 .. L, [time, item, width]."""
    from analyses.states._vector_field import integrate

    return integrate(lambda t, z: _field(network, t, z), network["encoder"](x), n_layers).movedim(1, 0)


def _train(
    network: nn.ModuleDict, x: Tensor, y: Tensor, split: np.ndarray, n_layers: int, epochs: int, rate: float
) -> None:
    optimiser = torch.optim.Adam(network.parameters(), lr=rate, weight_decay=1e-5)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, patience=5)
    loss_of = torch.nn.functional.binary_cross_entropy_with_logits
    train, validation = (torch.as_tensor(np.flatnonzero(split == s)) for s in ("train", "validation"))
    for _ in range(epochs):
        network.train()
        for rows in train[torch.randperm(len(train))].split(16):
            optimiser.zero_grad()
            loss_of(network["head"](_path(network, x[rows], n_layers)[-1]).squeeze(-1), y[rows]).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
        network.eval()
        with torch.no_grad():
            logits = network["head"](_path(network, x[validation], n_layers)[-1]).squeeze(-1)
            plateau.step(loss_of(logits, y[validation]))


def _curves(network: nn.ModuleDict, path: Tensor, is_first: np.ndarray) -> dict[str, np.ndarray]:
    means = [path[:, torch.as_tensor(rows)].mean(1) for rows in (is_first, ~is_first)]
    fields = [
        torch.stack([_field(network, torch.tensor(float(t)), z[None])[0] for t, z in enumerate(mean)]) for mean in means
    ]
    force = (fields[0] - fields[1]).norm(dim=-1).numpy()
    speeds = [torch.gradient(mean, dim=0)[0].norm(dim=-1).numpy() for mean in means]
    velocity = np.abs(speeds[0] - speeds[1])
    return {"force": force, "velocity": velocity, "importance": velocity + force}


def figures(result: Result) -> dict[str, Figure]:
    """The three curves, under a title that says what they cannot show."""

    rows = result.data[["force", "velocity", "importance"]].to_dataframe().reset_index()
    color = "step" if "step" in rows else None
    rows = rows.melt(id_vars=[c for c in ("state", "step") if c in rows], var_name="quantity")
    rows = rows.rename(columns={"state": "time"})
    title = "Legacy classifier over its own time: CANNOT LOCALISE, later layers do not enter it"
    return {"curves": curve(rows, x="time", color=color, facet="quantity", title=title, unit="")}
