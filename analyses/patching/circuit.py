"""Which edges between parts carry a behaviour in base and in tuned, by gradients and, for the largest, exactly.

Definition: nodes write to the residual stream (embedding, heads, MLPs), receivers read it (each head's query, key and
    value, keys and values by key/value head; MLPs; the final state). An edge's contribution is M(clean) - M(the clean
    run whose receiver reads the corrupt run's write of that node): score = (u(clean) - u(corrupt)) x dM/d(what the
    receiver reads), at the clean run (EAP) or, with steps > 1, the mean gradient over runs whose embeddings go from
    corrupt to clean (integrated gradients). A node's score is the sum over its edges. The edges that changed most, the
    largest, and random others are replayed exactly. A circuit is the `size` edges of largest mean |score|;
    added is the sum of the embedding's edges over M(clean) - M(corrupt), 1 if the integrals are exact; jaccard is
    the overlap of base's with tuned's, rank_correlation Spearman's over all edges. intensity is the mean |score| of an
    item's edges, diversity the entropy of their shares of its sum.
Units: nats per token (M is the mean teacher-forced log-probability of the answer's tokens); diversity in nats; overlaps
    have none.
Source: arXiv 2310.10348 (EAP), 2403.17806 (integrated gradients), 2502.11812, 2402.14811 (over finetuning), 2509.21044
    (intensity and diversity).
Does not show: what edges do together: effects do not add up, and spare parts hide what they stand in for. A score is a
    first-order guess; what is not replayed is not known. Overlap falls by noise alone: read it beside other items'.
Control: the exact contributions; random edges; `jaccard` of base with itself on other items; the same checkpoint twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.figures import curve, heatmap, scatter
from analyses.core.figures.crowds import sliding
from analyses.core.progress import progress
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.core.work import Case, Work
from analyses.patching import _overlaps
from analyses.patching._clean_and_corrupt import paired_batches
from analyses.patching._edge_claims import CHECKPOINTS, claims
from analyses.patching._wiring import wiring
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from analyses.patching._edges import Graph, Runs
    from probe import Item, Model, Prompts, TokenBatch

    Pairs = list[tuple[TokenBatch, TokenBatch]]

KEYS = ("item", "group", "answer_kind")
ALL = "all"  # receiver of a row that is about a node
TITLES = {"intensity": ("nats/token", "mean size of an edge"), "diversity": ("nats", "entropy of the edges' shares")}


def _work(case: Case) -> Work:
    """Per checkpoint two plain runs, a pass and its gradient per step, every head's own gradient, replayed edges."""
    shape, options = case.size.shape, case.options
    readers = shape.n_heads + 2 * shape.n_kv_heads + 1
    passes = 2 * (4 + 3 * int(options["steps"]) * (1 + readers * case.size.qkv / case.size.block))
    replayed = 2 * 3 * int(options["verify"]) / 2  # half of the blocks lie behind a receiver, on average
    nodes = 1 + shape.n_layers * (shape.n_heads + 1)
    return Work(
        block_rows=(passes + replayed) * case.full_pass,
        unembedded=(4 + 2 * int(options["steps"]) + 6 * int(options["verify"])) * case.answer,
        rows=2 * min(int(options["keep"]), nodes * readers * shape.n_layers / 2) + 2 * nodes,
        row_bytes=8,
        sites=nodes + readers * shape.n_layers,
    )


