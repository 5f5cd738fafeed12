"""How often each rule claims what is not there, and finds what is: a zoo of data that look like real runs.

`zoo` makes the data, `rules` asks each rule about every kind it applies to, `coverage` measures the intervals. Results
are kept cell by cell, so a run that was stopped goes on: `python -m benchmarks nulls` (or `python -m benchmarks.nulls
SETS [RULE ...]`).
"""

from benchmarks.nulls.rules import measure

__all__ = ["measure"]
