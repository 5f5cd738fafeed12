"""Checkpoints that take turns in memory, so that a pair of large models needs room for one.

A `Turn` stands for one checkpoint of a pair. It shows what needs no weights (sizes, tokenizer, identity) at any
time; `run` and what else needs them lets go of the other checkpoint and loads its own. Every alternation is a load,
so an analysis does all it has to do with one checkpoint before it turns to the other.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from probe.checkpoints.tokenizers import read_tokenizer
from probe.errors import InputError
from probe.model import Model
from probe.shape import ModelShape
from probe.tokens import Framing

if TYPE_CHECKING:
    from torch import Tensor

    from probe.checkpoints.series import Checkpoint
    from probe.sites import Site

_VERBS = ("run", "batches", "sites", "site", "unembed", "logits_of", "final_norm", "kept_head", "generate")


@dataclass
class Seat:
    """Room for one model; `loads` counts how often one was read into it."""

    options: Mapping[str, Any]
    holder: Turn | None = None
    model: Model | None = None
    loads: int = 0

    def model_of(self, turn: Turn) -> Model:
        """The checkpoint's model, which the other's makes room for first."""
        if self.holder is not turn or self.model is None:
            self.holder = self.model = None
            gc.collect()  # hooks and handles refer to each other: without this the old weights stay for a while
            self.model = Model.load(turn.checkpoint, **self.options)
            self.holder = turn
            self.loads += 1
        return self.model


class Turn:
    """One checkpoint of a pair that shares a seat; the reading half of `Model`.

    Weights, edits and the backend are not reached through it: what they gave would be the other checkpoint's after
    its turn.
    """

    def __init__(self, seat: Seat, checkpoint: Checkpoint) -> None:
        self.seat = seat
        self.checkpoint = checkpoint

    @cached_property
    def shape(self) -> ModelShape:
        """Sizes, from the configuration."""
        from transformers import AutoConfig

        trusted = bool(self.seat.options.get("trust_remote_code", False))
        folder = self.checkpoint.config_folder
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trusted)
        return ModelShape.of(config)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer saved with this checkpoint."""
        trusted = bool(self.seat.options.get("trust_remote_code", False))
        return read_tokenizer(self.checkpoint, trust_remote_code=trusted)

    @property
    def framing(self) -> Framing:
        """What is put around every text (see `Model.load`)."""
        options = self.seat.options
        return Framing(options.get("bos"), dict(options.get("template_options") or {}))

    @property
    def last_state(self) -> Site:
        """The site whose rows `logits_of` turns into logits (see `Model.last_state`)."""
        return self.seat.model_of(self).last_state

    def __getattr__(self, name: str) -> Any:
        if name in _VERBS:
            return lambda *args, **kwargs: getattr(self.seat.model_of(self), name)(*args, **kwargs)
        if name.startswith("_") or not hasattr(Model, name):
            raise AttributeError(name)
        raise InputError(f"{name} of a checkpoint that takes turns (--hold one): this analysis needs --hold both")

    def fingerprint(self) -> str:
        """Hex hash of weights and tokenizer; two turns of one seat have one dtype and backend."""
        return self.checkpoint.fingerprint() + self.checkpoint.tokenizer_fingerprint()


def spilled(batches: Iterable[Sequence[Tensor]]) -> Generator[list[Tensor]]:
    """The same tensors, batch by batch, after all of them were made and written to disk, bit for bit.

    The mapping is of an unnamed file: nothing is left behind, whatever happens.
    """
    with tempfile.TemporaryFile(prefix="probe-spill-") as file:
        places = [[_written(file, x) for x in batch] for batch in batches]
        file.flush()
        for batch in places:
            yield [read() for read in batch]


def _written(file: Any, x: Tensor) -> Callable[[], Tensor]:
    raw, start = x.detach().cpu().contiguous(), file.tell()
    shape, dtype, device, count = x.shape, x.dtype, x.device, raw.numel() * raw.element_size()
    file.write(raw.view(torch.uint8).numpy().data if count else b"")

    def read() -> Tensor:
        if not count:
            return torch.empty(shape, dtype=dtype, device=device)
        mapped = np.memmap(file, np.uint8, "c", offset=start, shape=(count,))
        return torch.from_numpy(mapped).view(dtype).reshape(shape).to(device)  # pyright: ignore[reportUnknownMemberType]

    return read
