"""Series of checkpoints, found as trainers leave them: sorted, nothing counted twice, nothing dropped unsaid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from glob import glob
from itertools import groupby
from pathlib import Path

from probe.checkpoints import layouts
from probe.checkpoints.formats import unreadable
from probe.checkpoints.hub import revisions
from probe.checkpoints.layouts import INNER, FoundLayout, among, inside, is_scratch, kind_of, same_bytes, snapshots
from probe.checkpoints.names import counts_epochs, step_of
from probe.checkpoints.series import Checkpoint, is_repo, refuse_address
from probe.errors import InputError

Source = str | Path | Checkpoint


class Series(list[Checkpoint]):
    """Checkpoints in order of stage and step; `notes` say what was left out, collapsed or counted in another way."""

    def __init__(self, checkpoints: Iterable[Checkpoint] = (), notes: Sequence[str] = ()) -> None:
        super().__init__(checkpoints)
        self.notes: tuple[str, ...] = tuple(dict.fromkeys(notes))


@dataclass(frozen=True)
class _Search:
    pattern: str | None
    base: str | Path | None
    config: str | Path | None
    notes: list[str] = field(default_factory=list[str])


def discover(
    source: Source | Sequence[Source],
    *,
    pattern: str | None = None,
    base: Source | None = None,
    config: str | Path | None = None,
) -> Series:
    """The checkpoints of a series, sorted by stage and step.

    Args:
        source: a trainer's folder, one model or adapter folder, a folder of model folders, a glob of folders
            (`out/checkpoint-*`), `STEP=FOLDER`, a Hub repository with a revision or a glob of them (`repo@step1000`,
            `repo@step*`), a repository's folder in the Hub's cache, or a list of any of these. Where a folder holds
            a model and numbered checkpoints, the model is the last step. A trainer's folder is one of `checkpoint-N`
            (transformers, TRL), `global_step_N/actor` (verl; merged or FSDP shards), `step_N` (open-instruct,
            prime-rl, torchtitan), `global_stepN_hf` (OpenRLHF), `iter_N`, `epoch_N` or bare numbers.
        pattern: keep only folders whose name matches this glob.
        base: the model training started from: step 0, and what adapters are merged into.
        config: a folder with config.json and tokenizer, for shards that have none beside them.

    Raises:
        InputError: nothing found (with what was looked for), a format that is not read (with the command that
            converts it), or one step twice in a stage.
    """
    under = None if base is None else base.path if isinstance(base, Checkpoint) else base
    search = _Search(pattern, under, config)
    sources = [source] if isinstance(source, (str, Path, Checkpoint)) else list(source)
    found = [c for one in sources for c in _discover(one, search)]
    if not found:
        raise InputError("no checkpoints: the list is empty")
    if base is not None:
        found = _with_base(found, base, search)
    if all(c.step is None for c in found):
        return Series(found, search.notes)
    _refuse_one_step_twice(found)
    return Series(sorted(found, key=lambda c: (c.stage or "", -1 if c.step is None else c.step)), search.notes)


def _with_base(found: list[Checkpoint], base: Source, search: _Search) -> list[Checkpoint]:
    if any(c.step == 0 for c in found):
        search.notes.append(f"the series has a step 0 of its own; base {base} is used for adapters only")
        return found
    stages = {c.stage for c in found}
    stage = stages.pop() if len(stages) == 1 else None
    return [replace(Checkpoint.of(base), step=0, stage=stage), *found]


def _refuse_one_step_twice(found: Sequence[Checkpoint]) -> None:
    seen: dict[tuple[str | None, int], Checkpoint] = {}
    for c in found:
        if c.step is None:
            continue
        other = seen.setdefault((c.stage, c.step), c)
        if other is not c:
            raise InputError(
                f"step {c.step} twice in one series: {other.adapter or other.path} and {c.adapter or c.path}; give "
                "those that are meant, one by one (STEP=FOLDER)"
            )


def _discover(source: Source, search: _Search) -> list[Checkpoint]:
    if isinstance(source, Checkpoint):
        return [source]
    text, folder = str(source), Path(source)
    refuse_address(text)
    step, equals, rest = text.partition("=")
    if not folder.exists() and equals and step.isdigit():
        return [replace(_named(rest, search), step=int(step))]
    if not folder.exists() and any(c in text for c in "*?[") and not (is_repo(text) and "@" in text):
        return _matching(text, search)
    if not folder.exists() and (is_repo(text) or "+" in text):
        return _on_hub(text)
    if revisions := snapshots(folder):
        return _revisions(revisions, folder, search)
    if not folder.is_dir():
        raise InputError(unreadable(folder) or f"no folder at {folder}; expected a model folder or one of checkpoints")
    return _in_folder(folder, search)


def _named(text: str, search: _Search) -> Checkpoint:
    refuse_address(text)
    if not Path(text).exists() and not is_repo(text) and "+" not in text:
        raise InputError(f"no folder at {text}; expected a model folder, e.g. 100=out/checkpoint-100")
    return Checkpoint.of(text, base=search.base, config=search.config)


def _on_hub(text: str) -> list[Checkpoint]:
    repo, _, revision = text.partition("@")
    if not any(c in revision for c in "*?["):
        return [Checkpoint.of(text)]
    names = revisions(repo)
    matching = [n for n in names if fnmatchcase(n, revision)]
    if not matching:
        raise InputError(f"{repo}: no revision matches {revision!r}; it has {', '.join(names[:8])}")
    return [replace(Checkpoint.of(f"{repo}@{n}"), stage=repo.rpartition("/")[2]) for n in matching]


def _revisions(named: Sequence[tuple[str, Path]], cached: Path, search: _Search) -> list[Checkpoint]:
    """The revisions in the Hub's cache: those of steps if there are any, else all."""
    stage = cached.name.rpartition("--")[2]
    of_steps = [(name, path) for name, path in named if step_of(name) is not None]
    rest = [name for name, _ in named if step_of(name) is None] if of_steps else []
    search.notes.extend(f"{cached}: revision {name} is left out: no step in its name" for name in rest)
    return [replace(Checkpoint.of(path), step=step_of(name), stage=stage) for name, path in of_steps or named]


