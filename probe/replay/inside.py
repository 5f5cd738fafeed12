"""Edits inside a block and after the last one.

Most sites inside a block act on their own position only: an edit there needs just the edited rows of that block
(over the clean keys and values), and every position from the first edited one on only in the blocks after it.
Keys and values are read by later positions too, so those edits need all rows from the first edited one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch

from probe.replay import attention
from probe.replay.decoder import rows_of
from probe.replay.ports import Change, changed
from probe.replay.wave import Lane, Step, Wave, apply
from probe.sites import Site

if TYPE_CHECKING:
    from torch import Tensor

    from probe.backends.place import Map

_SPREAD = ("k", "v")
_ATTENTION = ("attn_scores", "pattern")


@dataclass
class Rows:
    """Rows of one run and item in the stream of one block; `lane` is None if the run begins here."""

    run: int
    item: int
    positions: tuple[int, ...]
    start: int | None
    lane: Lane | None

    @property
    def shape(self) -> attention.Lane:
        """What attention needs to know."""
        return attention.Lane(self.item, self.positions, self.start, self.positions[-1] + 1)


def rank(where: Map, site: Site) -> int:
    """When a block's pass comes to a site inside it, as the model was seen to run; the softmax lies just before z."""
    if site.kind in _ATTENTION:
        return 3 * where.order.get(Site("z", site.layer), 1) - 2 + _ATTENTION.index(site.kind)
    return 3 * where.order[site.whole]


def advance(wave: Wave, layer: int, steps: Sequence[Step], read: Tensor) -> None:
    """Runs with an edit inside block `layer` through that block.

    Args:
        wave: the runs that are under way.
        layer: the block, from 0.
        steps: edits inside it.
        read: True at the positions [item pos] that are read afterwards.
    """
    joined: list[Rows] = []
    ready: dict[int, Tensor] = {}
    for run, own in groupby(sorted(steps, key=lambda s: (s.run, s.order)), key=lambda s: s.run):
        members = list(own)
        fresh = None if len(members) > 1 or wave.run_lanes(run) else _fresh(wave, members[0])
        rows = _rows(wave, layer, run, members, fresh, read)
        if not rows:
            continue
        if fresh is not None and members[0].site.kind == "mlp_out":
            _add(wave, members[0], rows, fresh)
        elif any(s.site.kind in _ATTENTION for s in members):
            _block(wave, layer, rows, members, {})
        else:
            held = sum(len(r.positions) for r in joined)
            if held and held + sum(len(r.positions) for r in rows) > wave.budget.rows:
                _block(wave, layer, joined, steps, ready)
                joined, ready = [], {}
            joined += rows
            ready |= {} if fresh is None else {run: fresh}
    if joined:
        _block(wave, layer, joined, steps, ready)


def _fresh(wave: Wave, step: Step) -> Tensor:
    """The edited value of a site nothing before has changed."""
    return apply(step, wave.clean.value(step.site.whole))


def _rows(wave: Wave, layer: int, run: int, steps: Sequence[Step], fresh: Tensor | None, read: Tensor) -> list[Rows]:
    """Which rows of each item this block must compute; none where an edit changes nothing."""
    out = [Rows(run, lane.item, lane.positions, lane.lo, lane) for lane in wave.run_lanes(run)]
    busy = {r.item for r in out}
    spread = any(s.site.kind in _SPREAD for s in steps)
    for item in sorted({i for s in steps for i in s.items} - busy):
        touched = sorted({p for s in steps for p in s.items.get(item, ())})
        if fresh is not None:
            touched = _differing(steps[0], item, touched, fresh, wave.clean.value(steps[0].site.whole))
        if layer == wave.clean.n_layers - 1 and not spread:
            touched = [p for p in touched if bool(read[item, p])]
        if touched:
            rows = tuple(range(touched[0], wave.stop[item])) if spread else tuple(touched)
            out.append(Rows(run, item, rows, touched[0] if spread else None, None))
    return out


def _differing(step: Step, item: int, positions: Sequence[int], new: Tensor, old: Tensor) -> list[int]:
    at = list(positions)
    differs = (_at(step.site, new, item, at) != _at(step.site, old, item, at)).flatten(1).any(1)
    return [p for p, d in zip(positions, differs.tolist(), strict=True) if d]


