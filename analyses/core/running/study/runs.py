"""What lies in the folder of a run: its checkpoints, its rollouts, its log of scalars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from analyses.core.running.inputs import Loading
from analyses.core.running.series import series_of
from analyses.core.store.naming import run_names
from probe import Prompts, Rollouts, RunLog
from probe.checkpoints import Series, discover
from probe.errors import InputError

LOGGED = ("rollouts", "completions", "rollout_data")
FRACTIONS = ("entropy", "reward")


@dataclass
class Run:
    """One training run as a study sees it.

    Attributes:
        name: shortest name that tells the runs apart.
        path: its folder.
        series: its checkpoints, in order.
        prompts: the items it is asked about.
        rollouts, log: what its trainer wrote beside the checkpoints; None where it wrote none that can be read.
        notes: what was found and cannot be used, in words.
    """

    name: str
    path: Path
    series: Series
    prompts: Prompts | None = None
    rollouts: Rollouts | None = None
    log: RunLog | None = None
    notes: list[str] = field(default_factory=list[str])

    @property
    def has(self) -> set[str]:
        """What of `NEEDS` is there."""
        items = self.prompts.items if self.prompts else ()
        there = {
            "prompts": bool(items),
            "answers": bool(items) and all(item.answer for item in items),
            "several": len(self.series) > 1,
            "seen": {True, False} <= {item.seen for item in items},
            "corrupt": bool(items) and all(str(item.meta.get("corrupt", "")).strip() for item in items),
            "rollouts": self.rollouts is not None,
            "log": self.log is not None,
        }
        return {name for name, is_there in there.items() if is_there}

    @property
    def roles(self) -> dict[str, tuple[str, ...]]:
        """Groups of seen and unseen items, as options; {} where a group has both, or items of neither kind."""
        said: dict[str, set[bool | None]] = {}
        for item in self.prompts.items if self.prompts else ():
            said.setdefault(item.group, set()).add(item.seen)
        if any(len(kinds) > 1 for kinds in said.values()):
            return {}
        seen, unseen = (tuple(sorted(g for g, kinds in said.items() if kinds == {kind})) for kind in (True, False))
        return {"seen": seen, "unseen": unseen, "targets": seen} if seen and unseen else {}

    @property
    def steps(self) -> str:
        """Its checkpoints in words."""
        first, last = self.series[0].step, self.series[-1].step
        count = len(self.series)
        return f"{count} checkpoints, steps {first} to {last}" if count > 1 else f"1 checkpoint, step {first or 0}"


def found(folders: Sequence[str | Path], prompts: Prompts | None, loading: Loading) -> list[Run]:
    """The runs of the given folders.

    Raises:
        InputError: none is given, one twice, or one holds no checkpoints.
    """
    if not folders:
        raise InputError("a study is of one run or more: give the folder that holds the checkpoints")
    texts = [str(folder).rstrip("/") for folder in folders]
    if twice := next((text for text in texts if texts.count(text) > 1), None):
        raise InputError(f"the run {twice} is given twice; give each once")
    names = {path: name for name, path in run_names(texts).items()}
    return [_run(names[text], text, prompts, loading) for text in texts]


def _run(name: str, text: str, prompts: Prompts | None, loading: Loading) -> Run:
    series = series_of(discover(text, base=loading.base_model, config=loading.config_folder), loading)
    made = Run(name, Path(text), series, prompts)
    for folder in (made.path / part for part in LOGGED):
        if made.rollouts is None and folder.exists():
            try:
                made.rollouts = Rollouts.read(folder)
            except InputError as error:
                made.notes.append(f"rollouts are left out: {error}")
    made.log = _log(made.path)
    return made


def _log(folder: Path) -> RunLog | None:
    """The scalars of a run where they hold an entropy and a reward; what its folder holds beside is no log of those."""
    try:
        log = RunLog.read(folder)
        for name in FRACTIONS:
            log.series(name)
    except InputError:
        return None
    return log
