"""Analyses of what post-training did to a model; one file each, found by name.

    import analyses
    result = analyses.perplexity(model="runs/lab-short/sft-high/checkpoint-60", prompts="prompts.jsonl")
    result.summary()

Every analysis is a function here (`analyses.logit_lens(model, prompts, top_k=5)`); `run` takes its name instead. Names
are imported when first used: the command line must answer ``--help`` without pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from analyses.core.homes import callable_groups, homes

if TYPE_CHECKING:
    from analyses.core.analysis import get, names
    from analyses.core.result import Result
    from analyses.core.running.inputs import Loading
    from analyses.core.running.live import live
    from analyses.core.running.run import run
    from analyses.core.running.study.study import study
    from analyses.core.running.sweep import sweep
    from analyses.core.store.store import Store

__all__ = ["Loading", "Result", "Store", "get", "live", "names", "run", "study", "sweep"]
_HOMES = {
    "get": "analysis",
    "live": "running.live",
    "names": "analysis",
    "Loading": "running.inputs",
    "Result": "result",
    "run": "running.run",
    "study": "running.study.study",
    "sweep": "running.sweep",
    "Store": "store.store",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"analyses.core.{_HOMES[name]}"), name)
    if name in homes():
        return import_module("analyses.core.running.functions").function_of(name)
    raise AttributeError(f"module 'analyses' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *homes()})


callable_groups(__name__)
