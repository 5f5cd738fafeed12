"""The learning rate that a checkpoint's last update was made with.

transformers saves `optimizer.pt` after the scheduler has moved on: the rate in it is the next update's. What was used
stands in the optimizer of the checkpoint one step earlier, or follows from the schedule the run was started with
(`training_args.bin`, read without running any of its code), or was logged (`trainer_state.json`).
"""

from __future__ import annotations

import json
import math
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from probe.errors import InputError

CLOSE = 1e-6  # relative: two rates of one schedule are further apart, or the difference does not matter


def learning_rates_used(folder: Path, groups: Sequence[Mapping[str, Any]], updates: int) -> tuple[list[float], str]:
    """The rate of each parameter group at the update that made this checkpoint, and where that is from.

    Args:
        folder: the checkpoint's.
        groups: `param_groups` of its `optimizer.pt`.
        updates: how many updates the optimizer has made.

    Raises:
        InputError: nothing in or beside the folder says it.
    """
    if not any((folder / n).is_file() for n in ("scheduler.pt", "trainer_state.json")):
        return [float(g["lr"]) for g in groups], "optimizer.pt (no schedule beside it)"
    for read, where in (
        (_from_the_step_before, "optimizer.pt of the checkpoint one step earlier"),
        (_from_the_schedule, "training_args.bin"),
        (_from_the_log, "trainer_state.json"),
    ):
        found = read(folder, groups, updates)
        if found is not None:
            return found, where
    raise InputError(
        f"{folder}: the learning rate of update {updates} is unknown: optimizer.pt holds the next one's, there is no "
        f"checkpoint-{updates - 1} beside it, no training_args.bin whose schedule ends in that rate, and its "
        "trainer_state.json did not log the rate at this step (logging_steps=1). Give adjacent checkpoints"
    )


def _from_the_step_before(folder: Path, groups: Sequence[Mapping[str, object]], updates: int) -> list[float] | None:
    file = folder.parent / f"checkpoint-{updates - 1}" / "optimizer.pt"
    if not file.is_file():
        return None
    saved: dict[str, Any] = torch.load(file, weights_only=True, map_location="cpu", mmap=True)
    steps = {int(float(s["step"])) for s in saved["state"].values() if "step" in s}
    if steps and steps != {updates - 1}:
        return None
    return [float(g["lr"]) for g in saved["param_groups"]] if len(saved["param_groups"]) == len(groups) else None


def _from_the_schedule(folder: Path, groups: Sequence[Mapping[str, Any]], updates: int) -> list[float] | None:
    """The schedule of the run's arguments, believed only where it ends in the rate that was saved."""
    arguments = training_arguments(folder)
    total = _state(folder).get("max_steps")
    if not arguments or not total or any("initial_lr" not in g for g in groups):
        return None
    from transformers import get_scheduler

    base = [float(g["initial_lr"]) for g in groups]
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": b} for b in base])
    warm = int(arguments.get("warmup_steps") or 0)
    share = float(arguments.get("warmup_ratio") or 0)
    fraction = float(arguments.get("warmup_steps") or 0)
    if not warm:  # a share of all steps, under either name
        warm = math.ceil(total * (share or fraction))
    more = arguments.get("lr_scheduler_kwargs") or {}
    kind = str(arguments.get("lr_scheduler_type", ""))
    try:
        schedule: Any = get_scheduler(kind, optimizer, warm, int(total), more if isinstance(more, dict) else {})
    except (ValueError, TypeError):
        return None
    rates = [schedule.get_last_lr()]
    for _ in range(updates):
        optimizer.step()
        schedule.step()
        rates.append(schedule.get_last_lr())
    saved = [float(g["lr"]) for g in groups]
    if not all(math.isclose(a, b, rel_tol=CLOSE, abs_tol=1e-15) for a, b in zip(rates[updates], saved, strict=True)):
        return None
    return [float(r) for r in rates[updates - 1]]


def _from_the_log(folder: Path, groups: Sequence[Mapping[str, Any]], updates: int) -> list[float] | None:
    """The rate logged at this step. Newer versions log the one that was used, older ones the next (as saved)."""
    logged = {
        r["step"]: float(r["learning_rate"]) for r in _state(folder).get("log_history", []) if "learning_rate" in r
    }
    here, before, saved = logged.get(updates), logged.get(updates - 1), float(groups[0]["lr"])
    if here is None or len({float(g.get("initial_lr", 0)) for g in groups}) > 1:
        return None
    if not math.isclose(here, saved, rel_tol=CLOSE):
        return [here] * len(groups)
    return [here] * len(groups) if before is not None and math.isclose(before, here, rel_tol=CLOSE) else None


def _state(folder: Path) -> dict[str, Any]:
    file = folder / "trainer_state.json"
    if not file.is_file():
        return {}
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{file}: malformed JSON ({error.msg}); a truncated file?") from error


class _Stub:
    """Stands for any class a pickle names: it keeps what it is given and does nothing."""

    def __init__(self, *args: object, **_: object) -> None:
        self.args = args

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class _Inert(pickle.Unpickler):
    """Reads the plain values of a pickle; nothing it names is imported or called."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ARG002
        return _Stub

    def persistent_load(self, pid: object) -> Any:  # noqa: ARG002
        return None


def training_arguments(folder: Path) -> dict[str, Any]:
    """Plain values of the arguments a transformers trainer was started with; {} where there are none to read."""
    file = folder / "training_args.bin"
    if not file.is_file() or not zipfile.is_zipfile(file):
        return {}
    with zipfile.ZipFile(file) as archive:
        name = next((n for n in archive.namelist() if n.endswith("data.pkl")), None)
        if name is None:
            return {}
        with archive.open(name) as handle:
            try:
                found = _Inert(handle).load()
            except (pickle.UnpicklingError, AttributeError, TypeError, EOFError, IndexError):
                return {}
    return dict(getattr(found, "state", None) or {})
