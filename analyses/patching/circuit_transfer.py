"""Whether the edges that carry a behaviour in one checkpoint also carry it in the other, against random edges.

Definition: a checkpoint is run with a circuit alone: every receiver reads the corrupt run, but for the circuit's
    edges, which bring what their senders write in this very run. faithfulness = (M(circuit) - M(corrupt)) / (M(clean)
    - M(corrupt)), sums over items: 1 with all edges, 0 with none (both are proved on the first batch). Circuits: base
    and tuned (each checkpoint's `size` edges of largest mean |score|, as in the analysis circuit) and random (as
    many, drawn from all edges; mean over draws), each in base and in tuned. A gradient of the clean run alone
    (steps 1) vanishes where the model is sure and ranks the wrong edges: a warning tells if estimates do not add up.
Units: shares; metrics in nats per token (mean teacher-forced log-probability of the answer's tokens).
Source: arXiv 2403.17806 (faithfulness), 2502.11812, 2402.14811 (base's circuit in the tuned model).
Does not show: that a circuit is the smallest, or the only one: edges are taken by estimate, not searched for, some
    may hang in the air. Shares above 1 and below 0 occur: edges left out may have worked against the answer.
Control: random circuits of equal size; the checkpoint's own circuit; the same checkpoint twice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.figures import curve, forest
from analyses.core.progress import progress
from analyses.core.result import Result
from analyses.core.stats import clusters_of, estimate, mean_of_items
from analyses.core.work import Case, Work, passes
from analyses.patching import _overlaps
from analyses.patching._clean_and_corrupt import paired_batches
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from analyses.patching._edges import Runs
    from probe import Model, Prompts

    Circuits = dict[str, list[np.ndarray]]

CHECKPOINTS = ("base", "tuned")
FEWEST = 8  # items
WHAT = "tuned works through base's circuit"


def _work(case: Case) -> Work:
    """Per checkpoint what `circuit` takes to score edges, and a run wired anew for every circuit."""
    shape, options = case.size.shape, case.options
    reads = 1 + (shape.n_heads + 2 * shape.n_kv_heads + 1) * case.size.qkv / case.size.block
    wired = (2 + int(options["draws"])) * reads
    times = 4 + 3 * int(options["steps"]) * reads + wired
    scored = passes(case, "none", times=times)
    return replace(scored, unembedded=2 * (4 + 2 * int(options["steps"]) + 2 + int(options["draws"])) * case.answer)


@analysis(work=_work)
def circuit_transfer(
    base: Model,
    tuned: Model,
    prompts: Prompts,
    *,
    steps: int = 5,
    size: int = 50,
    draws: int = 5,
    corrupt: Literal["column", "rotate"] = "column",
    template: Literal["none", "chat"] = "none",
    boundary: Literal["joint", "concat", "offsets"] = "joint",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Faithfulness of base's, tuned's and random circuits in both checkpoints.

    Rows: item, group, answer_kind, checkpoint (that is run), variant (whose circuit: base, tuned or random),
    metric_clean, metric_corrupt, metric_circuit, restored (circuit - corrupt), worth (clean - corrupt).

    Args:
        steps: 1: the clean run alone, whose gradients vanish where it is sure of its answer.
        draws: random circuits.
        seed: random circuits and the bootstrap over items.
    """
    from analyses.patching._edges import Graph, Runs

    if min(steps, size, draws) < 1:
        raise InputError(f"steps={steps}, size={size}, draws={draws}; expected 1 or more of each")
    warnings = reading.pair_warnings(base, tuned)
    plan: dict[str, object] = {"batch_size": batch_size, "template": template, "boundary": boundary}
    reading.same_ids(base, tuned, prompts, **plan)
    pairs, notes = paired_batches(base, prompts, corrupt, **plan)
    graph = Graph.of(base)
    runs = {
        name: [Runs(model, graph, *pair) for pair in progress(pairs, "edges", total=len(pairs))]
        for name, model in zip(CHECKPOINTS, (base, tuned), strict=True)
    }
    scores = {name: np.concatenate([r.scores(steps) for r in of]) for name, of in runs.items()}
    circuits: Circuits = {name: [_overlaps.circuit_of(found.mean(0), size)] for name, found in scores.items()}
    worth = {name: np.concatenate([r.values[0] - r.values[1] for r in of]).mean() for name, of in runs.items()}
    warnings += _overlaps.short({name: _overlaps.added(scores[name], float(worth[name])) for name in CHECKPOINTS})
    circuits["random"] = _random(graph.exists, size, draws, seed)
    table = pd.concat([_rows(name, of, circuits) for name, of in runs.items()], ignore_index=True)
    table = table.sort_values(["checkpoint", "variant", "item", "answer_kind"], kind="stable", ignore_index=True)
    return Result.of(table, _aggregate(table, seed), claims=_claims(table), warnings=[*warnings, *notes])


