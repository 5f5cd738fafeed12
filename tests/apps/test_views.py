"""What a newcomer met on the pages: lines, colours, links and names mean what they seem to mean."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from apps import comparison, curves
from tests.apps.conftest import HOSTILE, key
from tests.apps.test_dashboard import opened, words


def drawn(app: AppTest, place: int = 0) -> dict[str, Any]:
    return json.loads(app.get("plotly_chart")[place].proto.spec)


def side(layers: int, groups: int, rise: float) -> pd.DataFrame:
    """Items whose value rises in the first half of the layers and falls in the others."""
    return pd.DataFrame(
        {"item": f"{g}-{i}", "group": f"g{g}", "layer": n, "value": i + (rise if 2 * n < layers else -rise)}
        for g in range(groups)
        for i in range(8)
        for n in range(layers)
    )


def test_layers_of_opposite_sign_are_lines_of_their_own():
    a, b = side(4, 2, 1.0), side(4, 2, 0.0)
    figure, lines = comparison.by_item(a, b, comparison.Value("value"))["paired-by-item"]
    assert lines.groupby("layer")["value"].mean().tolist() == pytest.approx([1, 1, -1, -1])
    assert len(lines) == 8 and (lines["p_holm"] == lines["p"] * 8).all()
    assert figure.layout.xaxis.title.text == "layer"
    assert {t.name for t in figure.data} == {"g0", "g1"}


def test_what_is_averaged_over_is_said():
    a, b = side(30, 3, 1.0), side(30, 3, 0.0)
    figure, lines = comparison.by_item(a, b, comparison.Value("value"))["paired-by-item"]
    assert len(lines) == 3 and lines["value"].tolist() == pytest.approx([0] * 3)
    assert figure.layout.title.text == "A − B paired by item, mean over layer"
    one = [comparison.only(x, {"group": ["g1"], "unknown": [1]}) for x in (a, b)]
    assert len(comparison.by_item(*one, comparison.Value("value"))["paired-by-item"][1]) == 30


def test_compare_tells_layers_apart_and_keeps_to_the_groups_chosen(store, monkeypatch):
    high, low = key("logit_lens", "runs/high"), key("logit_lens", "runs/low")
    view = {"page": "Compare", "analysis": "logit_lens", "a": high, "b": low, "compare_group": "unseen"}
    lines = next(d.value for d in opened(store, monkeypatch, **view).dataframe if "p_holm" in d.value)
    assert lines["layer"].tolist() == [0, 1, 2] and set(lines["group"]) == {"unseen"}


def hues(chart: dict[str, Any]) -> dict[str, set[str]]:
    """Run -> colours of its lines and bands."""
    found: dict[str, set[str]] = {}
    for trace in chart["data"]:
        if "," in trace.get("name", ""):
            color = trace.get("fillcolor") or trace["line"]["color"]
            found.setdefault(trace["name"].partition(",")[0], set()).add(color)
    return found


def test_a_run_keeps_its_colour_whatever_else_is_chosen(store, monkeypatch):
    both = hues(drawn(opened(store, monkeypatch, page="Run")))
    assert not both["high"] & both["low"]
    for run in ("high", "low"):
        chart = drawn(opened(store, monkeypatch, page="Run", run=run))
        assert hues(chart) == {run: both[run]}
        lines = [t for t in chart["data"] if "," in t.get("name", "") and "dash" in t["line"]]
        assert len({t["line"]["dash"] for t in lines}) == len({t["name"] for t in lines}) > 1
    (star,) = [t for t in drawn(opened(store, monkeypatch, page="Run", run="high"))["data"] if t["name"] == "ship high"]
    assert star["marker"]["color"] in both["high"]


def test_many_runs_have_a_colour_each():
    assert len(set(curves.colors([f"run-{i}" for i in range(20)]).values())) == 20


def test_a_link_brings_back_the_token_chosen(store, monkeypatch):
    view = {"page": "Token", "of": "high", "item": "leaked-0"}
    app = opened(store, monkeypatch, **view, pos="1", code="true")
    assert "position 1" in words(app) and "'pos': 1" in words(app)
    assert app.query_params["pos"] == "1"
    assert drawn(app)["data"][-1]["selectedpoints"] == [1]
    for bad in ("3", "-1", "x", HOSTILE):
        app = opened(store, monkeypatch, **view, pos=bad)
        assert "position" not in words(app) and "pos" not in app.query_params


def test_a_link_brings_back_the_cell_and_the_point_chosen(store, monkeypatch):
    titles = {"map": "logit_lens: top1 · unseen (layer × step)", "cell": "layer 1, step 30"}
    app = opened(store, monkeypatch, page="Circuit", of="high", point="logprob_nats, leaked, layer 2", **titles)
    (at_point, at_cell) = [d.value for d in app.dataframe]
    assert set(zip(at_point["layer"], at_point["group"], at_point["step"], strict=True)) == {(2, "leaked", 90)}
    assert set(zip(at_cell["layer"], at_cell["group"], at_cell["step"], strict=True)) == {(1, "unseen", 30)}
    assert app.query_params["cell"] == "layer 1, step 30"
    assert drawn(app, 1)["data"][-1]["selectedpoints"] == [4]
    for bad in ("layer 9, step 30", HOSTILE):
        app = opened(store, monkeypatch, page="Circuit", of="high", point=bad, cell=bad)
        assert not app.dataframe and not {"cell", "point"} & set(app.query_params)
