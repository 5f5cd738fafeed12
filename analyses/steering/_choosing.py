"""Which neurons are steered: chosen on items by their score, or given; and in which layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import probe
from analyses.steering._arms import as_mask, halves, target_groups
from analyses.steering._neurons import ReadAt, Score, choose
from probe.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from analyses.core.result import Result
    from analyses.steering._neurons import Selection
    from probe import Model, Prompts, TokenBatch

OWN = "selection=item: each item's neurons were chosen with the answer they are measured on"


@dataclass(frozen=True)
class Choosing:
    """How neurons are chosen.

    `targets`: groups for whose answers, all where none is named. `score`, `bonus`, `read_at`, `top_n`: of
    `_neurons.choose`. `is_own`: for each item by itself, else once on `share` of the target items, drawn by `seed`,
    and measured on the rest. `is_first`: on the first target item, as published, and measured on all.
    """

    layers: Sequence[int]
    targets: Sequence[str]
    score: Score
    bonus: float
    read_at: ReadAt
    top_n: int
    is_own: bool
    share: float
    seed: int
    is_first: bool = False

    def split(self, prompts: Prompts) -> tuple[Prompts, Prompts]:
        """Items to choose on and items to measure; of a whole layer nothing is chosen, so all are measured."""
        if self.is_own:
            return prompts, prompts
        if self.is_first:
            return prompts.where(group=target_groups(prompts, self.targets)).limit(1), prompts
        if not self.top_n:
            return prompts.where(group=target_groups(prompts, self.targets)), prompts
        return halves(prompts, self.targets, self.share, self.seed)

    def chosen(self, model: Model, prompts: Prompts, tokenized: Mapping[str, Any]) -> tuple[Selection, Prompts]:
        """The neurons of every layer, and the items to measure them on.

        Args:
            model: the checkpoint.
            prompts: all items.
            tokenized: how batches are made of them (batch_size, template, boundary).
        """
        chooses, measures = self.split(prompts)
        found = choose(
            model, model.batches(chooses, **tokenized), self.layers, self.top_n,
            score=self.score, bonus=self.bonus, read_at=self.read_at, is_own=self.is_own,
        )  # fmt: skip
        return found, measures


def given(model: Model, batches: Sequence[TokenBatch], layers: Sequence[int], neurons: pd.DataFrame) -> Selection:
    """The neurons a table names, with the sizes of all that placebos are matched by.

    Args:
        model: the checkpoint.
        batches: items on which sizes |k| are measured.
        layers: layers that are steered.
        neurons: columns `layer` and `neuron`.

    Raises:
        InputError: no such columns, a layer of which none is named, or a neuron that does not exist.
    """
    missing = sorted({"layer", "neuron"} - set(neurons.columns))
    if missing:
        raise InputError(f"neurons has no column {missing}; it has {list(neurons.columns)}")
    without = sorted(set(layers) - set(neurons["layer"]))
    if without:
        raise InputError(
            f"neurons names none in layers {without}; name the layers it has: {sorted(set(neurons['layer']))}"
        )
    d_mlp = model.shape.d_mlp
    fixed = {n: as_mask(neurons.loc[neurons["layer"] == n, "neuron"].astype(int).tolist(), d_mlp) for n in layers}
    return replace(choose(model, batches, layers, 1, bonus=0.0), fixed=fixed, score={}, own={})


def layers_of(model: Model, layers: Sequence[str], verdict: Result | None, role: str) -> tuple[list[int], list[str]]:
    """Layers to steer, and what to know about them.

    Args:
        model: the checkpoint.
        layers: layer numbers, or `all`, or `from-verdict`.
        verdict: a result of anchor_adapter, for `from-verdict`.
        role: which of its windows is taken, `anchor` or `adapter`.

    Raises:
        InputError: a layer that does not exist, no verdict, or one of another model or without such a window.
    """
    if tuple(layers) == ("from-verdict",):
        return _found(model, verdict, role)
    if tuple(layers) == ("all",):
        return list(range(model.shape.n_layers)), []
    wrong = [x for x in layers if not str(x).lstrip("-").isdigit()]
    if wrong or not layers:
        raise InputError(f"layers={list(layers)}: {wrong or 'none'}; expected layer numbers, all or from-verdict")
    return probe.weights.check_layers(model, sorted({int(x) for x in layers})), []


def _found(model: Model, verdict: Result | None, role: str) -> tuple[list[int], list[str]]:
    if verdict is None:
        raise InputError(
            "layers=from-verdict needs an anchor_adapter result: give --anchor-adapter KEY, or name layers"
        )
    depth = verdict.data.sizes.get("layer", model.shape.n_layers)
    if depth != model.shape.n_layers:
        raise InputError(
            f"the verdict is about a model of {depth} layers, this one has {model.shape.n_layers}; name layers"
        )
    rows = verdict.table[verdict.table["role"] == role]
    if rows.empty or rows["first_layer"].isna().all():
        raise InputError(f"the verdict is: {verdict.verdict} There is no {role} to steer; name layers to steer anyway")
    row = rows.iloc[0]
    note = (
        [] if row["verdict"] == role else [f"the verdict on the {role} is {row['verdict']}: its best window is steered"]
    )
    return list(range(int(row["first_layer"]), int(row["last_layer"]) + 1)), note
