"""Many edited runs of one batch, each equal to running it alone, at the least work.

A *lane* is one item of one run from the moment an edit changes it: its rows are the positions from the first
edited one to the last the metric reads (everything before is the clean run's, everything after is not read).
All lanes go through the blocks together, joined on the position axis, whatever block they began in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from probe.finite import NotFiniteError, advice, label
from probe.interventions import Edit, selected
from probe.replay import attention, inside
from probe.replay.budget import Budget, budget_of
from probe.replay.clean import CleanPass
from probe.replay.decoder import rows_of
from probe.replay.metric import Metric, of_rows
from probe.replay.passes import whole_run
from probe.replay.wave import Lane, Step, Wave, apply
from probe.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def replay(
    clean: CleanPass, runs: Sequence[Edit | Sequence[Edit]], metric: Metric, *, max_bytes: int | None = None
) -> Float[Tensor, "run item"]:
    """The metric of every edited run of the batch, as if each were run alone; in the metric's units, fp32.

    An edit whose new values equal the old ones to the last bit starts nothing: such a run gives the clean value
    exactly. Edits of one run see each other in the order of the forward pass.

    Args:
        clean: the unedited run of the batch.
        runs: an edit, or the edits of one run.
        metric: what is read; an item none of whose rows it reads gives NaN.
        max_bytes: memory that may be added; default a quarter of what is free, 2 GiB at most.

    Raises:
        InputError: a site this family does not have, a position outside an item, a wrong shape.
    """
    edits = [(run,) if isinstance(run, Edit) else tuple(run) for run in runs]
    rows = (metric.rows & clean.batch.mask.to(metric.rows.device)).cpu()
    stop = [int(r.nonzero().max()) + 1 if bool(r.any()) else 0 for r in rows]
    budget = budget_of(clean.decoder, clean.batch.ids.shape[1], max_bytes)
    with torch.no_grad():
        base = _clean_rows(clean, metric, rows, budget)
        mean = _mean(base, rows)
        out = mean.repeat(len(edits), 1)
        if clean.why_whole:
            for number, run in enumerate(edits):
                if run:
                    out[number] = _mean(whole_run(clean, run, metric, rows, budget.logits), rows)
            return out
        steps = [_steps(clean, number, run, stop) for number, run in enumerate(edits)]
        for members in _waves(steps, budget, stop):
            wave = Wave(clean, metric, budget, members, stop)
            for (run, item), values in _through(wave, rows).items():
                full = base[item].clone()
                full[values[0]] = values[1]
                out[run, item] = full[rows[item]].mean()
        _refuse_non_finite(clean, edits, metric, rows, out)
    return out


class RunNotFiniteError(NotFiniteError):
    """The metric of an edited run is NaN or infinite; `run` is its number."""

    run: int = 0


def _refuse_non_finite(
    clean: CleanPass, edits: Sequence[Sequence[Edit]], metric: Metric, rows: Tensor, out: Float[Tensor, "run item"]
) -> None:
    bad = ~out.isfinite() & rows.any(1)
    if not bool(bad.any()):
        return
    run, item = (int(n) for n in bad.nonzero()[0])
    sites = ", ".join(str(edit.site) for edit in edits[run]) or "nothing"
    what = f"{label(clean.model)}: {metric.name} with {sites} edited"
    error = RunNotFiniteError(what, clean.batch.items[item].id, None, advice(clean.model, bool(edits[run])))
    error.run = run
    raise error


def clean_metric(clean: CleanPass, metric: Metric, *, max_bytes: int | None = None) -> Float[Tensor, " item"]:
    """The metric of the unedited run.

    Args:
        clean: the unedited run.
        metric: what is read off the logits.
        max_bytes: memory that may be used, None for what is free.
    """
    return replay(clean, [()], metric, max_bytes=max_bytes)[0]


def _clean_rows(clean: CleanPass, metric: Metric, rows: Tensor, budget: Budget) -> Float[Tensor, "item pos"]:
    item, pos = rows.to(clean.decoder.device).nonzero(as_tuple=True)
    values = of_rows(metric, clean.decoder, clean.inputs[-1][item, pos], item, pos, budget.logits)
    out = torch.full(rows.shape, float("nan"))
    out[item.cpu(), pos.cpu()] = values.float().cpu()
    return out


def _mean(values: Tensor, rows: Tensor) -> Tensor:
    return torch.stack([v[r].mean() if bool(r.any()) else torch.tensor(float("nan")) for v, r in zip(values, rows)])


def _steps(clean: CleanPass, number: int, run: Sequence[Edit], stop: Sequence[int]) -> list[Step]:
    out: list[Step] = []
    for edit in run:
        site = clean.model.site(edit.site)
        mask = selected(edit, clean.batch).cpu()
        items = {i: tuple(p for p in m.nonzero().flatten().tolist() if p < stop[i]) for i, m in enumerate(mask)}
        layer, order = _place(site, clean)
        out.append(Step(number, edit, site, layer, order, mask, {i: p for i, p in items.items() if p}))
    return sorted(out, key=lambda s: (s.layer, s.order))


def _place(site: Site, clean: CleanPass) -> tuple[int, int]:
    """The block an edit belongs to, and its rank within: before the block's input is final, or inside it."""
    if site.kind == "resid_post":
        return int(site.layer or 0) + 1, -2
    if site.kind in ("embed", "resid_pre"):
        return int(site.layer or 0), -3 if site.kind == "embed" else -1
    if site.kind in ("ln_final", "logits"):
        return clean.n_layers, 1 if site.kind == "ln_final" else 2
    return int(site.layer or 0), inside.rank(clean.decoder.map, site)


