"""One pass, many questions: the analyses that go over a series together share their forward passes.

Analyses declare what their passes read (`@analysis(reads=...)`). The first to come to a batch of a checkpoint reads
along what later ones will ask for, and these are answered from what it read (`probe.shared`): bitwise what passes of
their own give. A base that all members are compared with is read once in all. Kept is no more than a budget, a quarter
of the free memory where nothing else is said; what does not fit is computed again.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from probe import devices, shared
from probe.shared import LAST_STATE, STREAM

if TYPE_CHECKING:
    from analyses.core.running.call import Call
    from analyses.core.running.inputs import Loading
    from analyses.core.store import Store
    from probe import Checkpoint

    Visit: TypeAlias = tuple[Call, tuple[Checkpoint, ...], bool]

PART = 0.25  # of the free memory
SAME_BATCHES = {"batch_size": 8, "template": "none", "boundary": "joint", "include_eos": False}  # and their defaults


class Sharing:
    """The passes of several calls, in the order in which they are computed.

    Args:
        visits: each call, its checkpoints, and whether it is there already.
        budget: bytes that may be kept.
    """

    def __init__(self, visits: Sequence[Visit], budget: float) -> None:
        self.visits = visits
        self.passes = shared.Passes(budget)

    @contextmanager
    def of(self, number: int) -> Generator[None]:
        """Within the block a call is computed, answered from earlier passes, and what later ones read is kept.

        A call that declares nothing makes its own passes: it may edit weights.
        """
        reads = read_by(self.visits[number][0])
        if reads:
            self.passes.along = self._later(number)
        with shared.sharing(self.passes if reads else None):
            yield
        self.passes.forget(but={c for _, held, there in self.visits[number + 1 :] for c in held if not there})

    def _later(self, number: int) -> dict[Checkpoint, tuple[str, ...]]:
        """What later calls over the same batches read of each checkpoint of this one."""
        call, held, _ = self.visits[number]
        same = batches_of(call)
        found: dict[Checkpoint, tuple[str, ...]] = {}
        for later, others, there in self.visits[number + 1 :]:
            for checkpoint in set(others) & set(held):
                if not there and batches_of(later) == same:
                    found[checkpoint] = (*found.get(checkpoint, ()), *read_by(later))
        return found


def is_there(call: Call, store: Store | None) -> bool:
    """Whether the store has a call's result already, as a result or as a sweep's member."""
    address = call.analysis.name, call.key
    return store is not None and (store.has(*address) or store.shards.has(*address))


def read_by(call: Call) -> tuple[str, ...]:
    """What the passes of a call read that others can be answered from; () where it makes none of that kind."""
    return call.analysis.reads(call.options) if call.analysis.reads is not None else ()


def goes_first(call: Call) -> bool:
    """Whether it has to make its passes in any case: what it reads is too much to keep."""
    return any(name != LAST_STATE and name.partition(".")[0] not in STREAM for name in read_by(call))


def batches_of(call: Call) -> Mapping[str, Any]:
    """What decides how a call's prompts become batches."""
    prompts = call.inputs.get("prompts")
    plan = {name: call.options.get(name, default) for name, default in SAME_BATCHES.items()}
    return {**plan, "prompts": prompts.fingerprint if prompts else None}


def budget_of(loading: Loading) -> float:
    """Bytes that may be kept on the device of the models."""
    device = loading.device if "device" in loading.placement else "cpu"
    return PART * devices.free_bytes(device)
