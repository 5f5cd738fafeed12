"""Runs of an intervention and of its placebos on the teacher-forced answer, all of a batch replayed together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from analyses.core.progress import progress
from analyses.core.reading.outcomes import graded, one_per_id
from analyses.steering._steered_generation import steered_completions
from probe.errors import InputError
from probe.interventions import Edit
from probe.replay import Clean, Metric, RunNotFiniteError, answer_logprob, replay
from probe.sites import Site

if TYPE_CHECKING:
    from analyses.core.reading.grading import Grader
    from analyses.steering._neurons import Selection
    from probe import Model, Prompts, TokenBatch

PLACEBOS = ("random_neurons", "matched_neurons", "random_direction")


@dataclass(frozen=True)
class EditedRun:
    """The edits of one run and the columns that name it."""

    columns: Mapping[str, Any]
    edits: Sequence[Edit]


def responses(
    model: Model,
    batches: Sequence[TokenBatch],
    runs_of: Callable[[Clean], Iterable[EditedRun]],
    *,
    what: str,
    metric: Callable[[TokenBatch], Metric] = answer_logprob,
) -> pd.DataFrame:
    """One row per run and item: the run's columns, item, group, answer_kind, metric.

    Raises:
        InputError: a metric that is not finite, with the run that made it so.
    """
    tables: list[pd.DataFrame] = []
    for batch in progress(batches, what, total=len(batches)):
        clean = Clean(model, batch)
        runs = list(runs_of(clean))
        edits = [[_guarded(edit, run) for edit in run.edits] for run in runs]
        try:
            values = replay(clean, edits, metric(clean.batch)).cpu().numpy()
        except RunNotFiniteError as error:
            raise InputError(
                f"the run with {_named(runs[error.run])} overflows; use a smaller dose ({error})"
            ) from error
        tables += [_rows(batch, run, value) for run, value in zip(runs, values, strict=True)]
    return pd.concat(tables, ignore_index=True)


def top1_share(batch: TokenBatch) -> Metric:
    """Share of the answer's tokens that are the top prediction when forced; 1: greedy decoding gives this answer."""
    rows, targets = answer_logprob(batch).rows, torch.roll(batch.ids, -1, dims=1)

    def top(logits: Tensor, item: Tensor, pos: Tensor) -> Tensor:
        return (logits.argmax(-1) == targets.to(logits.device)[item, pos]).float()

    return Metric("top1", "fraction of answer tokens", rows, top)


def _guarded(edit: Edit, run: EditedRun) -> Edit:
    """The edit, refusing values whose squares leave float32: a norm would turn them into finite nonsense."""

    def checked(x: Tensor) -> Tensor:
        new = edit.function(x)
        if not float(new.abs().max()) <= LARGEST:
            raise InputError(f"the run with {_named(run)} overflows at {edit.site}; use a smaller dose")
        return new

    return replace(edit, function=checked)


LARGEST = 1e15  # its square, times weights and summed over a layer, is still far from float32's 3e38


def _named(run: EditedRun) -> str:
    return ", ".join(f"{name}={value}" for name, value in run.columns.items())


def _rows(batch: TokenBatch, run: EditedRun, values: Float[np.ndarray, " item"]) -> pd.DataFrame:
    items = {"item": [i.id for i in batch.items], "group": [i.group for i in batch.items]}
    items["answer_kind"] = [i.answer_kind for i in batch.items]
    return pd.DataFrame({**run.columns, **items, "metric": values.astype(float)})


def scale_keys(layer: int, alpha: float, chosen: Bool[Tensor, "item neuron"], phase: str = "every_step") -> Edit:
    """The edit k_i -> alpha k_i of the chosen neurons at every position; bitwise nothing at alpha = 1."""
    factor = torch.where(chosen, alpha, 1.0)[:, None, :]
    return Edit(Site("mlp_post", layer), lambda x: x * factor.to(x), "all", phase)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Placebos:
    """What a layer's treatment is held against.

    `neurons`: name -> for a batch, the masks of each draw. `directions`: number of random directions with, at
    every position, the norm of what the treatment changed there.
    """

    neurons: Mapping[str, Callable[[TokenBatch], Sequence[Bool[Tensor, "item neuron"]]]]
    directions: int
    seed: int


