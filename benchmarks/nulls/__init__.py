"""How often each rule claims what is not there, and finds what is: a zoo of data that look like real runs.

`zoo`, `zoo_arms` and `zoo_models` make the data, `rules` asks each rule about every kind it applies to, `cells` is the
table, `coverage` measures the intervals. Cells are kept one by one, so a run that was stopped goes on: `python -m
benchmarks nulls` (or `python -m benchmarks.nulls SETS [RULE ...]`).
"""

from __future__ import annotations

from typing import Any

from benchmarks.nulls.cells import LIMITS, Cell, limit, table

__all__ = ["measure"]


def measure() -> list[dict[str, Any]]:
    """Rows of the benchmark; nulls have a bound, plants are told beside them."""
    return [_row(cell) for cell in table(LIMITS[0][0])]


def _row(cell: Cell) -> dict[str, Any]:
    most = limit(cell["sets"])
    bound = {"bound": f"<= {most:.2f}", "holds": cell["found"] <= most} if cell["kind"] == "null" else {}
    note = f"{cell['data']}; an answer in {cell['answered']:.2f}; {cell['sets']} sets"
    name = f"{cell['rule']}, {'claimed in a null' if cell['kind'] == 'null' else 'planted and found'}"
    return {"name": name, "ratio": cell["found"], "note": note, **bound}
