"""A part of a result is what the analysis would have given there."""

from __future__ import annotations

import pandas as pd
import xarray as xr

from analyses.core.result import Result


def swept() -> Result:
    data = xr.Dataset({"ppl": (("step", "group"), [[1.0, 2.0], [3.0, 4.0]])}, {"step": [0, 10], "group": ["a", "b"]})
    rows = [{"step": s, "item": f"{g}1", "group": g, "nll_nats": s + 1.0} for s in (0, 10) for g in "ab"]
    return Result(data, pd.DataFrame(rows), {"key": "0" * 16})


def test_one_value_drops_its_dim_and_column():
    part = swept().where(step=10)
    assert part.data["ppl"].dims == ("group",)
    assert part.data["ppl"].values.tolist() == [3.0, 4.0]
    assert list(part.table.columns) == ["item", "group", "nll_nats"]
    assert part.table["nll_nats"].tolist() == [11.0, 11.0]


def test_a_list_keeps_the_dim_and_unknown_values_give_an_empty_part():
    part = swept().where(group=["b", "c"])
    assert part.data["ppl"].values.tolist() == [[2.0], [4.0]]
    assert set(part.table["group"]) == {"b"}
    assert len(swept().where(group=[]).table) == 0
    assert part.key == "0" * 16
