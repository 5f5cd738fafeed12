"""RunLog: scalars of a run by optimizer step, from what trainers and trackers write.

Read by content, not by name: `trainer_state.json` (transformers, TRL), verl's file logger (`{"step", "data"}`
lines) and its console lines (`step:1 - key:value - ...`), JSONL or CSV with a step column (OpenRLHF, exports of W&B),
W&B's run file (`run-<id>.wandb`), TensorBoard's CSV download and event files (all of a folder), trackio's SQLite file
and its Parquet export. `step_from` names the column that was taken for the optimizer step, `notes` what was left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from probe.errors import InputError
from probe.readers.branches import without_abandoned
from probe.readers.run_files import rows_at
from probe.readers.run_values import Row, entries

ALIASES: dict[str, tuple[str, ...]] = {
    "entropy": ("entropy", "train/entropy", "actor/entropy", "actor/entropy_loss", "policy/entropy", "entropy_loss"),
    "reward": ("reward", "train/reward", "critic/score/mean", "critic/rewards/mean", "rewards/mean"),
}
"""What the usual trainers call the same quantity, most specific first."""


@dataclass(frozen=True, eq=False)
class RunLog:
    """Scalars by optimizer step.

    Attributes:
        frame: the steps as its index and one float column per scalar (NaN: not logged).
        source: where it was read from.
        step_from: the column that the steps were taken from.
        notes: what a reader of the numbers must know (rows left out, an abandoned branch).
    """

    frame: pd.DataFrame
    source: str = "memory"
    step_from: str = "step"
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: str | Path, run: str | None = None) -> RunLog:
        """The scalars of a file, or of a folder's `trainer_state.json`, metrics, event files or W&B run.

        Args:
            path: the file or folder; a folder's event files are read in the order they were begun, later ones win.
            run: which run, where a file holds several (trackio) or a folder does (`runs/`, `wandb/`).

        Raises:
            InputError: no such file, rows without a step, several runs, nothing numeric, a cell that is almost a
                number.
        """
        rows, source = rows_at(Path(path), run)
        return cls._of_rows(rows, source)

    @classmethod
    def of(
        cls, rows: Iterable[tuple[object, Mapping[str, object]] | Mapping[str, object]], source: str = "memory"
    ) -> RunLog:
        """A log of (step, {name: value}) pairs, or of dicts with a `step`, in the order of writing."""
        made: list[Row] = []
        for number, row in enumerate(rows, start=1):
            cells = {**row[1], "step": row[0]} if isinstance(row, tuple) else row
            made.append(Row(cells, f"{source}: row {number}"))
        return cls._of_rows(made, source)

    @classmethod
    def _of_rows(cls, rows: Sequence[Row], source: str) -> RunLog:
        if not rows:
            raise InputError(f"{source}: no scalars by step; expected rows with a step and numbers")
        written, step_from, notes = entries(rows, source)
        kept, cut = without_abandoned(written)
        by_step: dict[int, dict[str, float]] = {}
        for entry in kept:
            # Training and evaluation of one step come in separate lines: they share a row here.
            by_step.setdefault(entry.step, {}).update(entry.values)
        frame = pd.DataFrame.from_dict({s: v for s, v in by_step.items() if v}, orient="index").sort_index()
        if frame.empty:
            raise InputError(f"{source}: no scalars by step; expected rows with a step and numbers")
        frame.index.name = "step"
        return cls(frame[sorted(frame.columns)].astype(float), source, step_from, (*notes, *cut))

    @property
    def names(self) -> list[str]:
        """Names of the scalars."""
        return list(self.frame.columns)

    @property
    def steps(self) -> list[int]:
        """Steps, sorted."""
        return [int(s) for s in self.frame.index]

    def fingerprint(self) -> str:
        """Hex hash of names, steps and values; the order of lines is no part of it."""
        digest = hashlib.sha256(json.dumps([self.names, self.steps]).encode())
        digest.update(np.ascontiguousarray(self.frame.to_numpy(float)).tobytes())
        return digest.hexdigest()[:32]

    def series(self, name: str) -> pd.Series:
        """One scalar by step, steps without it left out.

        Trackers spell what a trainer logs in their own way: `loss` is also `train/loss`, `eval_loss` also
        `eval/loss`; `entropy` and `reward` are found under the usual trainers' own names.

        Raises:
            InputError: no such scalar (with those there are).
        """
        for column in (name, *_spellings(name), *ALIASES.get(name, ())):
            if column in self.frame.columns:
                return self.frame[column].dropna()
        raise InputError(f"{self.source}: no scalar {name!r}; it has {', '.join(self.names[:30])}")


def _spellings(name: str) -> tuple[str, ...]:
    """The same scalar as transformers' callbacks rename it for trackers, and back."""
    for kind in ("eval", "test"):
        if name.startswith(f"{kind}_"):
            return (f"{kind}/{name.removeprefix(f'{kind}_')}",)
        if name.startswith(f"{kind}/"):
            return (f"{kind}_{name.removeprefix(f'{kind}/')}",)
    return (name.removeprefix("train/"),) if name.startswith("train/") else (f"train/{name}",)