def key_arms(
    clean: Clean,
    layer: int,
    alphas: Sequence[float],
    treatment: str,
    chosen: Bool[Tensor, "item neuron"],
    placebos: Placebos,
) -> Iterable[EditedRun]:
    """The runs of one layer on one batch: the treatment, then each placebo's draws, at every dose."""
    base = {"layer": layer}
    written = {a: _written(clean, layer, scale_keys(layer, a, chosen)) for a in alphas if placebos.directions}
    drawn = {arm: masks(clean.batch) for arm, masks in placebos.neurons.items()}
    for alpha in alphas:
        yield EditedRun({**base, "arm": treatment, "draw": 0, "alpha": alpha}, [scale_keys(layer, alpha, chosen)])
        for arm, masks in drawn.items():
            for draw, mask in enumerate(masks):
                yield EditedRun({**base, "arm": arm, "draw": draw, "alpha": alpha}, [scale_keys(layer, alpha, mask)])
        for draw in range(placebos.directions):
            unit = direction(clean.model.shape.d_model, placebos.seed, layer, draw).to(clean.batch.ids.device)
            push = add_sized(Site("mlp_out", layer), unit, written[alpha] * np.sign(alpha - 1))
            yield EditedRun({**base, "arm": "random_direction", "draw": draw, "alpha": alpha}, [push])


def completions(
    model: Model,
    prompts: Prompts,
    arms: Mapping[int, tuple[str, Selection, Placebos]],
    alphas: Sequence[float],
    grade: Grader,
    **how: Any,
) -> pd.DataFrame:
    """Greedy responses under the treatment and one draw of each neuron placebo at every dose, graded.

    Random directions are not generated: their size is set by what the treatment changes at each position, which a
    generated text has no clean run for.

    Args:
        model: the checkpoint.
        prompts: items; one response serves all kinds of answer of an id.
        arms: layer -> name of the treatment, its neurons, its placebos.
        alphas: doses.
        grade: grades a response against its item.
        how: of `steered_completions`.
    """

    asked = one_per_id(prompts)
    found: list[pd.DataFrame] = []
    for layer, (treatment, selection, placebos) in arms.items():
        batch = model.batches(asked.limit(1), batch_size=1)[0]
        masks = {treatment: selection.mask(layer, batch)[0]}
        masks |= {arm: drawn(batch)[0][0] for arm, drawn in placebos.neurons.items()}
        cells = [(arm, alpha) for arm in masks for alpha in alphas]
        factors = torch.stack([torch.where(masks[arm], alpha, 1.0) for arm, alpha in cells])
        done = steered_completions(model, asked, layer, factors, **how)
        for (arm, alpha), answers in zip(cells, done, strict=True):
            table = graded(prompts, {c.item.id: c.text for c in answers}, grade)
            found.append(table.assign(layer=layer, arm=arm, draw=0, alpha=alpha))
    return pd.concat(found, ignore_index=True)


def _written(clean: Clean, layer: int, edit: Edit) -> Float[Tensor, "item pos"]:
    """Norm of the change in what the block adds to the residual stream, after any post-norm."""
    site = Site("mlp_out", layer)
    edited = clean.model.run(clean.batch, [site], [edit], logits="none")[site]
    return (edited - clean.value(site).to(edited.device)).norm(dim=-1).to(clean.batch.ids.device)


def direction(size: int, seed: int, *names: object) -> Float[Tensor, " d_model"]:
    """A random unit vector, the same for the same seed and names."""
    drawn = torch.randn(size, generator=stream(seed, "direction", *names))
    return drawn / drawn.norm()


def stream(seed: int, *names: object) -> torch.Generator:
    """A random stream of its own for each use, so that one choice does not move another."""
    text = "/".join(map(str, (seed, *names)))
    return torch.Generator().manual_seed(int(hashlib.sha256(text.encode()).hexdigest()[:15], 16))


def add_sized(site: Site, unit: Float[Tensor, " d_model"], size: Float[Tensor, "item pos"]) -> Edit:
    """The edit that adds a direction with a size of its own at every position."""
    shift = size[..., None] * unit
    return Edit(site, lambda x: x + shift.to(x))