def _matching(text: str, search: _Search) -> list[Checkpoint]:
    folders = [Path(f) for f in glob(text) if Path(f).is_dir() or unreadable(Path(f))]
    found = among(folders, folders[0].parent.name if folders else None)
    others = [f for f in folders if f not in {x.child for x in found}]
    series = [c for f in others if _holds_some(f) for c in _in_folder(f, search)]
    if not found and not series:
        raise InputError(f"no checkpoints match {text}; {len(folders)} folders do, without config.json and weights")
    return [*_tidy(found, None, search), *series]


def _holds_some(folder: Path) -> bool:
    return bool(among((f for f in folder.iterdir() if not is_scratch(f)), None))


def _in_folder(folder: Path, search: _Search) -> list[Checkpoint]:
    own, found = kind_of(folder), among(folder.glob(search.pattern or "*"), folder.name)
    if any(_is_step(f) for f in found):
        return _tidy(found, None if own in (None, "unfinished") else FoundLayout(folder, own, folder), search)
    if own == "unreadable":
        raise InputError(str(unreadable(folder)))
    held, usable = inside(folder), [f for f in found if not is_scratch(f.child) and f.kind != "unfinished"]
    alone = held is not None and (held[0] == folder or step_of(folder.name) is not None or len(usable) < 2)
    if held is not None and alone and held[1] != "unfinished":
        return [_checkpoint(FoundLayout(*held, folder, layouts.step_of_folder(folder)), search)]
    groups = _groups(folder)
    if groups:
        search.notes.extend(_left(f, "no step in its name; give it as STEP=FOLDER") for f in found)
        return [c for group in groups for c in _tidy(group, None, search)]
    if not usable:
        if own == "unfinished":
            return [Checkpoint.of(folder)]  # what it lacks is for the load to say
        raise InputError(_nothing(folder, found))
    return _tidy(found, None, search)


def _is_step(found: FoundLayout) -> bool:
    return found.step is not None and found.kind != "unfinished" and not is_scratch(found.child)


def _groups(folder: Path, depth: int = 2) -> list[list[FoundLayout]]:
    """Series one or two folders further down: stages side by side, or a trainer's `weights/`, `exports/`, `ckpt/`."""
    groups: list[list[FoundLayout]] = []
    for child in sorted(f for f in folder.iterdir() if f.is_dir() and not is_scratch(f) and not f.is_symlink()):
        found = among(child.iterdir(), child.name)
        if any(_is_step(f) for f in found):
            groups.append(found)
        elif depth > 1 and not found:
            groups += _groups(child, depth - 1)
    whole = [g for g in groups if any(f.kind in ("model", "adapter") for f in g)]
    chosen = whole or groups  # a trainer's own state often lies beside the exported weights
    return chosen if len(chosen) != 1 else [[replace(f, stage=folder.name) for f in chosen[0]]]


def _nothing(folder: Path, found: Sequence[FoundLayout]) -> str:
    if found:
        return f"no whole checkpoint in {folder}: {'; '.join(_left(f, _why(f)) for f in found[:4])}"
    names = sorted(f.name for f in folder.iterdir() if f.is_dir())
    return (
        f"no checkpoints in {folder}: looked in each of its folders ({', '.join(names[:8]) or 'none'}) for "
        f"config.json or adapter_config.json with weights, or shards, there or in {', '.join(i for i in INNER if i)}; "
        "e.g. checkpoint-100/"
    )


def _left(found: FoundLayout, why: str) -> str:
    return f"{found.child} is left out: {why}"


def _why(found: FoundLayout) -> str:
    return "a hidden or temporary folder" if is_scratch(found.child) else "half-written, it holds no weights"


