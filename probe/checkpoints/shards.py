"""Sharded checkpoints read as they lie: one whole tensor at a time, no process group, nothing run from the files.

- verl, FSDP and FSDP2: `model_world_size_W_rank_R.pt`, parts with their placements;
- torch's distributed checkpoint (DCP; accelerate, transformers, NeMo-RL): `.metadata` and `*.distcp`, read by
  torch's own reader;
- DeepSpeed ZeRO-1 and -2: `mp_rank_00_model_states.pt`, the weights as trained in (bf16 of a bf16 run), whole;
- FSDP, gathered: `pytorch_model_fsdp.bin`, whole.

All of them are pickles, so all need leave (`allow_pickle`), and even then only tensors and plain values are built.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from probe.checkpoints.descriptions import Descriptions
from probe.checkpoints.formats import partitioned
from probe.errors import InputError
from probe.lazily import torch

if TYPE_CHECKING:
    from torch import Tensor

_RANK = re.compile(r"^model_world_size_(\d+)_rank_(\d+)\.pt$")
_FILTERING = Lock()  # filters of warnings are of the process, and tensors are read by several threads
_WRAPPERS = ("model.", "module.", "_orig_mod.", "_fsdp_wrapped_module.", "policy.", "state_dict.", "app.")


class Source(Protocol):
    """An open checkpoint: names of its tensors, each put together when it is asked for."""

    names: list[str]

    def whole(self, name: str) -> Tensor:
        """One tensor, whole, on the CPU."""
        ...

    def later(self, name: str) -> Later:
        """The same tensor, not yet read: its name, sizes and type."""
        ...


@dataclass(frozen=True)
class Layout:
    """One way to lay out shards in a folder.

    Attributes:
        fits: whether a folder is laid out so, by the names of its files.
        files: every file that holds weights (a distributed checkpoint's hold what else was saved with them).
        merging: the command that makes an ordinary folder of one; `{folder}`, `{out}`, `{parent}`, `{name}` stand in.
        source: opens one.
    """

    fits: Callable[[Path], bool]
    files: Callable[[Path], list[Path]]
    merging: str
    source: Callable[[Shards], Source]


@dataclass(frozen=True)
class Shards:
    """Where the shards of one checkpoint lie, and in which of `LAYOUTS`."""

    layout: str
    folder: Path

    @property
    def files(self) -> list[Path]:
        """Every file that holds weights."""
        return LAYOUTS[self.layout].files(self.folder)

    @property
    def merging(self) -> str:
        """The command that makes an ordinary folder of this one."""
        folder, out = self.folder, f"{self.folder}-hf"
        return LAYOUTS[self.layout].merging.format(folder=folder, out=out, parent=folder.parent, name=folder.name)


def shards_in(folder: Path) -> Shards | None:
    """The shards of a checkpoint's folder, which lie in it or where trainers put them inside it."""
    for place in (*partitioned(folder), *sorted(folder.glob("pytorch_model_fsdp_*"))):
        for name, layout in LAYOUTS.items():
            if layout.fits(place):
                return Shards(name, place)
    return None


def _ranks(folder: Path) -> list[tuple[int, Path]]:
    """The file of each rank, all of one world."""
    found = [(int(m[1]), int(m[2]), f) for f in folder.glob("model_world_size_*.pt") if (m := _RANK.match(f.name))]
    worlds = {world for world, _, _ in found}
    if len(worlds) != 1:
        raise InputError(f"{folder}: shards of {len(worlds)} saves (world sizes {sorted(worlds)}); keep those of one")
    missing = sorted(set(range(worlds.pop())) - {rank for _, rank, _ in found})
    if missing:
        raise InputError(f"{folder}: the shard(s) of rank {missing} are missing; copy the checkpoint again")
    return sorted((rank, file) for _, rank, file in found)


class Later:
    """A tensor that is put together when it is asked for, as `safetensors` slices are: `x[...]`."""

    def __init__(self, source: Any, name: str, shape: tuple[int, ...], dtype: str) -> None:
        self._source, self._name, self._shape, self._dtype = source, name, shape, dtype

    def __getitem__(self, index: Any) -> Tensor:
        return self._source.whole(self._name)[index]

    def get_shape(self) -> list[int]:
        """Sizes of the whole tensor."""
        return list(self._shape)

    def get_dtype(self) -> str:
        """Its type, as safetensors writes it."""
        return self._dtype


def state_of(shards: Shards, wanted: Iterable[str]) -> dict[str, Later]:
    """Whole tensors by their Hugging Face names, each read when it is asked for.

    A wrapper's prefix that all names carry is left away; what belongs to the optimizer is left out.

    Args:
        shards: from `shards_in`.
        wanted: names of the model's parameters, by which the prefix is recognised.

    Raises:
        InputError: a shard that is cut short or not what its name says, names of another format (with the command
            that converts it), a sharding that is not known here.
    """
    source = _source(shards)
    prefix = _prefix(source.names, list(wanted), shards)
    return {n.removeprefix(prefix): source.later(n) for n in source.names if n.startswith(prefix)}


def _source(shards: Shards) -> Source:
    try:
        return LAYOUTS[shards.layout].source(shards)
    except InputError:
        raise
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError, AttributeError, ImportError) as error:
        told = re.search(r"GLOBAL \S+", str(error))
        reason = told[0] if told else str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(
            f"{shards.folder}: the shards cannot be read ({reason}); a save cut short, or another format. If they are "
            f"whole: {shards.merging}"
        ) from error


