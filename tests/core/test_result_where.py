"""A part of a result is what the analysis would have given there."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from analyses.core.analysis import checked_options, get
from analyses.core.result import Result
from probe.errors import InputError


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
    with pytest.raises(InputError, match="group='c'; of group there are"):
        swept().where(group="c")
    assert part.key == "0" * 16


def estimated() -> Result:
    """Perplexity of two groups at two steps, with intervals of .5 either way."""
    value = [[1.0, 2.0], [3.0, 4.0]]
    parts = {"": value, "_ci_low": [[v - 0.5 for v in row] for row in value],
             "_ci_high": [[v + 0.5 for v in row] for row in value], "_n": [[8, 8], [8, 8]]}  # fmt: skip
    data = xr.Dataset({f"ppl{k}": (("step", "group"), v) for k, v in parts.items()},
                      {"step": [0, 10], "group": ["a", "b"]})  # fmt: skip
    return Result.of(pd.DataFrame(), data)


def test_numbers_are_told_apart_by_what_varies():
    rows = estimated().numbers("ppl", step=10)
    assert list(rows.index.names) == ["group"]
    assert rows.loc["b"].to_dict() == {"value": 4.0, "ci_low": 3.5, "ci_high": 4.5, "n": 8.0}
    assert list(estimated().numbers("ppl", step=[0, 10]).index.names) == ["step", "group"]
    shown = estimated().spread("ppl", "step")
    assert shown.loc["a", 0] == "1 [0.5, 1.5]" and shown.loc["b", 10] == "4 [3.5, 4.5]"


@pytest.mark.parametrize(
    ("quantity", "wanted", "told"),
    [("pp", {}, "quantity 'pp' is not among ppl"), ("ppl", {"step": 5}, "step 5 is not among 0, 10"),
     ("ppl", {"layer": 1}, "no dim 'layer'")],
)  # fmt: skip
def test_numbers_that_are_not_there_are_told(quantity: str, wanted: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        estimated().numbers(quantity, **wanted)
    with pytest.raises(InputError, match="told apart by"):
        estimated().spread("ppl", "layer")


def test_a_number_of_a_table_is_an_option():
    given = {"layers": (np.int64(1),), "batch_size": np.int64(4)}
    found = checked_options(get("cross_patching"), given)
    kept = json.loads(json.dumps(found))
    assert (kept["layers"], kept["batch_size"]) == ([1], 4)
