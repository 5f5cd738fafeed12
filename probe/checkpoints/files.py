"""Files of a checkpoint: whole or refused, and their hashes (each byte read once)."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open

from probe.errors import InputError

_NUMBERED = re.compile(r"^(?:model|pytorch_model)-\d+-of-(\d+)\.(?:safetensors|bin)$")
_WHOLE = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_ADAPTER = ("adapter_model.safetensors", "adapter_model.bin")


def config_of(folder: Path) -> dict[str, Any]:
    """What a folder's config.json says; nothing where there is none.

    Raises:
        InputError: a config.json that is cut short.
    """
    return read_json(folder / "config.json") if (folder / "config.json").is_file() else {}


def stated(folder: Path) -> dict[str, object]:
    """`config_of`, where a malformed file is for the load to tell."""
    try:
        return config_of(folder)
    except InputError:
        return {}


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint; InputError where the file was cut short."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: malformed ({error}); copy the checkpoint again") from error
    if not isinstance(found, dict):
        raise InputError(f"{file}: malformed (no JSON object); copy the checkpoint again")
    return cast("dict[str, Any]", found)


def misread() -> tuple[type[Exception], ...]:
    """What transformers raises at a file of a checkpoint that says what it does not expect."""
    from huggingface_hub.errors import StrictDataclassError

    return ValueError, OSError, LookupError, TypeError, AttributeError, StrictDataclassError


def weight_files(folder: Path) -> list[Path]:
    """The files transformers reads the weights of a folder from, checked whole: every shard, none cut short.

    The order is its own: one file before shards, safetensors before pickle; what else lies there is not read.

    Raises:
        InputError: no weights, a missing shard (named), a truncated or malformed file (named).
    """
    files = _listed(folder)
    missing = [f.name for f in files if not f.is_file()]
    if missing:
        raise InputError(f"{folder}: missing weight file(s) {', '.join(missing)}; copy the checkpoint again")
    for file in (f for f in files if f.suffix == ".safetensors"):
        _check_whole(file)
    if not files:
        raise InputError(f"{folder}: no weights; expected model.safetensors or its shards. {_instead(folder)}")
    return files


def _listed(folder: Path) -> list[Path]:
    chosen = config_of(folder).get("transformers_weights")
    for name in (*([str(chosen)] if chosen else []), *_WHOLE):
        file = folder / name
        if file.is_file() and name.endswith(".index.json"):
            return [folder / shard for shard in sorted(set(read_json(file)["weight_map"].values()))]
        if file.is_file():
            return [file]
    return [folder / name for name in _ADAPTER if (folder / name).is_file()][:1]


def has_weights(folder: Path) -> bool:
    """True if the weights of a whole model lie here, complete or not."""
    return any((folder / name).is_file() for name in _WHOLE) or any(_NUMBERED.match(f.name) for f in _files(folder))


def _files(folder: Path) -> list[Path]:
    return [f for f in folder.iterdir() if f.is_file()] if folder.is_dir() else []


def pickle_files(folder: Path) -> list[Path]:
    """Weight files in pickle format, which can run code when read."""
    return sorted([*folder.glob("pytorch_model*.bin"), *folder.glob("adapter_model.bin")])


def _instead(folder: Path) -> str:
    """What lies there in the place of weights, and what to do with it."""
    shards = sorted(f.name for f in _files(folder) if _NUMBERED.match(f.name))
    if shards:
        return _without_index(folder, shards)
    held = sorted(f.parent.name for f in folder.glob("*/config.json"))
    if held:
        return f"It holds {len(held)} checkpoints ({held[0]} is one): name one, or sweep over all (--checkpoints)"
    return "The save was cut off, or another folder holds them; a half-written checkpoint cannot be read"


def _without_index(folder: Path, shards: Sequence[str]) -> str:
    count = max(int(match.group(1)) for name in shards if (match := _NUMBERED.match(name)))
    if len(shards) < count:
        return f"There are {len(shards)} of {count} shards and no index: copy the checkpoint again"
    if shards[0].endswith(".bin"):
        return "There are its pickle shards, but no pytorch_model.bin.index.json: copy that file too"
    return (
        "There are its shards, but no model.safetensors.index.json, which says where each tensor lies: copy it too, or "
        f"write it anew with: {index_command(folder)}"
    )


def index_command(folder: Path) -> str:
    """The command that writes the index of safetensors shards."""
    return (
        'python -c "import glob, json, os; from safetensors import safe_open; '
        f"os.chdir('{folder}'); m = {{k: f for f in sorted(glob.glob('model-*-of-*.safetensors')) "
        "for k in safe_open(f, 'pt').keys()}; "
        "json.dump({'metadata': {}, 'weight_map': m}, open('model.safetensors.index.json', 'w'))\""
    )


def _check_whole(file: Path) -> None:
    """Raise if the file is shorter than its own header says (an interrupted copy reads as garbage)."""
    header, start, size = _header(file)
    end = max((v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"), default=0)
    if start + end != size:
        raise InputError(f"{file}: truncated ({size} bytes, its header describes {start + end}); copy it again")
    try:
        with safe_open(file, framework="np"):
            pass
    except SafetensorError as error:
        raise InputError(f"{file}: damaged ({error}); copy the checkpoint again") from error


def _header(file: Path) -> tuple[dict[str, Any], int, int]:
    """A safetensors file's header, where its data starts, and its size."""
    size = file.stat().st_size
    with file.open("rb") as handle:
        head = handle.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if 8 + length > size:
            raise InputError(f"{file}: truncated or not safetensors ({size} bytes); copy the checkpoint again")
        return _described(file, handle.read(length)), 8 + length, size


def _described(file: Path, raw: bytes) -> dict[str, Any]:
    """The header's tensors by name, each with where its data lie."""
    try:
        found = json.loads(raw)
        for name, entry in found.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                if not 0 <= start <= end:
                    raise ValueError(f"data of {name} from {start} to {end}")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{file}: damaged, or not safetensors ({error}); copy the checkpoint again") from error
    return found


def tensor_names(file: Path) -> list[str]:
    """Names of the tensors in a safetensors file."""
    return [name for name in _header(file)[0] if name != "__metadata__"]


def cache_folder() -> Path:
    """Where small facts about files are kept (PROBE_CACHE, default ~/.cache/posttrain-probe)."""
    return Path(os.environ.get("PROBE_CACHE") or Path.home() / ".cache" / "posttrain-probe")


def file_hash(file: Path) -> str:
    """SHA-256 of a file, remembered while path, size, inode, times of content and of status stay the same.

    Size and modification time alone are not enough: archives and rsync give other bytes under both. The time of
    the last change of status cannot be set by a program.
    """
    stat = file.stat()
    known = (file.resolve(), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev)
    name = digest([str(part) for part in known])
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
