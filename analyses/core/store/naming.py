"""What a stored result is about, in names: the run, the checkpoint, the prompts; read from its record alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, TypeAlias

from probe.checkpoints.names import step_of

Record: TypeAlias = Mapping[str, Any]
"""A stored record, as JSON gave it."""

RUN_SLOTS = ("model", "tuned", "base")
BETWEEN = ("weights", "exports", "checkpoints", "ckpt", "ckpts")
LOGS = ("rollouts", "completions", "rollout_data")
STATE = "trainer_state.json"


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


def checkpoints_of(record: Record) -> list[dict[str, Any]]:
    """Descriptions of the checkpoints that a record's numbers are about: path, step."""
    members = record.get("members") or [record.get("inputs", {})]
    found = [next((m[s] for s in RUN_SLOTS if isinstance(m.get(s), dict)), None) for m in members]
    return [c for c in found if c and c.get("path")]


def run_of(record: Mapping[str, object]) -> str:
    """Path of the folder its checkpoints lie in, or the log it read; "" where it read neither.

    Equal weights have one stored result, so two runs that start alike share the first member: the folder of most
    checkpoints counts, the later one of two.
    """
    folders = [run_folder(str(c.get("adapter") or c["path"])) for c in reversed(checkpoints_of(record))]
    return max(dict.fromkeys(folders), key=folders.count, default=_run_of_log(record))


def _run_of_log(record: Record) -> str:
    """RUN of RUN/rollouts, RUN/rollouts/FILE, RUN/trainer_state.json or a log RUN; "" for one that lies elsewhere."""
    inputs = record.get("inputs", {})
    given = inputs.get("rollouts") or inputs.get("log")
    path = PurePath(str(given.get("source") or "")) if isinstance(given, dict) else PurePath()
    if path.name == STATE or (not path.suffix and "log" in inputs and path.name):
        return run_folder(str(path.parent if path.suffix else path))
    path = path.parent if path.suffix else path
    return str(path.parent) if path.name in LOGS else ""


def sources_of(record: Record) -> Iterator[str]:
    """Where prompts, rollouts, logs and tables were read from."""
    for given in record.get("inputs", {}).values():
        if isinstance(given, dict) and given.get("source"):
            yield str(given["source"])


def prompts_of(record: Mapping[str, object]) -> str:
    """Names of the files it read beside models, without their folders."""
    return ", ".join(PurePath(source).name for source in sources_of(record))


def checkpoint_names(record: Record) -> list[tuple[int | None, str]]:
    """(step, name) of every checkpoint the numbers are about: `checkpoint-60`, or a repository with its revision."""
    members = record.get("members") or []
    found = list[tuple[int | None, str]]()
    for number, described in enumerate(checkpoints_of(record)):
        place = PurePath(str(described.get("adapter") or described["path"]))
        named = next((p.name for p in (place, *place.parents) if step_of(p.name) is not None), place.name)
        revision = described.get("revision")
        member = members[number] if number < len(members) else {}
        step = member.get("step", described.get("step", step_of(named)))
        found.append((step, f"{place.name}@{revision}" if revision else named))
    return found


def named(records: Sequence[Mapping[str, object]], analysis: str, run: str) -> list[Record]:
    """The results of an analysis about the run of this name; sweeps, and single runs only where there is none.

    Of results with the same options on the same inputs the newest counts: the others are of an older version, or of
    fewer checkpoints.

    Args:
        records: of a store, oldest first.
        analysis: whose results.
        run: name of the run, as `run_names` makes it of all runs in the records.
    """
    names = run_names(sorted({run_of(r) for r in records} - {""}))
    path = names.get(run)
    hits = [r for r in records if r["analysis"] == analysis and path is not None and run_of(r) == path]
    swept = [r for r in hits if r.get("kind") == "sweep"]
    return list({_asked(r): r for r in swept or hits}.values())


def _asked(record: Record) -> str:
    """What was asked, whoever computed it: options, and inputs by their fingerprints."""
    prints = {n: d.get("fingerprint") for n, d in record.get("inputs", {}).items() if isinstance(d, dict)}
    slots = {n: p for n, p in prints.items() if n not in RUN_SLOTS or record.get("kind") != "sweep"}
    return json.dumps([record.get("options"), slots, record.get("pairs")], sort_keys=True, default=str)