def _waves(steps: Sequence[list[Step]], budget: Budget, stop: Sequence[int]) -> Iterable[list[Step]]:
    """Runs grouped so that their rows fit the budget, those that begin in the same block together."""
    members: list[Step] = []
    rows = 0
    for run in sorted((r for r in steps if r), key=lambda r: r[0].layer):
        need = sum(stop[i] - min(s.items[i][0] for s in run if i in s.items) for i in {i for s in run for i in s.items})
        if members and rows + need > budget.kept:
            yield members
            members, rows = [], 0
        members, rows = [*members, *run], rows + need
    if members:
        yield members


def _through(wave: Wave, rows: Tensor) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
    """All blocks from the first edit on; the metric's score (positions, values) of every lane."""
    last = wave.clean.n_layers
    for layer in range(wave.steps[0].layer, last + 1):
        here = [s for s in wave.steps if s.layer == layer]
        for step in (s for s in here if s.order < 0):
            _enter(wave, step)
        if layer == last:
            return _read(wave, rows, [s for s in here if s.order > 0])
        inner = [s for s in here if s.order >= 0]
        edited = {s.run for s in inner}
        plain = [lane for lane in wave.lanes.values() if lane.run not in edited]
        plain.sort(key=lambda lane: (lane.positions[0], lane.positions[-1]))
        for chunk in _chunks(plain, wave.budget.rows):
            _advance(wave, layer, chunk, rows)
        inside.advance(wave, layer, inner, rows)
        wave.clean.forget(layer)
    raise AssertionError("unreachable: the last layer returns")


def _chunks(lanes: Sequence[Lane], limit: int) -> Iterable[list[Lane]]:
    chunk: list[Lane] = []
    rows = 0
    for lane in lanes:
        if chunk and rows + len(lane.positions) > limit:
            yield chunk
            chunk, rows = [], 0
        chunk.append(lane)
        rows += len(lane.positions)
    if chunk:
        yield chunk


