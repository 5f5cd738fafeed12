"""Several analyses over one series: every checkpoint is read once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analyses.core.analysis import get, unknown
from analyses.core.progress import interruptible
from analyses.core.result import Result
from analyses.core.running.inputs import Loading, ModelPool
from analyses.core.running.run import Request
from analyses.core.running.series import Pairs, series_of
from analyses.core.running.sweep import Sweep, go_over
from analyses.core.running.workers import Engine
from analyses.core.store import Store
from probe.errors import InputError

if TYPE_CHECKING:
    from probe import Checkpoint


@interruptible()
def sweep_together(
    names: Sequence[str],
    *,
    checkpoints: Sequence[Checkpoint | str] | str | Path,
    pairs: Pairs = "first",
    store: Store | None = None,
    loading: Loading | None = None,
    limit: int | None = None,
    engine: Engine | None = None,
    memory: float | None = None,
    **given: object,
) -> dict[str, Result]:
    """The results of several sweeps by the name of their analysis; each is bitwise what `sweep` of it alone gives.

    Every checkpoint is read once, and analyses that read the same batches share its forward passes.

    Args:
        names: analyses, as in ``probe list``.
        checkpoints: a folder or a list (see ``probe.discover``).
        pairs: for two-checkpoint analyses: every one against the ``first``, ``adjacent`` ones, or ``all``.
        store: where results live; members are kept there.
        loading: backend, dtype and device.
        limit: use only the first items of the prompts.
        engine: who computes the members.
        memory: bytes of states that may be kept from one analysis to the next; None: a quarter of what is free.
        given: other inputs and options; each goes to the analyses that have it, one that none has is an error.

    Raises:
        InputError: an option that no analysis has, or what `sweep` raises.
        ProbeError: one of the sweeps failed; what the others finished is in the store.
    """
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        raise InputError(f"{twice[0]} is named twice; name each analysis once")
    pool = ModelPool(loading or Loading())
    series = series_of(checkpoints, pool.loading)
    known = {name: _taken(name) for name in names}
    every = set[str]().union(*known.values())
    for name in given:
        if name not in every:
            raise InputError(unknown(f"option of {', '.join(names)}", name, every))
    sweeps = [
        Sweep(Request(get(n), {k: v for k, v in given.items() if k in known[n]}, store, pool, limit), series, pairs)
        for n in names
    ]
    for one in go_over(sweeps, engine or Engine(), memory):
        if one.error is not None:
            raise one.error
    return {one.name: one.result() for one in sweeps}


def _taken(name: str) -> set[str]:
    """Names of all that may be given to an analysis: its inputs, those of the results it reads, its options."""
    of = get(name)
    upstream = {i.name for u in of.inputs if u.upstream for i in get(u.upstream).inputs}
    return {i.name for i in of.inputs} | upstream | {o.name for o in of.options}
