"""Which component talks to which: the effect of one sender's change along its direct paths to one receiver.

Definition: from two unedited runs on the same positions (new = the tuned checkpoint, or a corrupt prompt in the base
    one; orig = the base checkpoint on the clean prompt): the sender's write to the residual stream is set to new,
    every other head (and, with freeze_mlps, every MLP) stays at orig, the receiver reads the result, and only it and
    what follows are recomputed: r_in = r_in(orig) + u_s(new) - u_s(orig). effect = M(path) - M(orig); share =
    effect / (M(new) - M(orig)). Receivers: final (the last residual state: the direct path), mlp.l (an MLP's input),
    q.l.h, k.l.h, v.l.h (the input of one head's query, key or value; k and v of a whole group of query heads, or of
    one query head alone). Receivers use the base checkpoint's weights; the receiver's norm is recomputed.
Units: M is the mean teacher-forced log-probability of the answer's tokens, nats per token; a share has none.
Source: arXiv 2211.00593, 2304.05969; the closed form is exact because with all else frozen the stream is a sum.
Does not show: what a path does together with others (effects of paths do not add up through softmax, norms and
    MLPs), or paths of more than one step. With freeze_mlps=False everything the MLPs in between make of the
    sender's change counts as direct.
Control: a sender that does not precede the receiver has effect exactly 0; the same paths with new = orig; another
    group of items.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

import probe
from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.figures import forest, heatmap
from analyses.core.progress import progress
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.core.work import Case, Work, passes, replays, scaled, together
from analyses.patching._clean_and_corrupt import paired_batches
from probe.errors import InputError
from probe.interventions import Edit, selected

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from analyses.patching._paths import Paths, Receiver
    from probe import Model, Prompts, Site, TokenBatch
    from probe.replay import Metric

HELD_BYTES = 2**29  # patched values waiting to be run together


def _work(case: Case) -> Work:
    """Both runs; one replayed for every sender and receiver."""
    shape, options = case.size.shape, case.options
    each = sum(shape.n_heads if kind == "z" else 1 for kind in options["senders"])
    replayed = replays(case, range(case.n_layers), each * len(options["receivers"]))
    frozen = scaled(replayed, case.size.mlp / case.size.block)  # attention stays as it was
    return together(passes(case, "answer", times=2 / case.models), frozen)


@analysis(work=_work)
def path_patching(
    base: Model,
    prompts: Prompts,
    tuned: Model | None = None,
    *,
    senders: tuple[str, ...] = ("z", "mlp_out"),
    receivers: tuple[str, ...] = ("final",),
    positions: Literal["all", "all_prompt", "last_prompt"] = "all",
    freeze_mlps: bool = True,
    kv: Literal["group", "query_head"] = "group",
    corrupt: Literal["column", "rotate"] = "column",
    template: Literal["none", "chat"] = "none",
    boundary: Literal["joint", "concat", "offsets"] = "joint",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Effect of every sender along its paths to every receiver, per item, with intervals over items.

    Rows: item, group, answer_kind, sender, receiver, positions, freeze_mlps, metric_orig, metric_new, metric_path,
    effect, share.

    Args:
        senders: kinds (z for every head, mlp_out, attn_out, embed) or single ones such as z.2.5 and mlp_out.3.
        receivers: kinds (final, mlp, q, k, v) or single ones such as q.4.1 (layer 4, head 1) and mlp.5.
        positions: there senders are set to new.
        freeze_mlps: keep all MLPs in between at orig; off, what they make of the change counts as direct.
        kv: whether a key or value receiver is that of a whole group of query heads or of one query head.
        corrupt: without tuned, new is of them.
        batch_size: of passes that are not edited.
    """
    pairs, warnings = _inputs(base, tuned, prompts, corrupt, batch_size, template, boundary)
    sent = _senders(base, senders)
    read = _receivers(base, receivers, kv)
    _prove(base, pairs[0][0], sent, read)
    frames = [
        _effects(base, tuned or base, clean, other, sent, read, positions, freeze_mlps)
        for clean, other in progress(pairs, "path patching", total=len(pairs))
    ]
    table = pd.concat(frames, ignore_index=True).assign(positions=positions, freeze_mlps=freeze_mlps)
    columns = ["item", "group", "answer_kind", "sender", "receiver", "positions", "freeze_mlps", "metric_orig",
               "metric_new", "metric_path", "effect", "share"]  # fmt: skip
    table = table[columns].sort_values(["receiver", "sender", "item", "answer_kind"], kind="stable")
    return Result.of(table, _aggregate(table, seed), warnings=warnings)


def _inputs(
    base: Model, tuned: Model | None, prompts: Prompts, corrupt: str, batch_size: int, template: str, boundary: str
) -> tuple[list[tuple[TokenBatch, TokenBatch]], list[str]]:
    """(orig, new) batches: the same ids twice for two checkpoints, clean and corrupt ones for one."""

    plan: dict[str, object] = {"batch_size": batch_size, "template": template, "boundary": boundary}
    if tuned is None:
        return paired_batches(base, prompts, corrupt, **plan)
    warnings = reading.pair_warnings(base, tuned)
    return [(b, b) for b in reading.same_ids(base, tuned, prompts, **plan)], warnings


