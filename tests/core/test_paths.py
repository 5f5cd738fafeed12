"""Paths in a plane and stars at peaks: order, ends, chosen points; the bifurcation picture stars what the p says."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from analyses.core import figures
from analyses.states._bifurcation import bifurcation
from tests.crowded import unreadable


def points(steps: int = 1) -> pd.DataFrame:
    rows = [
        {"group": g, "state": s, "step": t, "a": s * sign, "b": float(s), "is_it": s == 1}
        for t in range(steps) for g, sign in (("x", 1.0), ("y", -1.0)) for s in (2, 0, 1)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_path_runs_in_its_order_and_names_its_ends():
    figure = figures.paths(
        points(), x="a", y="b", along="state", color="group", starred="is_it", star="here", title="<b>"
    )
    first, second, stars = figure.data
    assert list(first.x) == [0, 1, 2] and list(second.x) == [0, -1, -2]
    assert list(first.text) == ["0", "", "2"] and list(stars.x) == [1, -1]
    assert "<b>" not in figure.layout.title.text


def test_panels_say_of_what_they_are_and_the_star_is_named_once():
    star = "out of the block that parts them most (p ≤ 0.05)"
    look = {"color": "group", "facet": "step", "starred": "is_it", "star": star}
    figure = figures.paths(points(2), x="a", y="b", along="state", **look)
    assert [a.text for a in figure.layout.annotations] == ["optimizer step 0", "optimizer step 1"]
    (named,) = [t.name for t in figure.data if t.showlegend and t.marker.symbol == "star"]
    assert named.replace("<br>", " ") == star and max(map(len, named.split("<br>"))) <= 28


def test_many_steps_slide_and_rows_that_are_not_told_apart_are_refused():
    assert not unreadable(figures.paths(points(20), x="a", y="b", along="state", color="group", facet="step"))
    with pytest.raises(ValueError, match="rows share"):
        figures.paths(points(2), x="a", y="b", along="state", color="group")


def test_every_line_has_its_largest_value_starred_and_gaps_have_none():
    rows = pd.DataFrame({"layer": [0, 1, 2] * 2, "group": ["x"] * 3 + ["y"] * 3, "value": [1, 3, 2, 5, np.nan, 4]})
    figure = figures.peaks(figures.curve(rows, x="layer", color="group"))
    stars = [(t.x[0], t.y[0]) for t in figure.data if t.name == "largest"]
    assert stars == [(1, 3), (0, 5)]


def test_the_bifurcation_is_starred_where_the_p_allows_and_nowhere_else():
    data = xr.Dataset(
        {
            "path_1": (("group", "state"), np.arange(8.0).reshape(2, 4)),
            "path_2": (("group", "state"), np.ones((2, 4))),
            "force_z": ("layer", [9.0, 2.0, 3.0]),
            "p_value": ("layer", [0.2, 0.04, 0.01]),
        },
        {"group": ["x", "y"], "state": np.arange(4), "layer": np.arange(3)},
    )
    stars = bifurcation(data, "t").data[-1]
    assert list(stars.x) == [3, 7]  # out of layer 2: the clearest of those that part the groups
    assert not len(bifurcation(data.assign(p_value=data["p_value"] + 0.5), "t").data[-1].x)


def test_a_single_point_with_an_interval_has_a_bar_where_a_band_would_show_nothing():
    gap = [np.nan, np.nan, np.nan]
    rows = pd.DataFrame({"layer": [0, 1, 2, 3], "value": [0.0, 0.0, 0.0, 5.0], "unit": "nats", "n": 8})
    line = figures.curve(rows.assign(ci_low=[*gap, 4.0], ci_high=[*gap, 6.0]), x="layer").data[-1]
    assert line.error_y.array[3] == 1.0 == line.error_y.arrayminus[3] and np.isnan(line.error_y.array[:3]).all()
    whole = figures.curve(rows.assign(ci_low=rows["value"] - 1, ci_high=rows["value"] + 1), x="layer")
    assert whole.data[-1].error_y.array is None