def as_mask(neurons: Sequence[int] | Int[Tensor, " neuron"], d_mlp: int) -> Bool[Tensor, " neuron"]:
    """The neurons as a mask.

    Raises:
        InputError: a neuron that does not exist.
    """
    index = torch.as_tensor(neurons, dtype=torch.long)
    bad = index[(index < 0) | (index >= d_mlp)].tolist()
    if bad:
        raise InputError(f"neurons {bad[:5]} do not exist: this model has {d_mlp} per layer (0 to {d_mlp - 1})")
    return torch.zeros(d_mlp, dtype=torch.bool).scatter(0, index, True)


def drawn_neurons(
    kind: str, selection: Selection, layer: int, draws: int, seed: int
) -> Callable[[TokenBatch], Sequence[Bool[Tensor, "item neuron"]]]:
    """For a batch, the masks of each draw of a placebo made of other neurons of the same layer."""

    if kind not in PLACEBOS[:2]:
        raise InputError(f"placebo {kind!r}; expected one of {PLACEBOS[:2]}")

    def one(chosen: Tensor, *names: object) -> Tensor:
        generator = stream(seed, kind, layer, *names)
        if kind == "random_neurons":
            return random_neurons(chosen, generator)
        return matched_neurons(chosen, selection.size[layer], generator)

    if not selection.own:
        fixed = [one(selection.fixed[layer], draw)[None] for draw in range(draws)]
        return lambda batch: [mask.to(batch.ids.device) for mask in fixed]
    # A stream per item, so that an item's placebo does not depend on what shares its batch.
    return lambda batch: [
        torch.stack([one(selection.of(layer, i), draw, *i.key) for i in batch.items]).to(batch.ids.device)
        for draw in range(draws)
    ]


def random_neurons(chosen: Bool[Tensor, " neuron"], generator: torch.Generator) -> Bool[Tensor, " neuron"]:
    """As many neurons as were chosen, drawn from the others."""
    order = torch.rand(chosen.shape, generator=generator).masked_fill(chosen, 2.0)
    return torch.zeros_like(chosen).scatter(0, order.argsort()[: int(chosen.sum())], True)


def matched_neurons(
    chosen: Bool[Tensor, " neuron"], size: Float[Tensor, " neuron"], generator: torch.Generator
) -> Bool[Tensor, " neuron"]:
    """For each chosen neuron another one, not chosen, of nearly the same size |k|: one of the nearest, at random.

    Without replacement, the largest first (they have the fewest neighbours).
    """
    out, free = torch.zeros_like(chosen), ~chosen
    for neuron in sorted(chosen.nonzero().flatten().tolist(), key=lambda n: -float(size[n])):
        gap = (size - size[neuron]).abs().masked_fill(~free, torch.inf)
        near = gap.topk(min(NEIGHBOURS, int(free.sum())), largest=False).indices
        pick = int(near[torch.randint(len(near), (), generator=generator)])
        out[pick], free[pick] = True, False
    return out


NEIGHBOURS = 5  # of the nearest in |k|: few enough to match, enough for draws to differ


def halves(prompts: Prompts, groups: Sequence[str], share: float, seed: int) -> tuple[Prompts, Prompts]:
    """Items to choose on and items to measure on: a seeded draw of ids within each target group; all others measure.

    Raises:
        InputError: a group that does not exist, or one whose split would leave a side empty.
    """
    if not 0 < share < 1:
        raise InputError(f"selection_share={share}; expected a number between 0 and 1")
    choosing: set[str] = set()
    for group in target_groups(prompts, groups):
        ids = list(dict.fromkeys(i.id for i in prompts.items if i.group == group))
        count = round(share * len(ids))
        if not 0 < count < len(ids):
            raise InputError(
                f"an empty split: group {group!r} has {len(ids)} item(s), of which {count} would choose neurons "
                "and the rest be measured; give more items, another selection_share, or selection='item'"
            )
        order = torch.randperm(len(ids), generator=stream(seed, "split", group)).tolist()
        choosing |= {ids[i] for i in order[:count]}
    chooses = tuple(i for i in prompts.items if i.id in choosing)
    return replace(prompts, items=chooses), replace(
        prompts, items=tuple(i for i in prompts.items if i.id not in choosing)
    )


def target_groups(prompts: Prompts, groups: Sequence[str]) -> tuple[str, ...]:
    """The named groups, which must exist; all of them if none is named."""
    absent = sorted(set(groups) - set(prompts.groups))
    if absent:
        raise InputError(f"no items of group {absent}; the groups are {list(prompts.groups)}")
    return tuple(groups) or prompts.groups
