"""What a study says in a terminal: what it will do, then a card for every claim and one table for each run."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence

import click
import pandas as pd

from analyses.core import claim
from analyses.core.claim import FOUND, NONE, Claim
from analyses.core.result import Result
from analyses.core.running.inputs import Loading
from analyses.core.running.study.arms import over_seeds
from analyses.core.running.study.effort import effort
from analyses.core.running.study.questions import QUESTIONS, Ask
from analyses.core.running.study.runs import Run
from analyses.core.running.study.study import Answers, Way, split
from analyses.core.running.usual import usual
from apps.command import lines
from apps.command.contents import size
from apps.command.terminal import merged

WIDTH = 100
# Two lines of a warning; the rest is in the report.
NOTE = textwrap.TextWrapper(WIDTH, initial_indent="  note: ", subsequent_indent="    ", max_lines=2, placeholder=" ...")
# Of an optional input, such as a control run, for which a study has no word.
NOT_GIVEN = re.compile(r"without \w+: no \w+ result was given")
MARKS = {"error": ("✗", "red"), "warning": ("!", "yellow"), "info": ("•", "green")}
OTHER = {NONE: ("–", None), "cannot be judged": ("?", None)}
TABLED = ("evaluate", "perplexity")
QUANTITIES = ("accuracy", "ppl")


def intention(run: Run, asks: Sequence[Ask]) -> Iterator[str]:
    """What was found in a run's folder, what will be run on it, and what will not, with the reason."""
    allowed, without = split(run, asks)
    there = [run.steps, f"{len(run.prompts.items)} items" if run.prompts else "no prompts"]
    there += [f"{len(run.rollouts)} rollouts"] if run.rollouts is not None else []
    there += [f"a log of {len(run.log.steps)} steps"] if run.log is not None else []
    yield f"{run.name}: {', '.join(there)}"
    yield f"  runs {', '.join(ask.analysis for ask in allowed) or 'nothing'}"
    for why in dict.fromkeys(without.values()):
        names = [name for name, reason in without.items() if reason == why]
        yield f"  not {', '.join(names)}: this needs {why}"
    yield from (f"  note: {note}" for note in (*run.series.notes, *run.notes))


def effort_of(run: Run, asks: Sequence[Ask], way: Way, loading: Loading) -> str:
    """What the study of a run takes, at rates measured here."""
    found = effort(run, split(run, asks)[0], way, loading)
    minutes = f"{found.seconds / 60:.0f} min" if found.seconds >= 90 else f"{found.seconds:.0f} s"
    more = f"; not counted: {', '.join(found.uncounted)}" if found.uncounted else ""
    return f"  takes about {minutes} and {size(int(found.peak))} of memory, by rates measured here{more}"


def answers(found: Answers) -> Iterator[str]:
    """The cards of a run, its table, and what was not answered."""
    yield click.style(f"{found.run.name}  ({found.run.steps})", bold=True)
    for name, one in found.claims:
        yield from card(name, one)
    if not found.claims:
        yield "  No claim: the analyses that speak in sentences were not asked, or their inputs do not suit them."
    if text := lines.printed(table(found)):
        yield ""
        yield textwrap.indent(text, "  ")
    warnings = dict.fromkeys(w for result in found.results.values() for w in merged(result.warnings))
    for warning in (w for w in warnings if not NOT_GIVEN.fullmatch(w)):
        yield from NOTE.wrap(warning)
    for name, why in found.refused.items():
        yield f"  ? {name} was not answered: {why}"
    for name, why in found.failed.items():
        yield click.style(f"  ✗ {name} failed: {why}", fg="red")


def arms(found: Sequence[Answers], pattern: str) -> str:
    """Accuracy and perplexity of every arm, mean and spread over its seeds."""
    shown: list[dict[str, object]] = []
    for analysis, quantity in zip(TABLED, QUANTITIES, strict=True):
        if any(analysis in one.results for one in found):
            rows = usual(over_seeds(found, pattern, analysis, quantity))
            dims = [str(c) for c in rows if c not in ("step", "mean", "sd", "seeds")]
            told = [c for c in dims if c in ("arm", "quantity") or rows[c].nunique(dropna=False) > 1]
            shown += [_arm(told, part.sort_values("step")) for _, part in rows.groupby(told, dropna=False, sort=False)]
    return lines.printed(pd.DataFrame(shown))


def _arm(dims: Sequence[str], part: pd.DataFrame) -> dict[str, object]:
    ends = {when: part.iloc[at] for when, at in (("first", 0), ("last", -1))}
    spread = {when: "" if pd.isna(row["sd"]) else f" ± {row['sd']:.2g} (sd)" for when, row in ends.items()}
    said = {when: f"{row['mean']:.3g}{spread[when]}" for when, row in ends.items()}
    named = {dim: part[dim].iloc[0] for dim in dims}
    return {**named, "over steps": lines.sparkline(list(part["mean"])), **said, "seeds": int(part["seeds"].max())}


def card(name: str, one: Claim) -> Iterator[str]:
    """A claim: what was found before its name, broken at words."""
    shown = claim.card(one)
    mark, colour = MARKS[str(shown["tone"])] if one.answer == FOUND else OTHER[one.answer]
    said = str(shown["sentence"])
    of = f"{one.group}: " if one.group and one.group not in said else ""
    wrapped = textwrap.wrap(f"{of}{said}  ({name})", WIDTH - 4, break_on_hyphens=False)
    for number, line in enumerate(wrapped):
        yield click.style(f"  {mark} {line}", fg=colour) if number == 0 else f"    {line}"


def table(found: Answers) -> pd.DataFrame:
    """Accuracy and perplexity of the run over its steps, at most a dozen lines."""
    parts = [lines.curves(_told(result), lines.MOST // 2)[0] for result in _tabled(found)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _tabled(found: Answers) -> Iterator[Result]:
    yield from (found.results[name] for name in TABLED if name in found.results)


def _told(result: Result) -> pd.DataFrame:
    rows = result.summary()
    return rows[rows["quantity"].isin(QUANTITIES)]


def questions(names: Sequence[str]) -> str:
    """The questions in words."""
    return "  ".join(QUESTIONS[name] for name in names)
