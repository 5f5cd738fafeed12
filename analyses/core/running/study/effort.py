"""What a study of a run will take, before any weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analyses.core.analysis import get
from analyses.core.cost.plan import Plan, Rates, plan
from analyses.core.running.inputs import Loading
from analyses.core.running.study.questions import Ask
from analyses.core.running.study.runs import Run
from analyses.core.running.study.study import Way
from probe.errors import InputError


@dataclass(frozen=True)
class Effort:
    """What the analyses of checkpoints and items take together.

    Attributes:
        seconds: computing, generating and reading each checkpoint once, at rates measured here.
        peak: bytes of memory at most.
        uncounted: analyses whose work nobody has counted, or that read logs: they come on top.
    """

    seconds: float
    peak: float
    uncounted: tuple[str, ...]


def effort(run: Run, asks: Sequence[Ask], way: Way, loading: Loading, rates: Rates | None = None) -> Effort:
    """The effort of a study of one run.

    Args:
        run: the run.
        asks: what is asked of it.
        way: its options, and how many items.
        loading: dtype and device.
        rates: of the machine; None measures this one's, once.
    """
    made, uncounted = list[Plan](), list[str]()
    for ask in asks:
        found = _plan(run, ask, way, loading, made[0].rates if made else rates)
        if found is None or get(ask.analysis).work is None:
            uncounted.append(ask.analysis)
        made += [found] if found is not None else []
    computing = sum(p.seconds["compute"] + p.seconds["generate"] for p in made)
    reading = max((p.seconds["read"] for p in made), default=0.0)
    return Effort(computing + reading, max((p.peak("both") for p in made), default=0.0), tuple(uncounted))


def _plan(run: Run, ask: Ask, way: Way, loading: Loading, rates: Rates | None) -> Plan | None:
    """The plan of one analysis; None where none is made: of results and logs, and of weights in unusual files."""
    of, series = get(ask.analysis), list(run.series)
    if ask.how in ("result", "log", "fall") or not any(i.kind == "Model" for i in of.inputs):
        return None
    given: Mapping[str, object] = {"dtype": loading.dtype, "device": loading.device, "rates": rates}
    prompts = way.items(ask, run.prompts) if run.prompts else None
    wanted = series if ask.how in ("series", "first") else [series[0], series[-1]]
    try:
        return plan(of.name, checkpoints=wanted, prompts=prompts, **given, **way.options(ask, run))
    except InputError:
        return None
