"""What a stored result is about, in names: the run, the checkpoint, the prompts; read from its record alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from probe.checkpoints.names import step_of

RUN_SLOTS = ("model", "tuned", "base")
BETWEEN = ("weights", "exports", "checkpoints", "ckpt", "ckpts")
LOGS = ("rollouts", "completions")


def run_folder(path: str) -> str:
    """A run's folder: what holds its steps (`checkpoint-N`, `global_step_N/actor` ...), else the model's own folder.

    Folders that trainers put between a run and its steps (`weights/`, `exports/`) belong to the run.
    """
    place = PurePath(path)
    step = next((p for p in (place, *place.parents) if step_of(p.name) is not None), None)
    if step is None:
        return path
    return str(step.parent.parent if step.parent.name in BETWEEN else step.parent)


def run_names(runs: Sequence[str]) -> dict[str, str]:
    """Shortest names that tell the runs' folders apart -> path."""
    for depth in range(1, 6):
        names = ["/".join(PurePath(r).parts[-depth:]) for r in runs]
        if len(set(names)) == len(names):
            return dict(zip(names, runs, strict=True))
    return {r: r for r in runs}


def checkpoints_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Descriptions of the checkpoints that a record's numbers are about: path, step."""
    members = record.get("members") or [record.get("inputs", {})]
    found = [next((m[s] for s in RUN_SLOTS if isinstance(m.get(s), dict)), None) for m in members]
    return [c for c in found if c and c.get("path")]


def run_of(record: Mapping[str, Any]) -> str:
    """Path of the folder its checkpoints lie in, or the log it read; "" where it read neither.

    Equal weights have one stored result, so two runs that start alike share the first member: the folder of most
    checkpoints counts, the later one of two.
    """
    folders = [run_folder(str(c.get("adapter") or c["path"])) for c in reversed(checkpoints_of(record))]
    return max(dict.fromkeys(folders), key=folders.count, default=_run_of_log(record))


def _run_of_log(record: Mapping[str, Any]) -> str:
    """RUN of RUN/rollouts or RUN/rollouts/FILE; "" for a log that lies anywhere else."""
    given = record.get("inputs", {}).get("rollouts")
    path = PurePath(str(given.get("source") or "")) if isinstance(given, dict) else PurePath()
    path = path.parent if path.suffix else path
    return str(path.parent) if path.name in LOGS else ""


def sources_of(record: Mapping[str, Any]) -> Iterator[str]:
    """Where prompts, rollouts, logs and tables were read from."""
    for given in record.get("inputs", {}).values():
        if isinstance(given, dict) and given.get("source"):
            yield str(given["source"])
