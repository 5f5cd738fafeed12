"""Files of a checkpoint: whole or refused, and their hashes (each byte read once)."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from probe.errors import InputError


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder, checked whole: every shard of the index, no truncated file.

    Pickle files are listed where there is no safetensors file; reading them needs leave.

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
        raise InputError(f"{folder}: no weights; expected model.safetensors or its shards. {_unmerged(folder)}")
    return files or pickle_files(folder)


def pickle_files(folder: Path) -> list[Path]:
    """Weight files in pickle format, which can run code when read."""
    return sorted([*folder.glob("pytorch_model*.bin"), *folder.glob("adapter_model.bin")])


def _unmerged(folder: Path) -> str:
    """What to do where a trainer left only its own shards."""
    held = sorted(f.parent.name for f in folder.glob("*/config.json"))
    if held:
        return f"It holds {len(held)} checkpoints ({held[0]} is one): name one, or sweep over all (--checkpoints)"
    if list(folder.parent.glob("model_world_size_*_rank_*.pt")):
        return "Its parent holds FSDP shards of verl: merge them first (python -m verl.model_merger merge ...)"
    return "If training saved sharded optimizer states only, export the model first"


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


def cache_folder() -> Path:
    """Where small facts about files are kept (PROBE_CACHE, default ~/.cache/posttrain-probe)."""
    return Path(os.environ.get("PROBE_CACHE") or Path.home() / ".cache" / "posttrain-probe")


def file_hash(file: Path) -> str:
    """SHA-256 of a file, remembered under its path, size and modification time."""
    stat = file.stat()
    name = digest([str(file.resolve()), str(stat.st_size), str(stat.st_mtime_ns)])
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


def digest(parts: Sequence[str]) -> str:
    """Short hex hash of texts."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