@analysis(work=_work)
def circuit(
    base: Model,
    tuned: Model,
    prompts: Prompts,
    *,
    steps: int = 5,
    size: int = 50,
    verify: int = 20,
    keep: int = 2000,
    corrupt: Literal["column", "rotate"] = "column",
    template: Literal["none", "chat"] = "none",
    boundary: Literal["joint", "concat", "offsets"] = "joint",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Contribution of every edge and node in both checkpoints, exact for some, and how far the circuits overlap.

    Rows: item, group, answer_kind, checkpoint (base or tuned), sender, receiver (all: the node), score, exact (missing
    where not replayed), chosen (changed, large, random, node or no), worth (M(clean) - M(corrupt) of that checkpoint).

    Args:
        steps: 1: the clean run alone, whose gradients vanish where it is sure of its answer.
        verify: edges; also so many of those that changed most.
        keep: most edges with rows (those of largest mean score in either checkpoint, and the replayed ones).
        seed: random edges, the splits of items and the bootstrap over items.
    """
    from analyses.patching._edges import Graph

    if min(steps, size, keep) < 1 or verify < 0:
        raise InputError(
            f"steps={steps}, size={size}, keep={keep}, verify={verify}; expected 1 or more, verify 0 or more"
        )
    warnings = reading.pair_warnings(base, tuned)
    plan: dict[str, object] = {"batch_size": batch_size, "template": template, "boundary": boundary}
    reading.same_ids(base, tuned, prompts, **plan)
    pairs, notes = paired_batches(base, prompts, corrupt, **plan)
    graph = Graph.of(base)
    models = dict(zip(CHECKPOINTS, (base, tuned), strict=True))
    scores = {name: _scores(model, graph, pairs, steps) for name, model in models.items()}
    chosen = _chosen(scores, graph, verify, keep, seed)
    frames = [_rows(name, models[name], graph, pairs, scores[name], chosen) for name in CHECKPOINTS]
    table = pd.concat(frames, ignore_index=True).sort_values(
        ["checkpoint", "sender", "receiver", "item", "answer_kind"], kind="stable", ignore_index=True
    )
    data = _aggregate(table, seed).merge(_overlaps.arrays(scores, graph.exists, size, seed))
    data = data.merge(_profile(scores, pairs, graph, seed))
    worth = table.groupby(["checkpoint", "item", "answer_kind"])["worth"].first().groupby("checkpoint").mean()
    added = {name: _overlaps.added(scores[name], float(worth[name])) for name in CHECKPOINTS}
    data["added"] = (
        "checkpoint",
        list(added.values()),
        {"units": "1", "long_name": "sum of estimates over the effect"},
    )
    warnings += _overlaps.short(added)
    return Result.of(table, data, claims=claims(table, graph.n_edges), warnings=[*warnings, *notes])


def _runs(model: Model, graph: Graph, pairs: Pairs, what: str) -> Iterator[Runs]:
    from analyses.patching._edges import Runs

    for clean, other in progress(pairs, what, total=len(pairs)):
        yield Runs(model, graph, clean, other)


def _scores(model: Model, graph: Graph, pairs: Pairs, steps: int) -> np.ndarray:
    """Scores of every edge [item, sender, receiver], items in the order of the batches."""
    return np.concatenate([run.scores(steps).astype(np.float32) for run in _runs(model, graph, pairs, "edges")])


def _chosen(
    scores: dict[str, np.ndarray], graph: Graph, verify: int, keep: int, seed: int
) -> dict[tuple[int, int], str]:
    """Edges with rows, and why: `changed` most, `large`, `random` (these three are replayed), or `no`."""
    base, tuned = (scores[name].mean(0) for name in CHECKPOINTS)
    edges = np.argwhere(graph.exists)
    sizes = {"changed": np.abs(tuned - base), "large": np.maximum(np.abs(base), np.abs(tuned))}
    found: dict[tuple[int, int], str] = {}
    ranked = {why: edges[np.argsort(-by[graph.exists], kind="stable")] for why, by in sizes.items()}
    for why in sizes:
        new = [(int(s), int(r)) for s, r in ranked[why] if (int(s), int(r)) not in found]
        found |= dict.fromkeys(new[:verify], why)
    rest = [(int(s), int(r)) for s, r in edges if (int(s), int(r)) not in found]
    drawn = np.random.default_rng(seed).permutation(len(rest))[:verify]
    found |= {rest[n]: "random" for n in sorted(drawn)}
    for s, r in ranked["large"][: max(keep - len(found), 0)]:
        found.setdefault((int(s), int(r)), "no")
    return found


def _rows(
    name: str, model: Model, graph: Graph, pairs: Pairs, scores: np.ndarray, chosen: dict[tuple[int, int], str]
) -> pd.DataFrame:
    """Rows of one checkpoint: the chosen edges, and every node."""
    replayed = [edge for edge, why in chosen.items() if why != "no"]
    cells = [*chosen, *((n, -1) for n in range(len(graph.senders)))]
    frames: list[pd.DataFrame] = []
    first = 0
    for run in _runs(model, graph, pairs, "exact edges"):
        own = scores[first : first + len(run.clean.batch)]
        first += len(own)
        exact = dict(zip(replayed, run.exact(replayed), strict=True))
        frames.append(_of_batch(run, own, exact, cells))
    table = pd.concat(frames, ignore_index=True)
    why = {(graph.names[0][s], (*graph.names[1], ALL)[r]): chosen.get((s, r), "node") for s, r in cells}
    table["chosen"] = [why[edge] for edge in zip(table["sender"], table["receiver"], strict=True)]
    return table.assign(checkpoint=name)


def _of_batch(
    run: Runs, scores: np.ndarray, exact: dict[tuple[int, int], np.ndarray], cells: Sequence[tuple[int, int]]
) -> pd.DataFrame:
    items, (senders, receivers) = run.clean.batch.items, run.graph.names
    nodes = np.nansum(scores, -1)  # a node's contribution is the sum over its edges, by the chain rule
    unknown = np.full(len(items), np.nan)
    return pd.DataFrame(
        {
            **{k: np.tile(v, len(cells)) for k, v in _named(items).items()},
            "sender": np.repeat(np.asarray([senders[s] for s, _ in cells], object), len(items)),
            "receiver": np.repeat(np.asarray([(*receivers, ALL)[r] for _, r in cells], object), len(items)),
            "score": np.concatenate([nodes[:, s] if r < 0 else scores[:, s, r] for s, r in cells]).astype(float),
            "exact": np.concatenate([exact.get(cell, unknown) for cell in cells]),
            "worth": np.tile(run.values[0] - run.values[1], len(cells)),
        }
    )


def _named(items: Sequence[Item]) -> dict[str, np.ndarray]:
    """Who the items are, as columns."""
    told = [(i.id, i.group, i.answer_kind) for i in items]
    return {key: np.asarray(values, object) for key, values in zip(KEYS, zip(*told, strict=True), strict=True)}


def _aggregate(table: pd.DataFrame, seed: int) -> xr.Dataset:
    """Means of replayed edges and of all nodes, heads by layer and head."""
    edges = table[table["chosen"].isin(["changed", "large", "random"])]
    by = ["checkpoint", "sender", "receiver", "group", "answer_kind"]
    labels = {"score": "estimated contribution of the edge", "exact": "exact contribution of the edge"}
    parts = [
        estimate(edges, column, by, seed=seed, name=f"edge_{column}", units="nats/token", long_name=text)
        for column, text in labels.items()
        if len(edges)
    ]
    heads = table[(table["receiver"] == ALL) & table["sender"].str.startswith("head.")]
    place = heads["sender"].str.extract(r"head\.(?P<layer>\d+)\.(?P<head>\d+)").astype(int)
    heads = pd.concat([heads, place], axis=1)
    by = ["checkpoint", "layer", "head", "group", "answer_kind"]
    text = "estimated contribution of the head"
    parts.append(estimate(heads, "score", by, seed=seed, name="head_score", units="nats/token", long_name=text))
    return xr.merge(parts, join="outer")


def _profile(scores: dict[str, np.ndarray], pairs: Pairs, graph: Graph, seed: int) -> xr.Dataset:
    """How strong and how evenly spread an item's edges are, by checkpoint."""
    items = [i for clean, _ in pairs for i in clean.items]
    rows: list[pd.DataFrame] = []
    for name in CHECKPOINTS:
        sizes = np.abs(scores[name][:, graph.exists]).astype(float)
        total = sizes.sum(1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = sizes / total
            spread = -np.where(shares > 0, shares * np.log(shares), 0.0).sum(1)
        spread = np.where(total[:, 0] > 0, spread, np.nan)
        rows.append(
            pd.DataFrame({**_named(items), "checkpoint": name, "intensity": sizes.mean(1), "diversity": spread})
        )
    found = pd.concat(rows, ignore_index=True)
    by = ["checkpoint", "group", "answer_kind"]
    return xr.merge([estimate(found, q, by, seed=seed, units=u, long_name=t) for q, (u, t) in TITLES.items()])


def figures(result: Result) -> dict[str, Figure]:
    """Edges by sender and receiver (a slider over steps), heads by layer, estimates against exact values, overlaps."""
    rows = result.summary()
    facet = [d for d in ("group", "answer_kind") if d in rows and rows[d].nunique() > 1]
    drawn: dict[str, Figure] = {}
    edges = rows[(rows["quantity"] == "edge_exact") & rows["value"].notna()]
    if len(edges):
        drawn["circuit"] = _over_steps(edges, "receiver", "sender", ["checkpoint", *facet], "Edges: exact contribution")
    heads = rows[rows["quantity"] == "head_score"]
    drawn["heads"] = _over_steps(heads, "head", "layer", ["checkpoint", *facet], "Heads: estimated contribution")
    table = result.table[result.table["exact"].notna()]
    if len(table):
        cell = [c for c in ("step", "checkpoint", "sender", "receiver", "chosen") if c in table]
        mean = table.groupby(cell)[["score", "exact"]].mean().reset_index()
        edges = mean.rename(columns={"exact": "value"}).drop(columns="score")
        drawn["graph"] = wiring(edges, facet="checkpoint", title="Edges replayed exactly", unit="nats/token")
        look = {"x_title": "estimate (nats/token)", "y_title": "exact (nats/token)"}
        title = "Estimate against exact contribution of the replayed edges"
        drawn["agreement"] = scatter(mean, x="score", y="exact", color="chosen", title=title, diagonal=True, **look)
    if {"step", "variant"} <= set(rows):
        over = rows[rows["quantity"] == "jaccard"]
        drawn["overlap"] = curve(over, x="step", color="variant", title="Overlap of tuned's circuit with base's")
    return drawn


def _over_steps(rows: pd.DataFrame, x: str, y: str, facet: list[str], title: str) -> Figure:
    """A map, with a slider over steps where there are several."""
    title = f"{title}, mean over items"
    if "step" not in rows or rows["step"].nunique() < 2:
        return heatmap(rows, x=x, y=y, facet=facet, signed=True, title=title)
    limit = float(rows["value"].abs().max())
    draw = lambda part: heatmap(part, x=x, y=y, facet=facet, signed=True, title=title, limit=limit)  # noqa: E731
    return sliding(rows, ["step"], facet, "value", draw)