def _prefix(names: Iterable[str], wanted: list[str], shards: Shards) -> str:
    have = set(names)
    if any("lora_A" in n for n in have):
        raise InputError(
            f"{shards.folder}: shards of a model with LoRA layers inside. Give the adapter that lies beside them "
            f"(lora_adapter) with --base BASE, or merge: {shards.merging}"
        )
    for prefix in ("", *_WRAPPERS, *(a + b for a in _WRAPPERS for b in _WRAPPERS)):
        if sum(prefix + n in have for n in wanted) > len(wanted) / 2:
            return prefix
    raise InputError(
        f"{shards.folder}: these parameters are not named as in the configuration's model, e.g. "
        f"{sorted(have)[:2]} where {wanted[:2]} are expected. Convert it first: {shards.merging}"
    )


def _load(file: Path) -> Any:
    from torch.distributed.tensor import DTensor

    torch.serialization.add_safe_globals([DTensor])  # importing its module alone makes it known too
    return torch.load(file, map_location="cpu", weights_only=True, mmap=True)


def _described(name: str, x: Any) -> Mapping[str, Any]:
    return {"name": name, "shape": tuple(x.shape), "dtype": str(x.dtype).removeprefix("torch.")}


class _Single:
    """One file that holds every tensor whole, under `key` where it holds more than tensors."""

    def __init__(self, shards: Shards, key: str | None) -> None:
        held = _load(shards.files[0])
        self._state: dict[str, Tensor] = held.get(key, held) if key is not None else held
        if not isinstance(self._state, dict) or not self._state:
            raise InputError(f"{shards.files[0]}: no weights in it (ZeRO-3 keeps them apart); {shards.merging}")
        self.names = [n for n, x in self._state.items() if hasattr(x, "shape")]

    def whole(self, name: str) -> Tensor:
        return self._state[name]

    def later(self, name: str) -> Later:
        return Later(self, **_described(name, self._state[name]))