def _random(exists: np.ndarray, size: int, draws: int, seed: int) -> list[np.ndarray]:
    """Circuits of edges drawn without regard to anything."""
    rng, edges = np.random.default_rng(seed), np.argwhere(exists)
    found: list[np.ndarray] = []
    for _ in range(draws):
        drawn = edges[rng.permutation(len(edges))[:size]]
        found.append(np.zeros_like(exists))
        found[-1][drawn[:, 0], drawn[:, 1]] = True
    return found


def _rows(name: str, runs: list[Runs], circuits: Circuits) -> pd.DataFrame:
    """Rows of one checkpoint run with every circuit."""
    from analyses.patching._wired import Wired

    frames: list[pd.DataFrame] = []
    for number, run in enumerate(progress(runs, "circuits", total=len(runs))):
        wired = Wired(run)
        if number == 0:
            wired.prove()
        clean, corrupt = run.values
        items = run.clean.batch.items
        for variant, several in circuits.items():
            metric = np.mean([wired.metric(kept) for kept in several], axis=0)
            columns = {
                "item": [i.id for i in items],
                "group": [i.group for i in items],
                "answer_kind": [i.answer_kind for i in items],
                "metric_clean": clean,
                "metric_corrupt": corrupt,
                "metric_circuit": metric,
                "restored": metric - corrupt,
                "worth": clean - corrupt,
            }
            frames.append(pd.DataFrame(columns).assign(checkpoint=name, variant=variant))
    return pd.concat(frames, ignore_index=True)


def _aggregate(table: pd.DataFrame, seed: int) -> xr.Dataset:
    by = ["checkpoint", "variant", "group", "answer_kind"]
    text = "share of the behaviour that the circuit carries"
    told = table.assign(worth=table["worth"].where(table.groupby(by)["worth"].transform("sum").abs() > 1e-3))
    return estimate(told, "restored", by, per="worth", seed=seed, name="faithfulness", units="1", long_name=text)


def _claims(table: pd.DataFrame) -> list[Claim]:
    """Whether base's circuit restores less of tuned's behaviour than tuned's own, and whether it beats random ones."""
    own = table[table["checkpoint"] == "tuned"]
    grid = own.pivot_table(index="item", columns="variant", values="restored")
    gaps = own.pivot_table(index="item", values="worth")["worth"].to_numpy(float)
    n, labels = len(grid), clusters_of(grid.index)
    if n < FEWEST:
        needs = f"at least {FEWEST} items"
        return [Claim("transfer", UNJUDGED, WHAT, why=f"{n} items are too few", needs=needs, n=n)]
    if not float(mean_of_items(gaps, clusters=labels).ci_low) > 0:
        why, needs = (
            "tuned does not prefer the answer under clean prompts",
            "prompts whose corruption changes the answer",
        )
        return [Claim("transfer", UNJUDGED, WHAT, why=why, needs=needs, n=n)]
    sides = {name: grid[name].to_numpy(float) / gaps.mean() for name in ("base", "tuned", "random")}
    lost = mean_of_items(sides["tuned"] - sides["base"], clusters=labels)
    above = mean_of_items(sides["base"] - sides["random"], clusters=labels)
    shown: Fields = {
        "n": n, "control": f"random circuits restore {sides['random'].mean():.2f}",
        "assumptions": tuple(f"{name}'s circuit restores {sides[name].mean():.2f} in tuned" for name in CHECKPOINTS),
        "caveat": "edges are taken by estimate; a circuit is not the only one",
    }  # fmt: skip
    numbers: Fields = {
        k: float(getattr(lost, v)) for k, v in (("effect", "value"), ("low", "ci_low"), ("high", "ci_high"))
    }
    if numbers["low"] > 0:
        said = "base's circuit carries less of tuned's behaviour than tuned's own"
        told: Fields = {**shown, **numbers, "estimand": "faithfulness of tuned's circuit minus base's, in tuned"}
        return [Claim("transfer", FOUND, said, **told)]
    if float(above.ci_low) > 0:
        numbers = {"effect": float(above.value), "low": float(above.ci_low), "high": float(above.ci_high)}
        told: Fields = {**shown, **numbers, "estimand": "faithfulness of base's circuit minus random ones', in tuned"}
        return [Claim("same circuit", FOUND, f"{WHAT}, above random circuits by", **told)]
    return [Claim("transfer", NONE, "a circuit of base that carries tuned's behaviour, or loses it", **shown)]


def figures(result: Result) -> dict[str, Figure]:
    """Faithfulness of every circuit in both checkpoints; over steps where there are several."""
    rows = result.summary()
    facet = [d for d in ("checkpoint", "group", "answer_kind") if d in rows and rows[d].nunique() > 1] or None
    title = "Share of the behaviour that a circuit carries, 95 % interval"
    if "step" in rows:
        return {"faithfulness": curve(rows, x="step", color="variant", facet=facet, title=title, reference=1.0)}
    return {"faithfulness": forest(rows, label="variant", facet=facet, title=title, reference=1.0)}
