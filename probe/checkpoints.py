"""Checkpoints: the identity of saved weights, and series of them found in folders."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from probe.errors import InputError

_STEP = re.compile(r"(?:^|[-_.])(?:checkpoint|global_step|step|iter)[-_]?(\d+)$")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)


@dataclass(frozen=True)
class Checkpoint:
    """Saved weights: a folder or a Hub repository, its revision, and where it lies in training.

    `step` counts optimizer steps; `stage` names the run or phase (`sft`, `rl`); `adapter` is a folder
    with a PEFT adapter to merge into `path`.
    """

    path: str
    revision: str | None = None
    step: int | None = None
    stage: str | None = None
    adapter: str | None = None

    @classmethod
    def of(cls, value: Checkpoint | str | Path) -> Checkpoint:
        """The checkpoint a path names (`repo@revision` for a Hub revision), with its step."""
        if isinstance(value, Checkpoint):
            return value
        text = str(value)
        if not Path(text).exists() and "@" in text:
            path, _, revision = text.rpartition("@")
            return cls(path, revision=revision, step=_step_of(revision))
        return cls(text, step=_step_of_folder(Path(text)))

    @property
    def label(self) -> str:
        """A short name for people: `checkpoint-60`, `repo@step1000`."""
        name = Path(self.adapter or self.path).name
        return f"{name}@{self.revision}" if self.revision else name

    @property
    def folder(self) -> Path:
        """The folder the weights lie in; a Hub repository is looked up (and fetched) first."""
        if self.revision is None and Path(self.path).is_dir():
            return Path(self.path)
        if self.revision is None and (self.path.startswith((".", "/", "~")) or self.path.count("/") != 1):
            raise InputError(f"no model folder at {self.path}")
        from probe.hub import snapshot

        return snapshot(self.path, self.revision)

    def fingerprint(self) -> str:
        """Hex hash of weights and configuration (and adapter); bytes are read once per file version."""
        folders = [self.folder, *([Path(self.adapter)] if self.adapter else [])]
        files = [f for folder in folders for f in (*weight_files(folder), *folder.glob("*config.json"))]
        names = sorted({f for f in files if f.name != "tokenizer_config.json"})
        return _digest([f"{f.name}:{_file_hash(f)}" for f in names])

    def tokenizer_fingerprint(self) -> str:
        """Hex hash of the tokenizer's files, chat template included."""
        files = [self.folder / name for name in _TOKENIZER_FILES]
        return _digest([f"{f.name}:{_file_hash(f)}" for f in files if f.is_file()])


def discover(
    source: str | Path | Checkpoint | Sequence[str | Path | Checkpoint], *, pattern: str | None = None
) -> list[Checkpoint]:
    """The checkpoints of a series, sorted by step.

    Args:
        source: a trainer's folder with `checkpoint-N`, one model folder, a folder of model folders, or a
            list of any of these.
        pattern: keep only folders whose name matches this glob.

    Raises:
        InputError: nothing found (with what was looked for), or two checkpoints with one step and stage.
    """
    sources = [source] if isinstance(source, (str, Path, Checkpoint)) else list(source)
    found = [c for one in sources for c in _discover(one, pattern)]
    if not found:
        raise InputError("no checkpoints: the list is empty")
    if len(sources) > 1 and all(c.step is None for c in found):
        return found
    return sorted(found, key=lambda c: (c.stage or "", -1 if c.step is None else c.step))


def _discover(source: str | Path | Checkpoint, pattern: str | None) -> list[Checkpoint]:
    if isinstance(source, Checkpoint):
        return [source]
    folder = Path(source)
    if not folder.is_dir():
        if "/" in str(source) and not folder.exists() and not str(source).startswith((".", "/", "~")):
            return [Checkpoint.of(source)]
        raise InputError(f"no folder at {folder}; expected a model folder or a folder of checkpoints")
    if is_model_folder(folder):
        return [Checkpoint.of(folder)]
    inner = sorted(f for f in folder.glob(pattern or "*") if f.is_dir())
    models = [f for f in inner if is_model_folder(f)]
    if not models:
        raise InputError(
            f"no checkpoints in {folder}: looked for config.json beside model weights there and in its "
            f"folders ({', '.join(f.name for f in inner[:8]) or 'none'}), e.g. checkpoint-100/"
        )
    return [replace(Checkpoint.of(f), stage=folder.name) for f in models]


def is_model_folder(folder: Path) -> bool:
    """True if the folder holds a configuration (weights are looked at when they are loaded)."""
    return (folder / "config.json").is_file()


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, checked whole: every shard of the index, no truncated file.

    Raises:
        InputError: no weights, a missing shard (named), a truncated or malformed file (named).
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = set(json.loads(index.read_text())["weight_map"].values())
        files = [folder / name for name in sorted(names)]
    else:
        files = [f for f in (folder / "model.safetensors", folder / "adapter_model.safetensors") if f.is_file()]
    missing = [f.name for f in files if not f.is_file()]
    if missing:
        raise InputError(f"{folder}: missing weight file(s) {', '.join(missing)}; copy the checkpoint again")
    for file in files:
        _check_whole(file)
    if not files and not pickle_files(folder):
        raise InputError(f"{folder}: no weights; expected model.safetensors or its shards")
    return files or pickle_files(folder)


def pickle_files(folder: Path) -> list[Path]:
    """Weight files in pickle format, which can run code when read."""
    return sorted([*folder.glob("pytorch_model*.bin"), *folder.glob("adapter_model.bin")])


def _check_whole(file: Path) -> None:
    """Raise if the file is shorter than its own header says (an interrupted copy reads as garbage)."""
    size = file.stat().st_size
    with file.open("rb") as handle:
        head = handle.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if 8 + length > size:
            raise InputError(f"{file}: truncated or not safetensors ({size} bytes); copy the checkpoint again")
        header: dict[str, Any] = json.loads(handle.read(length))
    end = max((v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"), default=0)
    if 8 + length + end != size:
        raise InputError(
            f"{file}: truncated ({size} bytes, its header describes {8 + length + end}); copy the checkpoint again"
        )


def _step_of(name: str) -> int | None:
    match = _STEP.search(name)
    return int(match.group(1)) if match else None


def _step_of_folder(folder: Path) -> int | None:
    step = _step_of(folder.name)
    state = folder / "trainer_state.json"
    if step is not None or not state.is_file():
        return step
    value = json.loads(state.read_text()).get("global_step")
    return int(value) if isinstance(value, int) else None


def cache_folder() -> Path:
    """Where small facts about files are kept (PROBE_CACHE, default ~/.cache/posttrain-probe)."""
    return Path(os.environ.get("PROBE_CACHE") or Path.home() / ".cache" / "posttrain-probe")


def _file_hash(file: Path) -> str:
    """SHA-256 of a file, remembered under its path, size and modification time."""
    stat = file.stat()
    name = _digest([str(file.resolve()), str(stat.st_size), str(stat.st_mtime_ns)])
    note = cache_folder() / "hashes" / name
    if note.is_file():
        return note.read_text()
    with file.open("rb") as handle:
        value = hashlib.file_digest(handle, "sha256").hexdigest()
    note.parent.mkdir(parents=True, exist_ok=True)
    temporary = note.with_name(f"{name}.{os.getpid()}")
    temporary.write_text(value)
    temporary.replace(note)
    return value


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