def _advance(wave: Wave, layer: int, lanes: Sequence[Lane], rows: Tensor) -> None:
    """Lanes through one block; in the last block only the rows the metric reads go past attention."""
    decoder, frozen = wave.clean.decoder, wave.clean.frozen[layer]
    x, call = _stream(wave, layer, lanes)
    if layer < wave.clean.n_layers - 1:
        shapes = [attention.Lane(a.item, a.positions, a.lo, a.positions[-1] + 1) for a in lanes]
        out = decoder.block(layer, x, call, attention.joined(shapes, frozen))[0]
        for lane, part in zip(lanes, out.split([len(a.positions) for a in lanes]), strict=True):
            lane.x = part
        return
    k, v = decoder.keys(layer, x, call)
    shapes = []
    for lane in lanes:
        start, stop = lane.lo, lane.positions[-1] + 1
        read = tuple(p for p in lane.positions if bool(rows[lane.item, p]))
        lane.x = lane.x[torch.tensor(read, device=x.device) - start]
        lane.positions = read
        shapes.append(attention.Lane(lane.item, read, start, stop))
    x, call = _stream(wave, layer, lanes)
    out = decoder.block(layer, x, call, attention.joined(shapes, frozen, (k, v)))[0]
    for lane, part in zip(lanes, out.split([len(a.positions) for a in lanes]), strict=True):
        lane.x = part


def _stream(wave: Wave, layer: int, lanes: Sequence[Lane]) -> tuple[Tensor, dict[str, object]]:
    """Rows of all lanes joined [1 row d_model], and the block's arguments for them."""
    device = wave.clean.inputs[layer].device
    item = torch.tensor([a.item for a in lanes], device=device)
    counts = torch.tensor([len(a.positions) for a in lanes], device=device)
    pos = torch.tensor([p for a in lanes for p in a.positions], device=device)
    call = rows_of(wave.clean.calls[layer], item.repeat_interleave(counts), pos)
    return torch.cat([a.x.to(device) for a in lanes])[None], call


def _enter(wave: Wave, step: Step) -> None:
    """Apply an edit of the residual stream between blocks."""
    clean, layer = wave.clean, step.layer
    lanes = wave.run_lanes(step.run)
    before = clean.inputs[layer]
    full = before.clone() if lanes else before
    for lane in lanes:
        full[lane.item, list(lane.positions)] = lane.x.to(full.device)
    if step.site.kind == "embed":
        embed = clean.value(step.site).to(full.device)
        new_embed = apply(step, embed).to(full.device)
        new = torch.where(new_embed == embed, full, full + (new_embed - embed))
    else:
        new = apply(step, full)
    alone = wave.is_alone(step.run)
    for item, positions in step.items.items():
        values = new[item, list(positions)].to(full.dtype)
        lane = wave.lanes.get((step.run, item))
        if lane is not None:
            # After the last block a lane has only the rows the metric reads.
            rows = [(n, lane.positions.index(p)) for n, p in enumerate(positions) if p in lane.positions]
            lane.x = lane.x.to(values.device, copy=True)
            lane.x[[row for _, row in rows]] = values[[n for n, _ in rows]]
            continue
        differs = (values != before[item, list(positions)]).any(-1).tolist()
        if any(differs):
            kept = [n for n, d in enumerate(differs) if d]
            wave.open(step.run, item, layer, [positions[n] for n in kept], values[kept], alone=alone)


def _read(wave: Wave, rows: Tensor, tail: Sequence[Step]) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
    """Unembed the metric's rows of every lane, in one joined stream."""
    for step in tail:
        inside.open_tail(wave, step)
    parts: list[tuple[Lane, tuple[int, ...], Tensor]] = []
    for lane in wave.lanes.values():
        kept = [n for n, p in enumerate(lane.positions) if bool(rows[lane.item, p])]
        parts.append((lane, tuple(lane.positions[n] for n in kept), lane.x[kept]))
    if not parts:
        return {}
    device = wave.clean.decoder.device
    item = torch.tensor([a.item for a, p, _ in parts for _ in p], device=device)
    pos = torch.tensor([n for _, p, _ in parts for n in p], device=device)
    run = torch.tensor([a.run for a, p, _ in parts for _ in p], device=device)
    resid = torch.cat([x.to(device) for _, _, x in parts])
    head = inside.tail_head(wave, tail, run, item, pos) if tail else None
    if head is None:
        values = of_rows(wave.metric, wave.clean.decoder, resid, item, pos, wave.budget.logits)
    else:
        values = wave.metric.score(head(resid), item, pos)
    split = values.float().cpu().split([len(p) for _, p, _ in parts])
    return {(a.run, a.item): (torch.tensor(p), v) for (a, p, _), v in zip(parts, split, strict=True)}
