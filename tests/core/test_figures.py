"""Figures say what was measured, with its unit and interval, and what was not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analyses.core import figures
from analyses.core.figures import scales, traces

HOSTILE = "<script>alert(1)</script><b>"


def rows(steps: tuple[int, ...] = (0, 10, 20), groups: tuple[str, ...] = ("leaked", "unseen")) -> pd.DataFrame:
    found = [
        {"quantity": "ppl", "unit": "1", "step": s, "group": g, "value": 2.0 + s + i, "n": 5}
        for i, g in enumerate(groups)
        for s in steps
    ]
    frame = pd.DataFrame(found)
    return frame.assign(ci_low=frame["value"] - 0.5, ci_high=frame["value"] + 0.5)


def lines(figure):
    return [t for t in figure.data if t.mode == "lines+markers"]


def bands(figure):
    return [t for t in figure.data if t.fill == "toself"]


def test_curve_draws_one_line_and_one_band_per_colour():
    figure = figures.curve(rows(), color="group", title="Perplexity")
    assert [t.name for t in lines(figure)] == ["leaked", "unseen"]
    assert list(lines(figure)[1].y) == [3.0, 13.0, 23.0]
    assert list(bands(figure)[0].y) == [2.5, 12.5, 22.5, 21.5, 11.5, 1.5]
    assert figure.layout.yaxis.title.text == "perplexity"
    assert figure.layout.xaxis.title.text == "optimizer step"


def test_line_is_sorted_by_number_whatever_the_order_of_rows():
    shuffled = rows(groups=("a",)).sample(frac=1, random_state=3)
    assert list(lines(figures.curve(shuffled))[0].x) == [0, 10, 20]


def test_hover_tells_interval_and_n():
    told = lines(figures.curve(rows(groups=("a",))))[0].customdata[0]
    assert told == "2<br>95 % interval 1.5 to 2.5<br>n = 5"
    assert lines(figures.curve(rows(groups=("a",)).assign(unit="nats")))[0].customdata[0].startswith("2 nats<br>")


def test_a_missing_interval_leaves_a_gap_in_the_band_not_a_zero():
    frame = rows(steps=(0, 1, 2, 3, 4), groups=("a",))
    frame.loc[2, ["ci_low", "ci_high"]] = np.nan
    figure = figures.curve(frame)
    assert list(bands(figure)[0].x) == [0, 1, 1, 0, None, 3, 4, 4, 3]
    assert 0.0 not in bands(figure)[0].y
    assert "no interval" in lines(figure)[0].customdata[2]


def test_unmeasured_value_stays_nan():
    frame = rows(groups=("a",))
    frame.loc[1, "value"] = np.nan
    assert np.isnan(lines(figures.curve(frame))[0].y[1])


def test_several_quantities_never_share_a_panel():
    two = pd.concat([rows(), rows().assign(quantity="nll_nats", unit="nats")])
    figure = figures.curve(two, color="group")
    assert {a.text for a in figure.layout.annotations} == {"ppl", "nll_nats"}
    assert figure.layout.yaxis2.title.text == "negative log-likelihood (nats)"


def test_rows_that_cannot_be_told_apart_are_refused_with_the_column_that_would():
    with pytest.raises(ValueError, match="group"):
        figures.curve(rows())


def test_unknown_column_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no column \['colour'\].*'group'"):
        figures.curve(rows(), color="colour")


def test_several_columns_are_read_together_and_constant_ones_left_out():
    frame = pd.concat([rows().assign(mask=m, answer_kind="given") for m in ("prompt", "answer")])
    figure = figures.curve(frame, facet=["mask", "answer_kind"], color="group")
    assert {a.text for a in figure.layout.annotations} == {"prompt", "answer"}


def test_categories_on_x_are_dots_not_lines():
    figure = figures.curve(rows(steps=(0,)), x="group")
    assert figure.data[0].mode == "markers"
    assert list(figure.data[0].error_y.array) == [0.5, 0.5]


def test_steps_as_colour_get_an_ordered_ramp():
    frame = rows(steps=tuple(range(0, 60, 10)), groups=("a",)).assign(layer=1)
    colours = [t.marker.color for t in figures.curve(frame, x="layer", color="step").data if t.mode == "lines+markers"]
    assert colours[0] == traces.RAMP[0]
    assert colours[-1] == traces.RAMP[-1]


def test_heatmap_is_centred_on_zero_for_signed_values_and_leaves_gaps():
    cells = [{"layer": i, "head": h, "value": float(i - h), "unit": "nats"} for i in range(2) for h in range(3)]
    figure = figures.heatmap(pd.DataFrame(cells[:-1]), x="layer", y="head")
    scale = figure.layout.coloraxis
    assert (scale.cmin, scale.cmid, scale.cmax) == (-2, 0, 2)
    assert np.isnan(figure.data[0].z[2][1])
    assert figure.data[0].customdata[2][1] == "not measured"
    assert any("not measured" in (a.text or "") for a in figure.layout.annotations)
    assert scale.colorbar.title.text == "nats"


def test_heatmap_of_unsigned_values_is_sequential_and_panels_share_it():
    places = [(i, h, g) for i in (0, 1) for h in (0, 1) for g in "ab"]
    cells = [{"layer": i, "head": h, "value": 1.0 + i * (g == "b"), "group": g} for i, h, g in places]
    figure = figures.heatmap(pd.DataFrame(cells), x="layer", y="head", facet="group")
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (1, 2)
    assert {t.coloraxis for t in figure.data} == {"coloraxis"}


def test_a_cell_given_twice_is_refused():
    with pytest.raises(ValueError, match="share"):
        figures.heatmap(pd.DataFrame([{"layer": 0, "head": 0, "value": 1.0}] * 2), x="layer", y="head")


def test_forest_places_each_label_and_its_interval():
    figure = figures.forest(rows(steps=(0,)), label="group")
    assert figure.layout.yaxis.ticktext == ("leaked", "unseen")
    assert list(figure.data[0].x) == [2.0, 3.0]
    assert list(figure.data[0].error_x.arrayminus) == [0.5, 0.5]


def test_scatter_draws_the_diagonal_over_the_whole_range():
    figure = figures.scatter(pd.DataFrame({"a": [0.0, 2.0], "b": [1.0, -1.0]}), x="a", y="b", diagonal=True)
    assert list(figure.data[-1].x) == [-1.0, 2.0]


def test_a_forest_has_room_on_both_sides_of_its_line():
    rows = pd.DataFrame({"quantity": ["a", "b"], "value": [1.0, 2.0], "ci_low": [0.5, 1.0], "ci_high": [1.5, np.nan]})
    low, high = figures.forest(rows, label="quantity").layout.xaxis.range
    assert low < 0
    assert high > 2


def contrast(one: np.ndarray, other: np.ndarray) -> float:
    light = sorted(
        float(np.where(c <= 0.03928, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722))
        for c in (one, other)
    )
    return (light[1] + 0.05) / (light[0] + 0.05)


@pytest.mark.parametrize("values", [np.linspace(-4, 0, 41), np.linspace(-1, 1, 41)])
def test_a_token_is_readable_on_its_cell_whatever_the_colour(values):
    from plotly.colors import hex_to_rgb, sample_colorscale

    figure = figures.tokens(list(map(str, range(41))), values)
    scale = figure.layout.coloraxis
    places = list((values - scale.cmin) / (scale.cmax - scale.cmin))
    cells = sample_colorscale([color for _, color in scale.colorscale], places, colortype="tuple")
    inks = {int(t): np.array(hex_to_rgb(trace.textfont.color)) / 255 for trace in figure.data[1:] for t in trace.text}
    assert sorted(inks) == list(range(41))
    assert min(contrast(np.array(cells[i]), inks[i]) for i in inks) >= 4.5


def test_tokens_wrap_and_an_unmeasured_token_is_shown_without_colour():
    figure = figures.tokens(["a", " b", "\n"], [1.0, np.nan, -2.0], unit="nats", columns=2)
    assert figure.data[0].text.tolist() == [["a", "·b"], ["↵", ""]]
    assert np.isnan(figure.data[0].z[0][1])
    assert "·b" in [a.text for a in figure.layout.annotations]
    written = {t: trace.textfont.color for trace in figure.data[1:] for t in trace.text}
    assert set(written) == {"a", "↵"}
    assert figure.layout.coloraxis.cmin == -2


def test_tokens_need_one_value_each():
    with pytest.raises(ValueError, match="2 tokens with 1 values"):
        figures.tokens(["a", "b"], [1.0])


def test_hostile_text_is_escaped_in_every_figure():
    frame = rows(groups=(HOSTILE,)).assign(unit=HOSTILE)
    drawn = [
        figures.curve(frame, color="group", title=HOSTILE, unit=HOSTILE),
        figures.curve(frame, x="step", facet="group"),
        figures.heatmap(frame, x="step", y="group", title=HOSTILE),
        figures.forest(frame.query("step == 0"), label="group", color="group"),
        figures.forest(frame, label=["group", "step"]),
        figures.scatter(frame, x="step", y="value", color="group", hover=["group"], x_title=HOSTILE),
        figures.tokens([HOSTILE], [1.0], unit=HOSTILE, hover=[HOSTILE], title=HOSTILE),
        figures.mark(figures.curve(frame, color="group"), 1, HOSTILE),
        figures.shade(figures.curve(frame, color="group"), 0, 1, HOSTILE),
        figures.empty(HOSTILE, HOSTILE),
    ]
    for figure in drawn:
        text = figure.to_json().replace("\\u003c", "<")
        assert "<script" not in text
        assert "&amp;lt;" not in text


def test_auto_draws_every_quantity_whatever_its_dims():
    curves = rows()
    cells = pd.DataFrame(
        [{"quantity": "effect", "unit": "nats", "layer": i, "head": h, "value": 1.0} for i in (0, 1) for h in (0, 1)]
    )
    single = pd.DataFrame([{"quantity": "auroc", "unit": "1", "value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n": 9}])
    many = pd.concat(
        [rows().assign(quantity="many", mask=m, variant=v, answer_kind=k) for m in "ab" for v in "cd" for k in "ef"]
    )
    found = figures.auto(pd.concat([curves, cells, single, many]))
    assert set(found) == {"ppl", "effect", "auroc", "many"}
    assert found["effect"].data[0].type == "heatmap"


def test_nothing_to_draw_says_so():
    for figure in (figures.curve(rows().iloc[:0]), figures.forest(rows().iloc[:0], label="group")):
        assert "no measured values" in figure.layout.annotations[0].text
    assert figures.auto(rows().iloc[:0]) == {}


def test_marks_and_stages_are_labelled():
    figure = figures.shade(figures.mark(figures.curve(rows(), color="group"), 10, "ship"), 0, 10, "good fit")
    assert {a.text for a in figure.layout.annotations} == {"ship", "good fit"}


@pytest.mark.parametrize(("token", "shown"), [("", "∅"), ("   ", "···"), (" a\nb", "·a↵b"), ("x" * 30, "x" * 13 + "…")])
def test_tokens_can_be_read(token, shown):
    assert figures.visible(token) == shown


def test_colour_scale_never_collapses():
    assert scales.color_scale([3.0, 3.0])["cmax"] > scales.color_scale([3.0, 3.0])["cmin"]
    assert scales.color_scale([np.nan])["cmax"] == 1.0
    assert scales.color_scale([-1.0, 0.5], limit=2.0)["cmin"] == -2.0
    zeros = scales.color_scale([0.0, 0.0], limit=2.0)
    assert (zeros["cmin"], zeros["cmax"]) == (0.0, 2.0)


def test_colours_are_centred_only_where_both_signs_occur_or_it_is_asked():
    assert scales.color_scale([-3.0, 1.0])["cmid"] == 0
    assert "cmid" not in scales.color_scale([-3.0, -1.0])
    assert scales.color_scale([-3.0, -1.0], signed=True)["cmax"] == 3.0


def test_values_of_one_sign_share_a_scale_that_starts_at_zero():
    ends = [scales.color_scale(v, limit=4.0) for v in ([-3.0, -1.0], [1.0, 2.0])]
    assert [(e["cmin"], e["cmax"]) for e in ends] == [(-4.0, 0.0), (0.0, 4.0)]
