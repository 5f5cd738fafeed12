"""The result type: estimates come with intervals, dims come from the vocabulary."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from analyses.core.result import Result

TABLE = pd.DataFrame({"item": ["a"], "x": [1.0]})


def estimates() -> xr.Dataset:
    value = xr.DataArray([0.5, np.nan], dims="layer", coords={"layer": [0, 1]}, attrs={"units": "nats"})
    return xr.Dataset({"x": value, "x_ci_low": value - 0.1, "x_ci_high": value + 0.1, "x_n": value * 0 + 7})


def test_summary_has_a_row_per_measured_cell() -> None:
    rows = Result.of(TABLE, estimates()).summary()
    assert rows.to_dict("list") == {
        "quantity": ["x"], "unit": ["nats"], "layer": [0],
        "value": [0.5], "ci_low": [0.4], "ci_high": [0.6], "n": [7.0],
    }  # fmt: skip


def test_a_result_without_estimates_has_an_empty_summary() -> None:
    assert list(Result.of(TABLE).summary().columns) == ["quantity", "unit", "value", "ci_low", "ci_high", "n"]


def test_unknown_dims_and_half_estimates_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown dims"):
        Result.of(TABLE, xr.Dataset({"x": ("laver", [1.0])}))
    with pytest.raises(ValueError, match="no complete estimate"):
        Result.of(TABLE, estimates().drop_vars("x_n"))


def test_verdict_and_warnings_travel() -> None:
    result = Result.of(TABLE, verdict="none found", warnings=["few items"])
    assert result.verdict == "none found"
    assert result.with_record(key="k").warnings == ["few items"]
