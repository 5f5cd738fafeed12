"""How trainers lay out checkpoints: steps in names, the model inside a step's folder, what only looks like one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from probe.checkpoints.files import file_hash, has_weights, read_json, stated, weight_files
from probe.checkpoints.formats import unreadable
from probe.checkpoints.names import step_of
from probe.checkpoints.shards import shards_in
from probe.errors import InputError

Kind = Literal["model", "adapter", "shards", "unreadable", "unfinished"]

_SCRATCH = re.compile(r"^(?:\.|tmp[-_])|\.tmp$|[-_]tmp$", re.IGNORECASE)
_BEST = re.compile(r"(?:^|[-_.])best(?:[-_.]|$)", re.IGNORECASE)

# Where a trainer puts the model inside the folder of a step.
INNER = (
    "", "actor/huggingface", "huggingface", "actor", "policy", "hf", "policy/hf", "actor/lora_adapter",
    "lora_adapter", "policy/weights", "policy/weights/model/consolidated", "policy/weights/model", "weights",
    "weights/model", "model",
)  # fmt: skip
_ORDER: tuple[Kind, ...] = ("model", "adapter", "shards", "unreadable", "unfinished")


@dataclass(frozen=True)
class FoundLayout:
    """A checkpoint's folder, what lies in it, and the folder of the step it was found in."""

    path: Path
    kind: Kind
    child: Path
    step: int | None = None
    stage: str | None = None

    @property
    def is_best(self) -> bool:
        """True if the name says that it was kept for its score."""
        return bool(_BEST.search(self.child.name))


def step_of_folder(folder: Path) -> int | None:
    """The step in the folder's name, else the one its trainer_state.json states."""
    step = step_of(folder.name)
    return state_of_training(folder).get("global_step") if step is None else step


def state_of_training(folder: Path) -> dict[str, int]:
    """`global_step` and `max_steps` of a folder's trainer_state.json, as far as it states them."""
    file = folder / "trainer_state.json"
    if not file.is_file():
        return {}
    try:
        state = read_json(file)
    except InputError:  # a step that cannot be read is a step that is not known
        return {}
    return {k: state[k] for k in ("global_step", "max_steps") if isinstance(state.get(k), int)}


def rank(kind: Kind) -> int:
    """Place of a kind among those that can stand for one step: whole models first."""
    return _ORDER.index(kind)


def kind_of(folder: Path) -> Kind | None:
    """What lies in this very folder; None for nothing of a checkpoint."""
    if unreadable(folder) is not None and not _readable_beside(folder):
        return "unreadable"
    if (folder / "adapter_config.json").is_file() and not has_weights(folder):
        return "adapter"
    if has_weights(folder) and (folder / "config.json").is_file():
        return "model"
    if stated(folder).get("transformers_weights"):
        return "model"
    if shards_in(folder) is not None:
        return "shards"
    return "unfinished" if (folder / "config.json").is_file() or has_weights(folder) else None


def _readable_beside(folder: Path) -> bool:
    """A trainer's own partitions often lie beside a whole model, which is then what is read."""
    mlx = isinstance(stated(folder).get("quantization"), dict)
    return has_weights(folder) and (folder / "config.json").is_file() and not mlx


def inside(folder: Path) -> tuple[Path, Kind] | None:
    """Where the model lies in a step's folder, and what it is: whole ones before shards."""
    if not folder.is_dir():
        return (folder, "unreadable") if unreadable(folder) else None
    found: list[tuple[Path, Kind]] = [
        (folder / i, kind) for i in INNER if (folder / i).is_dir() and (kind := kind_of(folder / i))
    ]
    return min(found, key=lambda f: rank(f[1]), default=None)


def is_scratch(folder: Path) -> bool:
    """True for a folder a trainer is still writing, or a hidden one."""
    return bool(_SCRATCH.search(folder.name))


def among(folders: Iterable[Path], stage: str | None) -> list[FoundLayout]:
    """The checkpoints among folders (and files, of formats that are files), unfinished and hidden ones included."""
    held = [(child, *place) for child in sorted(folders) if (place := inside(child))]
    numbers = all(child.name.isdigit() for child, _, _ in held if not is_scratch(child))
    found: list[FoundLayout] = []
    for child, path, kind in held:
        steps = (
            step_of_folder(path),
            step_of_folder(child),
            int(child.name) if numbers and child.name.isdigit() else None,
        )
        found.append(FoundLayout(path, kind, child, next((s for s in steps if s is not None), None), stage))
    return found


def same_bytes(one: FoundLayout, two: FoundLayout) -> bool:
    """True if the same files of weights lie in both; bytes are read only where all sizes agree."""
    if one.kind != two.kind or one.kind not in ("model", "adapter"):
        return False
    try:
        files = [weight_files(f.path) for f in (one, two)]
    except InputError:  # a broken one is told where it is loaded
        return False
    ways: tuple[Callable[[Path], object], ...] = (lambda f: f.stat().st_size, file_hash)
    return all([way(f) for f in files[0]] == [way(f) for f in files[1]] for way in ways)


def snapshots(folder: Path) -> list[tuple[str, Path]]:
    """Revisions and their folders in a repository's folder of the Hub's cache (`models--org--name`)."""
    if not (folder / "snapshots").is_dir() or not folder.name.startswith("models--"):
        return []
    refs = {str(f.relative_to(folder / "refs")): f.read_text().strip() for f in folder.glob("refs/**/*") if f.is_file()}
    named = [(name, folder / "snapshots" / commit) for name, commit in sorted(refs.items())]
    every = [(f.name, f) for f in sorted((folder / "snapshots").iterdir()) if f.is_dir()]
    return [(name, f) for name, f in named or every if f.is_dir()]
