"""Runs that are seeds of one arm: mean and spread of a quantity over them, step by step."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from analyses.core.result import COMPANIONS
from analyses.core.running.study.study import Answers
from probe.errors import InputError

NUMBERS = ("value", *COMPANIONS, "unit")


def arm_of(name: str, pattern: str) -> str | None:
    """The arm that a run's name says: the pattern's first group, or all that it matches; None where it does not.

    Raises:
        InputError: no regular expression.
    """
    try:
        found = re.search(pattern, name)
    except re.error as error:
        raise InputError(f"--group-by {pattern!r} is no regular expression: {error}") from error
    return None if found is None else found[1] if found.re.groups else found[0]


def over_seeds(answers: Sequence[Answers], pattern: str, analysis: str, quantity: str) -> pd.DataFrame:
    """A quantity of every arm: `mean` over its runs, `sd` between them (n - 1; NaN of a single one), `seeds`.

    The spread is that of runs, and says nothing of items: intervals of single runs are about items, and are not added.

    Args:
        answers: of the runs.
        pattern: regular expression on their names; runs that it does not match are left out.
        analysis: whose result is read.
        quantity: which of its quantities.

    Raises:
        InputError: the pattern matches no run.
    """
    parts = list[pd.DataFrame]()
    for one in answers:
        arm = arm_of(one.run.name, pattern)
        if arm is not None and analysis in one.results:
            rows = one.results[analysis].summary()
            parts.append(rows[rows["quantity"] == quantity].assign(arm=arm, run=one.run.name))
    if not parts:
        names = ", ".join(one.run.name for one in answers)
        raise InputError(f"--group-by {pattern!r} matches none of the runs: {names}")
    rows = pd.concat(parts, ignore_index=True)
    dims = [c for c in rows if c not in (*NUMBERS, "run")]
    grouped = rows.groupby(dims, dropna=False, sort=False)["value"]
    return grouped.agg(mean="mean", sd="std", seeds="count").reset_index()
