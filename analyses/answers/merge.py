"""What lies between two checkpoints: likelihood, accuracy and diversity along their weighted average.

Definition: theta(w) = (1 - w) theta_base + w theta_tuned; per w the NLL of the given answers (micro), the accuracy of
greedy responses, and over `samples` seeded ones the effective number of answers. `alpha` is w.

Units: nats per token, fractions.

Source: arXiv 2508.04117, equation 1 (average of two checkpoints, weight one half). Which two is not known.

Does not show: that averaging keeps both checkpoints' modes: averaging their probabilities would, weights need not.
Between unrelated checkpoints (no common training) the path runs through models that compute nothing.

Control: the ends w = 0 and w = 1 are the checkpoints themselves; identical checkpoints give a flat line.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

import probe
from analyses.answers import _response_diversity
from analyses.answers._answer_nll import answer_nll
from analyses.answers._checkpoint_average import merge_checkpoints
from analyses.core import reading, stats
from analyses.core.analysis import analysis
from analyses.core.figures import curve
from analyses.core.reading.answered import readable
from analyses.core.reading.grading import Grader, grader
from analyses.core.reading.kept_responses import Decoding, question, responses
from analyses.core.reading.votes import clusters
from analyses.core.result import Result
from analyses.core.work import Case, Work, generation, passes, together
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from probe import Model, Prompts

BY = ["group", "answer_kind", "alpha"]


def _work(case: Case) -> Work:
    """A pass at every weight, and the responses there."""
    options = case.options
    n = len(options["weights"])
    scored = passes(case, "answer", times=n, models=1)
    written = n * (1 + int(options["samples"])) / case.models if options["generate"] else 0
    return together(scored, generation(case, written))


@analysis(renamed={"keep": "kept_weight"}, work=_work)
def merge(
    base: Model,
    tuned: Model,
    prompts: Prompts,
    *,
    weights: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0),
    generate: bool = True,
    grade: str = "auto",
    pattern: str | None = None,
    samples: int = 0,
    temperature: float = 1.0,
    max_new_tokens: int = 256,
    template: Literal["none", "chat"] = "none",
    out: str | None = None,
    kept_weight: float = 0.5,
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """NLL, accuracy and effective answers of the weighted averages of two checkpoints, per item.

    Args:
        weights: shares of the tuned checkpoint.
        generate: also answer the prompts greedily (and `samples` times).
        samples: for diversity.
        out: one average, of the share `kept_weight`.
        kept_weight: share of the tuned checkpoint in the one that is kept.
        seed: samples and the bootstrap.
    """

    graded_by = grader(grade, pattern)
    if generate:
        readable(prompts, graded_by)
    warnings = reading.pair_warnings(base, tuned)
    how = (max_new_tokens, template, samples, temperature, seed, batch_size)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for weight in weights:
            model = _at(base, tuned, weight, Path(scratch))
            scored = answer_nll(model, prompts, template, batch_size)
            drawn = _responses(model, prompts, graded_by, how) if generate else {}
            rows += [{**row, "alpha": weight, **drawn.get((row["item"], row["answer_kind"]), {})} for row in scored]
    if out is not None:
        merge_checkpoints(*_folders(base, tuned), out, kept_weight)
    table = pd.DataFrame(rows)
    for name in ("correct", "modes"):
        if name not in table:
            table[name] = np.nan
    return Result.of(table, _aggregates(table, seed), warnings=warnings)


def _at(base: Model, tuned: Model, weight: float, scratch: Path) -> Model:
    """A handle on the average; the ends are the handles given."""

    if weight in (0.0, 1.0):
        return base if weight == 0.0 else tuned
    out = merge_checkpoints(*_folders(base, tuned), scratch / f"{weight:g}", weight)
    dtype = str(base.dtype).removeprefix("torch.")
    return probe.Model.load(out, backend=base.backend_name, dtype=dtype, device=str(base.device))


def _folders(base: Model, tuned: Model) -> tuple[str, str]:
    folders = [m.checkpoint.path if m.checkpoint else "a model in memory" for m in (base, tuned)]
    if not all(Path(f).is_dir() for f in folders):
        raise InputError(f"merge needs two checkpoint folders on disk; got {folders}")
    return folders[0], folders[1]


def _responses(
    model: Model, prompts: Prompts, graded_by: Grader, how: tuple[Any, ...]
) -> dict[tuple[str, str], dict[str, float]]:
    """Correctness of the greedy response and effective number of answers of the samples, per item."""

    max_new_tokens, template, samples, temperature, seed, batch_size = how
    asked = list({i.id: question(i) for i in prompts.items}.items())
    greedy = responses(model, asked, Decoding(max_new_tokens, template=template), batch_size=batch_size, what="merge")
    drawn = {}
    if samples:
        sampling = Decoding(max_new_tokens, temperature, n_samples=samples, seed=seed, template=template)
        drawn = responses(model, asked, sampling, batch_size=batch_size, what="merge (samples)")
    out: dict[tuple[str, str], dict[str, float]] = {}
    for item in prompts.items:
        f = _response_diversity.frequencies(
            clusters([g.same for g in graded_by.many([(r.text, item) for r in drawn.get(item.id, [])])])
        )
        right = graded_by(greedy[item.id][0].text, item).correct
        out[item.id, item.answer_kind] = {"correct": right, "modes": _response_diversity.modes(f)}
    return out


def _aggregates(table: pd.DataFrame, seed: int) -> xr.Dataset:
    label = "negative log-likelihood of the answer"
    nll = stats.estimate(table, "nll_nats", BY, per="n_tokens", seed=seed, units="nats/token", long_name=label)
    accuracy = stats.estimate(table, "correct", BY, seed=seed, name="accuracy", units="1")
    modes = stats.estimate(table, "modes", BY, seed=seed, units="1", long_name="effective number of answers")
    return xr.merge([nll, accuracy, modes], join="outer")


def figures(result: Result) -> dict[str, Figure]:
    """Each quantity against the weight of the tuned checkpoint; with steps, one line a step."""

    rows = result.summary()
    color, facet = (["group", "answer_kind"], None) if "step" not in rows else ("step", ["group", "answer_kind"])
    titles = {"nll_nats": "NLL of the answers", "accuracy": "Accuracy", "modes": "Effective number of answers"}
    return {
        q: curve(part, x="alpha", color=color, facet=facet, title=f"{t} against the share of the tuned checkpoint")
        for q, t in titles.items()
        if len(part := rows[rows["quantity"] == q])
    }
