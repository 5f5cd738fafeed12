"""Analyses of what post-training did to a model; one file each, found by name.

    import analyses
    result = analyses.run("perplexity", model="runs/lab/seed-0/sft-high/checkpoint-60", prompts="prompts.jsonl")
    result.summary()
"""

from analyses.core.analysis import get, names
from analyses.core.inputs import Loading
from analyses.core.result import Result
from analyses.core.run import run, sweep
from analyses.core.store import Store

__all__ = ["Loading", "Result", "Store", "get", "names", "run", "sweep"]