def _senders(model: Model, names: Sequence[str]) -> list[probe.Site]:
    """Senders in the order of the pass; a kind stands for all of its sites (every head for z)."""

    found: list[probe.Site] = []
    for name in names:
        site = None if name in ("z", "mlp_out", "attn_out", "embed") else model.site(name)
        kind = name if site is None else site.kind
        if kind not in ("z", "mlp_out", "attn_out", "embed"):
            raise InputError(f"sender {name!r}: expected z, mlp_out, attn_out or embed, or one such site (z.2.5)")
        if site is not None and (kind != "z" or site.head is not None):
            found.append(site)
            continue
        everywhere = model.sites(kind) or [model.site(probe.Site(kind, 0))]  # none: the refusal says why
        for whole in [site] if site is not None else everywhere:
            heads = range(model.shape.n_heads) if kind == "z" else (None,)
            found += [probe.Site(kind, whole.layer, head) for head in heads]
    return sorted(set(found))


def _receivers(model: Model, names: Sequence[str], kv: str) -> list[Receiver]:
    from analyses.patching._paths import Receiver

    found: list[Receiver] = []
    for name in names:
        kind, *numbers = name.split(".")
        if kind not in ("final", "mlp", "q", "k", "v") or not all(n.isdigit() for n in numbers):
            raise InputError(f"receiver {name!r}: expected final, mlp, q, k or v, or a single one (mlp.3, q.4.1)")
        if kind == "final":
            found.append(Receiver("final"))
            continue
        group = kind in "kv" and kv == "group"
        n_heads = model.shape.n_kv_heads if group else model.shape.n_heads
        layers, heads = range(model.shape.n_layers), range(n_heads) if kind in "qkv" else (None,)
        chosen_layers = [int(numbers[0])] if numbers else layers
        chosen_heads = [int(numbers[1])] if len(numbers) > 1 else heads
        if any(n not in layers for n in chosen_layers) or any(h not in heads for h in chosen_heads):
            raise InputError(f"receiver {name!r}: this model has {len(layers)} blocks and {n_heads} such heads")
        found += [Receiver(kind, layer, head, group) for layer in chosen_layers for head in chosen_heads]
    return list(dict.fromkeys(found))


def _prove(base: Model, batch: TokenBatch, senders: Sequence[Site], receivers: Sequence[Receiver]) -> None:
    from analyses.patching._paths import prove_self

    orig = probe.replay.Clean(base, batch)
    prove_self(orig, orig.batch.mask, senders, receivers, probe.replay.answer_logprob(orig.batch))


def _effects(
    base: Model,
    tuned: Model,
    clean: TokenBatch,
    other: TokenBatch,
    senders: Sequence[Site],
    receivers: Sequence[Receiver],
    positions: Any,
    freeze_mlps: bool,
) -> pd.DataFrame:
    """Rows of one batch: every path that exists; the others have effect 0 without being run."""
    from analyses.patching._paths import Paths

    orig, new = probe.replay.Clean(base, clean), probe.replay.Clean(tuned, other)
    metric = probe.replay.answer_logprob(clean)
    where = selected(Edit(base.sites("resid_pre")[0], lambda x: x, positions), orig.batch)
    paths = Paths(orig, new, where, freeze_mlps=freeze_mlps)
    before, after = (probe.replay.clean_metric(c, metric).numpy().astype(float) for c in (orig, new))
    names = {
        "item": [i.id for i in clean.items],
        "group": [i.group for i in clean.items],
        "answer_kind": [i.answer_kind for i in clean.items],
        "metric_orig": before,
        "metric_new": after,
    }
    frames = []
    for sender, receiver, values in _run(paths, senders, receivers, metric):
        path = before if values is None else values
        frames.append(pd.DataFrame({**names, "sender": str(sender), "receiver": str(receiver), "metric_path": path}))
    table = pd.concat(frames, ignore_index=True)
    table["effect"] = table["metric_path"] - table["metric_orig"]
    table["share"] = reading.share(table["effect"].to_numpy(), (table["metric_new"] - table["metric_orig"]).to_numpy())
    return table


def _run(
    paths: Paths, senders: Sequence[Site], receivers: Sequence[Receiver], metric: Metric
) -> Iterator[tuple[Site, Receiver, np.ndarray | None]]:
    """The metric of every path; as many at once as their patched values fit in memory."""

    waiting: list[tuple[Site, Receiver, Any]] = []
    held, size = 0, paths.orig.inputs[0].nbytes

    def done() -> Iterator[tuple[Site, Receiver, np.ndarray]]:
        values = probe.replay.replay(paths.orig, [edit for _, _, edit in waiting], metric).numpy().astype(float)
        yield from ((s, r, v) for (s, r, _), v in zip(waiting, values, strict=True))

    for receiver in receivers:
        for sender in senders:
            if not paths.reaches(sender, receiver):
                yield sender, receiver, None
                continue
            waiting.append((sender, receiver, paths.edit(sender, receiver)))
            held += size
            if held > HELD_BYTES:
                yield from done()
                waiting, held = [], 0
    if waiting:
        yield from done()


def _aggregate(table: pd.DataFrame, seed: int) -> xr.Dataset:

    by = ["sender", "receiver", "group", "answer_kind"]
    label: dict[str, Any] = {"units": "nats/token", "long_name": "change of the answer's log-probability by the path"}
    return estimate(table, "effect", by, seed=seed, **label)


def figures(result: Result) -> dict[str, Figure]:
    """Senders against receivers, coloured by effect; with one receiver, senders with their intervals."""

    rows = result.summary()
    facet = [d for d in ("group", "answer_kind", "step", "source_step") if d in rows and rows[d].nunique() > 1] or None
    title = "Effect of each path: mean over items"
    if rows["receiver"].nunique() > 1:
        return {"effect": heatmap(rows, x="receiver", y="sender", facet=facet, title=title)}
    return {"effect": forest(rows, label="sender", facet=facet, title=f"{title}, 95 % interval", reference=0.0)}
