"""One forward pass for many questions: what a pass read is kept, and who asks for the same batch is answered from it.

Reading more sites changes no value of a pass, so an answer from here is bitwise what a pass of its own gives. A pass
under an edit, of a gradient or of logits is made as it is asked for. Kept are only the sites that somebody will ask
for (`along`), only within `budget` bytes, and only of a model that is still there: a handle let go takes its own along.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakKeyDictionary

from probe.sites import GLOBAL_KINDS, INSIDE_ATTENTION, KINDS, Site

if TYPE_CHECKING:
    from torch import Tensor

    from probe.checkpoints.series import Checkpoint
    from probe.handle import Handle
    from probe.tokens import TokenBatch

    Kept: TypeAlias = dict[Site, tuple[Tensor, int]]  # a value, and how often it had been written to

Make: TypeAlias = "Callable[[Sequence[Site]], dict[Site, Tensor]]"
"""Makes a pass and reads sites."""

LAST_STATE = "last_state"
STREAM = ("embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "ln_final")
"""Kinds that may be kept: sides of modules of the width of the residual stream."""


@dataclass
class Passes:
    """What passes over the batches of some checkpoints read.

    Attributes:
        budget: bytes that may be kept; what does not fit is computed again when it is asked for.
        along: checkpoint -> what to keep of its next passes: kinds, sites, or `LAST_STATE`.
        made, answered: passes made, and those that were not.
    """

    budget: float
    along: Mapping[Checkpoint, Collection[str]] = field(default_factory=dict["Checkpoint", "Collection[str]"])
    made: int = 0
    answered: int = 0
    _held: WeakKeyDictionary[Handle, dict[tuple[Checkpoint, str], Kept]] = field(
        default_factory=WeakKeyDictionary["Handle", "dict[tuple[Checkpoint, str], Kept]"]
    )

    @property
    def size(self) -> int:
        """Bytes kept."""
        return sum(v.nbytes for of in self._held.values() for kept in of.values() for v, _ in kept.values())

    def read(
        self, handle: Handle, batch: TokenBatch, wanted: Sequence[Site], make: Make, *, must: bool = False
    ) -> dict[Site, Tensor]:
        """The values at the sites of one pass over a batch.

        Args:
            handle: the model, without edits.
            batch: on the model's device.
            wanted: sites.
            make: makes the pass and reads sites.
            must: make it in any case: something looks on.
        """
        checkpoint = handle.checkpoint
        if checkpoint is None:
            return make(wanted)
        of, key = self._held.setdefault(handle, {}), (checkpoint, _digest(batch))
        kept = of.get(key, {})
        if not must and all(_unchanged(kept, site) for site in wanted):
            self.answered += 1
            return {site: kept[site][0] for site in wanted}
        self.made += 1
        names = () if kept or (must and not _looks_on(handle)) else self.along.get(checkpoint, ())
        more = [] if any(s.kind in INSIDE_ATTENTION for s in wanted) else _resolved(handle, names)
        values = make(list(dict.fromkeys([*wanted, *more])))
        new = {site: (values[site], _writes(values[site])) for site in more if not values[site].is_inference()}
        if new and self.size + sum(v.nbytes for v, _ in new.values()) <= self.budget:
            of[key] = new
        return {site: values[site] for site in wanted}

    def give_up(self) -> None:
        """Keep nothing from here on: the memory is needed."""
        self.budget = 0.0
        self.forget()

    def forget(self, but: Collection[Checkpoint] = ()) -> None:
        """Let go of what is kept of all checkpoints but these."""
        for of in self._held.values():
            for key in [k for k in of if k[0] not in but]:
                del of[key]


_current: ContextVar[Passes | None] = ContextVar("shared passes", default=None)


@contextmanager
def sharing(passes: Passes | None) -> Generator[None]:
    """Within the block passes are shared; None: not."""
    token = _current.set(passes)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Passes | None:
    """The passes shared here."""
    return _current.get()


def _looks_on(handle: Handle) -> bool:
    """Whether a pass that something looks into is bitwise the pass without: the model's own, in the same kernel."""
    config = handle.backend.config
    return handle.backend_name == "transformer_lens" and getattr(config, "_attn_implementation", None) == "eager"


def _digest(batch: TokenBatch) -> str:
    """Hash of the tokens, padding and all: the same tokens in another batch give other last digits."""
    parts = (batch.ids, batch.mask)
    told = hashlib.sha256(repr(tuple(batch.ids.shape)).encode())
    for part in parts:
        told.update(part.cpu().numpy().tobytes())
    return told.hexdigest()


def _resolved(handle: Handle, names: Collection[str]) -> list[Site]:
    """The sites that names stand for, those that this family has."""
    found: list[Site] = []
    for name in names:
        if name == LAST_STATE:
            found.append(handle.last_state)
        elif name in KINDS and name not in GLOBAL_KINDS:
            found += handle.sites(name)
        else:
            found += [s for s in handle.sites() if s == Site.parse(name)]
    return [site for site in dict.fromkeys(found) if site.kind in STREAM]


def _writes(x: Tensor) -> int:
    return x._version  # pyright: ignore[reportPrivateUsage]


def _unchanged(kept: Kept, site: Site) -> bool:
    return site in kept and _writes(kept[site][0]) == kept[site][1]