def _at(site: Site, x: Tensor, item: int | Tensor, pos: list[int] | Tensor) -> Tensor:
    """Rows [row ...] of a site's tensor, whichever axis its positions are on."""
    return x.transpose(1, 2)[item, pos] if site.kind in _ATTENTION else x[item, pos]


def _add(wave: Wave, step: Step, rows: Sequence[Rows], fresh: Tensor) -> None:
    """What an MLP writes goes straight into the residual stream: nothing is run."""
    clean, layer = wave.clean, int(step.site.layer or 0)
    old, after = clean.value(step.site.whole), clean.inputs[layer + 1]
    alone = wave.is_alone(step.run)
    for r in rows:
        at = list(r.positions)
        new = after[r.item, at] + (fresh[r.item, at].to(after.dtype) - old[r.item, at]).to(after.device)
        wave.open(r.run, r.item, layer + 1, r.positions, new, alone=alone)


def _block(wave: Wave, layer: int, rows: list[Rows], steps: Sequence[Step], ready: Mapping[int, Tensor]) -> None:
    """One call of the block for these rows with all their edits applied."""
    clean = wave.clean
    rows = sorted(rows, key=lambda r: r.shape.shape)
    entering = clean.inputs[layer]
    device = entering.device
    sizes = [len(r.positions) for r in rows]
    stream = RowStream(
        run=torch.tensor([r.run for r in rows for _ in r.positions]),
        item=torch.tensor([r.item for r in rows for _ in r.positions]),
        pos=torch.tensor([p for r in rows for p in r.positions]),
        x=torch.cat([entering[r.item, list(r.positions)] if r.lane is None else r.lane.x.to(device) for r in rows]),
    )
    here = [s for s in steps if s.run in {r.run for r in rows}]
    for site in {*([Site("z", layer)] if "z" in clean.ports(layer) else []), *(s.site.whole for s in here)}:
        clean.value(site)  # made now: asked for inside the block it would run the block, hooks and all, again
    call = rows_of(clean.calls[layer], stream.item.to(device), stream.pos.to(device))
    shapes = [r.shape for r in rows]
    changes, ports = _changes(wave, stream, here, ready), clean.ports(layer)
    keeps_z = all(r.lane is None for r in rows) and "z" in ports
    keeps_z = keeps_z and min(s.order for s in here) >= rank(clean.decoder.map, Site("z", layer))
    if keeps_z:  # nothing before it has changed
        changes["z"] = _put_first(clean.value(Site("z", layer))[stream.item, stream.pos][None], changes.get("z"))
    with changed(ports, changes):
        if keeps_z:
            out = clean.decoder.past_attention(layer, stream.x[None], call)[0]
        else:
            attend = attention.joined(shapes, clean.frozen[layer])
            if any(s.site.kind in _ATTENTION for s in here):
                attend = _edited_attention(wave, layer, shapes, stream, here)
            out = clean.decoder.block(layer, stream.x[None], call, attend)[0]
    for r, part in zip(rows, out.split(sizes), strict=True):
        if r.lane is not None:
            r.lane.x = part
            continue
        alone = wave.is_alone(r.run)
        wave.open(r.run, r.item, layer + 1, r.positions, part, alone=alone)


def _put_first(value: Tensor, then: Change | None) -> Change:
    return lambda _x: value if then is None else then(value)


@dataclass(frozen=True)
class RowStream:
    """Joined rows of a block: whose they are, and the residual state they enter with."""

    run: Tensor
    item: Tensor
    pos: Tensor
    x: Tensor

    def write(self, wave: Wave, step: Step, x: Tensor, ready: Tensor | None) -> Tensor:
        """Rows [row ...] of a site with one step's edit applied to the rows of its run that it selects.

        Args:
            wave: the runs that are under way.
            step: one edit of one run.
            x: rows [row ...] of its site.
            ready: the edited site of the whole batch where it is known already.
        """
        own = (self.run == step.run).nonzero().flatten()
        item, pos = self.item[own], self.pos[own]
        if ready is None:
            full = wave.clean.value(step.site.whole).clone()
            _put(step.site, full, item, pos, x[own])
            ready = apply(step, full)
        chosen = step.mask[item, pos]
        out = x.clone()
        out[own[chosen]] = _at(step.site, ready, item[chosen], pos[chosen]).to(x.dtype)
        return out