class _Parts:
    """verl's files: a dictionary per rank, of parts that say how they were cut."""

    def __init__(self, shards: Shards) -> None:
        self._ranks: list[dict[str, Any]] = [_load(file) for _, file in _ranks(shards.folder)]
        self._folder = shards.folder
        self.names = [n for n, x in self._ranks[0].items() if hasattr(x, "shape")]

    def later(self, name: str) -> Later:
        return Later(self, **_described(name, self._ranks[0][name]))

    def whole(self, name: str) -> Tensor:
        """The parts of a tensor laid side by side along the dimension they were cut in."""
        first = self._ranks[0][name]
        if not hasattr(first, "placements"):
            return first  # buffers are held whole by every rank
        placements = list(first.placements)
        cut = [i for i, p in enumerate(placements) if p.is_shard()]
        if len(cut) > 1 or any(p.is_partial() for p in placements):
            raise InputError(
                f"{self._folder}: {name} is cut as {placements}; only one cut of each tensor is known here"
            )
        if not cut:
            return first._local_tensor
        ranks = first.device_mesh.mesh.movedim(cut[0], -1).reshape(-1, first.device_mesh.mesh.shape[cut[0]])[0]
        parts = [self._ranks[int(rank)][name]._local_tensor for rank in ranks]
        dim = placements[cut[0]].dim
        whole = torch.cat(parts, dim)
        if tuple(whole.shape) != tuple(first.shape):
            raise InputError(f"{self._folder}: the parts of {name} make {tuple(whole.shape)}, not {tuple(first.shape)}")
        return whole


class _Distributed:
    """torch's distributed checkpoint (DCP)."""

    def __init__(self, shards: Shards) -> None:
        self._folder = folder = shards.folder
        from torch.distributed.checkpoint.metadata import TensorStorageMetadata

        with (folder / ".metadata").open("rb") as file:
            self._metadata = Descriptions(file).load()
        known = self._metadata.state_dict_metadata
        self._known = {n: m for n, m in known.items() if isinstance(m, TensorStorageMetadata)}
        self.names = list(self._known)

    def later(self, name: str) -> Later:
        meta = self._known[name]
        return Later(self, name, tuple(meta.size), str(meta.properties.dtype).removeprefix("torch."))

    def whole(self, name: str) -> Tensor:
        import torch.distributed.checkpoint as dcp

        meta = self._known[name]
        out = torch.empty(meta.size, dtype=meta.properties.dtype)
        with _FILTERING, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that there is no process group is what is wanted
            dcp.load({name: out}, storage_reader=_reader(self._folder, self._metadata), no_dist=True)
        return out


def _reader(folder: Path, metadata: Any) -> Any:
    """DCP's reader of files, given what `.metadata` says rather than unpickling it again."""
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.metadata import StorageMeta

    class Reader(FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG002
            return replace(metadata, storage_meta=StorageMeta(load_id=self.load_id))

    return Reader(folder)


def _one_file(file: str, merging: str, key: str | None = None) -> Layout:
    """The layout of one file, `torch.save`d, with every tensor whole (under `key`)."""
    return Layout(
        lambda folder: (folder / file).is_file(),
        lambda folder: [folder / file],
        merging,
        lambda shards: _Single(shards, key),
    )


LAYOUTS: dict[str, Layout] = {
    "verl": Layout(
        lambda folder: any(_RANK.match(f.name) for f in folder.glob("model_world_size_*.pt")),
        lambda folder: [f for _, f in _ranks(folder)],
        "python -m verl.model_merger merge --backend fsdp --local_dir {folder} --target_dir {out}",
        _Parts,
    ),
    "dcp": Layout(
        lambda folder: (folder / ".metadata").is_file() and any(folder.glob("*.distcp")),
        lambda folder: [folder / ".metadata", *sorted(folder.glob("*.distcp"))],
        "mkdir -p {out}; accelerate merge-weights {folder} {out}",
        _Distributed,
    ),
    "zero": _one_file(
        "mp_rank_00_model_states.pt", "python -m deepspeed.utils.zero_to_fp32 {parent} {out} -t {name}", key="module"
    ),
    "gathered": _one_file("pytorch_model_fsdp.bin", "python -m deepspeed.utils.zero_to_fp32 {parent} {out} -t {name}"),
}
"""Layouts by name, tried in this order."""
