"""However much there is to draw, a panel has six lines and a figure twelve panels, and nothing is left out for it."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from analyses.core import figures
from tests.crowded import crowd


def rows(quantity: str = "nll_nats", **dims: list) -> pd.DataFrame:
    """A value for every combination of the dims: its place in order, as a share of all."""
    found = pd.DataFrame(list(itertools.product(*dims.values())), columns=list(dims))
    value = np.arange(len(found)) / len(found)
    spread = {"ci_low": value - 0.01, "ci_high": value + 0.01, "n": 5}
    return found.assign(quantity=quantity, unit="nats", value=value, **spread)


STEPS, LAYERS, GROUPS = list(range(0, 200, 10)), list(range(28)), [f"g{i}" for i in range(6)]


def test_many_steps_are_a_map_of_layer_by_step_and_few_a_ramp_with_two_bands():
    many = figures.curve(rows(step=STEPS, layer=LAYERS, group=GROUPS[:2]), x="layer", color="step", facet="group")
    assert crowd(many) == {"panels": 2, "maps": 2, "pixels": 380, "lines": 0, "bands": 0}
    assert np.asarray(many.data[0].z).shape == (20, 28)
    few = crowd(figures.curve(rows(step=STEPS[:5], layer=LAYERS), x="layer", color="step"))
    assert (few["lines"], few["bands"]) == (5, 2)


def test_groups_become_small_multiples_and_never_more_than_six_lines():
    figure = figures.curve(rows(step=STEPS, run=["a", "b", "c"], group=GROUPS), color="run", dash="group")
    assert crowd(figure)["lines"] == 3 and crowd(figure)["panels"] == 6
    assert {t.line.dash for t in figure.data if t.mode == "lines+markers"} == {"solid"}
    runs = figures.curve(rows(step=STEPS, run=list("abcdefgh")), color="run")
    assert crowd(runs)["lines"] == 1 and crowd(runs)["panels"] == 8
    assert crowd(figures.curve(rows(step=STEPS, run=list("abcd")), color="run"))["bands"] == 0


def test_many_maps_are_one_set_with_a_slider_and_every_value_is_still_there():
    whole = rows(step=STEPS, layer=LAYERS, head=list(range(4)), group=GROUPS)
    figure = figures.heatmap(whole.sample(frac=1, random_state=1), x="layer", y="head", facet=["step", "group"])
    assert crowd(figure)["panels"] == 6 and len(figure.frames) == 20
    assert (
        [f.name for f in figure.frames] == [str(s) for s in STEPS] == [s.label for s in figure.layout.sliders[0].steps]
    )
    drawn = {
        (int(frame.name), trace.xaxis, trace.yaxis): np.asarray(trace.z, dtype=float).sum()
        for frame in figure.frames
        for trace in frame.data
    }
    assert sum(drawn.values()) == pytest.approx(whole["value"].sum())
    titles = [a.text for a in figure.layout.annotations[:6]]
    first = whole[(whole["step"] == 30) & (whole["group"] == titles[0])]["value"].sum()
    assert drawn[(30, "x", "y")] == pytest.approx(first)


def test_a_panel_that_is_missing_at_one_position_of_the_slider_is_empty_there_and_moves_no_other():
    whole = rows(step=STEPS, layer=LAYERS[:3], head=[0, 1], group=GROUPS)
    part = whole[(whole["step"] != 30) | (whole["group"] != "g0")]
    figure = figures.heatmap(part, x="layer", y="head", facet=["step", "group"])
    frame = next(f for f in figure.frames if f.name == "30")
    assert np.isnan(np.asarray(frame.data[0].z, dtype=float)).all()
    assert np.asarray(frame.data[1].z).sum() == pytest.approx(part.query("step == 30 and group == 'g1'")["value"].sum())


def test_a_colour_means_one_number_in_every_figure():
    low, high = rows("logprob_nats", layer=LAYERS, step=STEPS), rows("logprob_nats", layer=[0, 1], step=[0, 1])
    for found in (low.assign(value=low["value"] - 2), high.assign(value=-0.1)):
        axis = figures.heatmap(found).layout.coloraxis
        assert (axis.cmin, axis.cmax, axis.colorbar.title.text) == (0, 1, "probability")
    cells = figures.heatmap(high.assign(value=np.log(0.25), ci_low=np.nan, ci_high=np.nan)).data[0]
    assert np.asarray(cells.z).ravel().tolist() == pytest.approx([0.25] * 4)
    assert "-1.386 nats" in cells.customdata[0][0]
    assert figures.heatmap(rows("jsd_nats", layer=[0, 1], step=[0, 1])).layout.coloraxis.cmax == pytest.approx(
        np.log(2)
    )


@pytest.mark.parametrize(("name", "unit"), [("accuracy", "1"), ("collapsed_share", "1"), ("x", "fraction")])
def test_shares_have_an_axis_from_zero_to_one(name, unit):
    flat = rows(name, step=[0, 1, 2]).assign(value=0.0, ci_low=0.0, ci_high=0.0, unit=unit)
    assert tuple(figures.curve(flat).layout.yaxis.range) == (-0.02, 1.02)
    assert figures.curve(flat.assign(value=1.5, ci_high=2.0)).layout.yaxis.range is None