def _tidy(found: Sequence[FoundLayout], root: FoundLayout | None, search: _Search) -> list[Checkpoint]:
    """The checkpoints of one stage: scratch and half-written ones left out, links and equal copies collapsed."""
    kept = [f for f in found if not is_scratch(f.child) and f.kind != "unfinished"]
    search.notes.extend(_left(f, _why(f)) for f in found if f not in kept)
    if kept and all(f.kind == "unreadable" for f in kept):
        more = f" (all {len(kept)} checkpoints of this folder are of that format)" if len(kept) > 1 else ""
        raise InputError(f"{unreadable(kept[0].path)}{more}")
    steps = sorted((f for f in kept if f.step is not None), key=lambda f: f.step or 0)
    if len({counts_epochs(f.child.name) for f in steps}) > 1:
        epochs = [f for f in steps if counts_epochs(f.child.name)]
        search.notes.extend(
            _left(f, "its name counts epochs, the others steps; give it as STEP=FOLDER") for f in epochs
        )
        steps = [f for f in steps if f not in epochs]
    series = [_one_of(list(same), search) for _, same in groupby(steps, lambda f: f.step)]
    flat = [f for group in series for f in group]
    nameless = [f for f in kept if f.step is None]
    if not flat:
        return [_checkpoint(f, search) for f in nameless]
    for extra in nameless:
        _collapse(extra, flat, search)
    if root is not None:
        flat += _last(root, flat, search)
    if any(counts_epochs(f.child.name) for f in flat):
        search.notes.append(f"steps of {flat[0].child.parent} are epochs, as its folders are named by epoch")
    return [_checkpoint(f, search) for f in flat]


def _one_of(same: list[FoundLayout], search: _Search) -> list[FoundLayout]:
    """Of folders of one step the one that counts: whole before shards, not a link, not a copy, not kept as best."""
    chosen: list[FoundLayout] = []
    for one in sorted(same, key=lambda f: (layouts.rank(f.kind), f.is_best, f.child.is_symlink(), len(f.child.name))):
        other = chosen[0] if chosen else None
        if other is None:
            chosen.append(one)
        elif one.path.resolve() == other.path.resolve():
            continue
        elif layouts.rank(one.kind) > layouts.rank(other.kind):
            search.notes.append(_left(one, f"{other.child} holds the same step whole"))
        elif same_bytes(one, other):
            search.notes.append(_left(one, f"the same weights as {other.child}"))
        elif one.is_best and not other.is_best:
            search.notes.append(
                _left(one, f"kept as the best of training; {other.child} is the checkpoint of its step")
            )
        else:
            chosen.append(one)
    return chosen


def _collapse(extra: FoundLayout, series: Sequence[FoundLayout], search: _Search) -> None:
    """Say what becomes of a folder without a step beside numbered ones."""
    if any(extra.path.resolve() == f.path.resolve() for f in series):
        return
    twin = _twin(extra, series)
    if twin is not None:
        search.notes.append(_left(extra, f"the same weights as {twin.child}"))
    else:
        search.notes.append(_left(extra, f"no step in its name; give it as STEP={extra.child} if it belongs here"))


def _twin(one: FoundLayout, series: Sequence[FoundLayout]) -> FoundLayout | None:
    return next((f for f in reversed(series) if same_bytes(one, f)), None)


def _last(root: FoundLayout, series: Sequence[FoundLayout], search: _Search) -> list[FoundLayout]:
    """The model in the run's own folder as the last step, unless it is one of the series saved again."""
    if root.kind == "unreadable":
        search.notes.append(_left(root, "a format that is not read, beside checkpoints that are"))
        return []
    twin, last = _twin(root, series), series[-1]
    if twin is not None:
        search.notes.append(f"the model in {root.path} itself is {twin.child.name}, saved again")
        return []
    end = int(last.step or 0)
    own = layouts.state_of_training(root.path).get("global_step")
    planned = layouts.state_of_training(last.path).get("max_steps") or -1
    if own is not None and own > end:
        return [replace(root, step=own, stage=last.stage)]
    if own is not None or planned == end:
        told = f"step {own} by its trainer_state.json" if own is not None else f"training ended at step {end}"
        search.notes.append(_left(root, f"{told}, for which a checkpoint stands; its weights are saved in another way"))
        return []
    step = planned if planned > end else end + 1
    how = "the last step planned" if planned > end else f"the first number after {last.child.name}"
    search.notes.append(
        f"the model in {root.path} itself is taken as the last step and shown as step {step}, {how}: its own step is "
        f"not recorded; give STEP={root.path} to say which it is"
    )
    return [replace(root, step=step, stage=last.stage)]


def _checkpoint(found: FoundLayout, search: _Search) -> Checkpoint:
    made = Checkpoint.of(found.path, base=search.base, config=search.config)
    step = found.step if found.step is not None else made.step
    return replace(made, step=step, stage=found.stage)