def _put(site: Site, full: Tensor, item: Tensor, pos: Tensor, rows: Tensor) -> None:
    view = full.transpose(1, 2) if site.kind in _ATTENTION else full
    view[item, pos] = rows


def _changes(wave: Wave, stream: RowStream, steps: Sequence[Step], ready: Mapping[int, Tensor]) -> dict[str, Change]:
    """One change per port; resid_mid is reached through what attention adds to the stream."""

    def change(kind: str) -> Change:
        own = [s for s in steps if s.site.kind == kind or (kind == "attn_out" and s.site.kind == "resid_mid")]

        def edited(x: Tensor) -> Tensor:
            rows = x[0]
            for step in own:
                if step.site.kind == "resid_mid":
                    middle = stream.x + rows
                    new = stream.write(wave, step, middle, ready.get(step.run))
                    rows = torch.where(new == middle, rows, new - stream.x)
                else:
                    rows = stream.write(wave, step, rows, ready.get(step.run))
            return rows[None]

        return edited

    kinds = {"attn_out" if s.site.kind == "resid_mid" else s.site.kind for s in steps} - set(_ATTENTION)
    return {kind: change(kind) for kind in kinds}


def _edited_attention(
    wave: Wave, layer: int, shapes: Sequence[attention.Lane], stream: RowStream, steps: Sequence[Step]
) -> Callable[..., Tensor]:
    """Attention of one run over all key positions, with edits of scores and pattern in between."""
    frozen = wave.clean.frozen[layer]
    length = wave.clean.batch.ids.shape[1]

    def edit(kind: str, rows: Tensor) -> Tensor:
        for step in (s for s in steps if s.site.kind == kind):
            rows = stream.write(wave, step, rows, None)
        return rows

    def run(q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float | None) -> Tensor:
        masked: list[Tensor] = []
        values: list[Tensor] = []
        begin = 0
        for lane in shapes:
            at = slice(begin, begin := begin + len(lane.positions))
            item = torch.tensor([lane.item], device=q.device)
            keys, vals = frozen.k[item].clone(), frozen.v[item].clone()
            if lane.start is not None:
                keys[:, :, lane.start : lane.stop], vals[:, :, lane.start : lane.stop] = k[:, :, at], v[:, :, at]
            bias = frozen.bias(item, lane.positions, length, q.device)
            masked.append(attention.scores(q[:, :, at], keys, bias, scale, softcap)[0].transpose(0, 1))
            values.append(vals)
        rows = edit("pattern", attention.softmax(edit("attn_scores", torch.cat(masked)), q.dtype))
        parts = rows.split([len(lane.positions) for lane in shapes])  # [row head key] each
        z = [attention.weigh(p.transpose(0, 1)[None], vals)[0] for p, vals in zip(parts, values, strict=True)]
        return torch.cat(z, 1).transpose(0, 1)[None]

    return run


def open_tail(wave: Wave, step: Step) -> None:
    """Lanes for an edit after the last block, with the clean final state."""
    for item, positions in step.items.items():
        if (step.run, item) not in wave.lanes:
            final = wave.clean.inputs[-1][item, list(positions)]
            wave.open(step.run, item, wave.clean.n_layers, positions, final, alone=True)


def tail_head(wave: Wave, tail: Sequence[Step], run: Tensor, item: Tensor, pos: Tensor) -> Callable[[Tensor], Tensor]:
    """Final residual rows to logits with edits of `ln_final` and `logits` on the way.

    Args:
        wave: the runs that are under way.
        tail: edits of `ln_final` and `logits`.
        run: run of each row.
        item: item of each row.
        pos: padded position of each row.
    """
    decoder = wave.clean.decoder

    def head(resid: Tensor) -> Tensor:
        rows, stream = decoder.norm(resid), RowStream(run.cpu(), item.cpu(), pos.cpu(), resid)
        for kind in ("ln_final", "logits"):
            if kind == "logits":
                rows = decoder.head(rows, normed=True)
            for step in (s for s in tail if s.site.kind == kind):
                rows = stream.write(wave, step, rows, None)
        return rows

    return head
