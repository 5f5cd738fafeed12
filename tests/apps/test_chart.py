"""The page's own charts: the script comes from this package, colours follow the page, clicks and cameras work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from analyses.core.store.store import Store
from apps.dashboard.widgets import chart
from benchmarks import _large
from tests.apps.test_browser import ready

BUNDLE = Path(chart.__file__).parents[1] / "static" / chart.BUNDLE
FIGURE = "document.querySelector('.js-plotly-plot')"
DARK = "() => getComputedStyle(document.querySelector('.js-plotly-plot .xtick text')).fill"


def test_the_bundle_is_a_third_of_plotly_and_has_its_licence():
    from plotly.offline import get_plotlyjs

    script = BUNDLE.read_text(encoding="utf-8")
    assert len(script) < len(get_plotlyjs()) / 3 and "MIT license" in script[:300]
    versions = [re.search(r"v(\d+)\.", text[:300]) for text in (script, get_plotlyjs())]
    assert versions[0] and versions[1] and versions[0][1] == versions[1][1]  # figures are of the same plotly.js


def test_all_that_figures_draw_is_in_the_bundle():
    kinds = {"scatter", "heatmap", "bar"}
    folders = ("analyses", "apps")
    root = Path(chart.__file__).parents[3]
    drawn = {m for f in folders for p in (root / f).rglob("*.py") for m in re.findall(r"\.add_(\w+)\(", p.read_text())}
    known = {"scatter", "heatmap", "bar", "trace", "traces", "annotation", "vline", "vrect", "hline", "shape"}
    assert {d for d in drawn if hasattr(__import__("plotly").graph_objects.Figure, f"add_{d}")} <= known
    script = BUNDLE.read_text(encoding="utf-8")
    assert all(f'"{kind}"' in script for kind in kinds)


@pytest.mark.browser
def test_the_script_of_charts_is_asked_for_before_there_is_one(store, serve, watched):
    page = watched(f"{serve(store)}/?page=Steer").page
    page.wait_for_function("window.probePlotly && window.Plotly")
    assert not page.locator(".st-key-ahead").is_visible()


@pytest.mark.browser
def test_many_maps_are_one_set_with_a_slider_on_every_screen(tmp_path, serve, watched):
    store = Store(tmp_path / "results")
    store.put(_large.made(_large.RUNS[0], "attention_entropy"))
    page = watched(f"{serve(store)}/?page=Results&analysis=attention_entropy").page
    ready(page)
    page.locator(".js-plotly-plot .main-svg").first.wait_for()
    assert page.evaluate(f"{FIGURE}.data.length") == len(_large.GROUPS)
    frames = page.evaluate(f"{FIGURE}._transitionData._frames.length")
    before = page.evaluate(f"JSON.stringify({FIGURE}.data[0].z)")
    assert frames == len(_large.STEPS)
    page.locator(".slider-rail-touch-rect").click(position={"x": 20, "y": 10})
    page.wait_for_function(f"before => JSON.stringify({FIGURE}.data[0].z) !== before", arg=before)
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 844})
        page.wait_for_timeout(300)
        assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight") < 4000


@pytest.mark.browser
def test_a_zoom_outlives_smoothing_and_smoothing_a_link(store, serve, watched):
    page = watched(f"{serve(store)}/?page=Run").page
    ready(page)
    page.locator(".js-plotly-plot .main-svg").first.wait_for()
    box = page.locator(".js-plotly-plot .nsewdrag").first.bounding_box()
    for share, then in ((0.3, page.mouse.down), (0.7, page.mouse.up)):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2, steps=5)
        then()
    page.wait_for_function(f"{FIGURE}.layout.xaxis.range[0] > 10")
    zoomed = page.evaluate(f"{FIGURE}.layout.xaxis.range")
    before = page.evaluate(f"JSON.stringify({FIGURE}.data.map(t => [t.y, t.name]))")
    page.get_by_test_id("stPopoverButton").filter(has_text="Curves").click()
    slider = page.get_by_test_id("stPopoverBody").get_by_role("slider")
    slider.focus()
    slider.press("ArrowRight")
    page.wait_for_function("location.search.includes('smooth=0.3')")
    page.wait_for_function(f"before => JSON.stringify({FIGURE}.data.map(t => [t.y, t.name])) !== before", arg=before)
    assert page.evaluate(f"{FIGURE}.layout.xaxis.range") == pytest.approx(zoomed)


@pytest.mark.browser
def test_a_chart_is_named_loads_no_more_and_follows_the_page_into_the_dark(store, serve, watched):
    page = watched(f"{serve(store)}/?page=Results&analysis=perplexity", color_scheme="light").page
    ready(page)
    assert page.locator(".probe-chart").first.get_attribute("role") == "figure"
    assert page.locator(".probe-chart").first.get_attribute("aria-label")
    loaded = page.evaluate("performance.getEntriesByType('resource').map(r => r.name)")
    assert any(chart.BUNDLE in name for name in loaded) and not any("PlotlyChart" in name for name in loaded)
    light = page.evaluate(DARK)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"before => ({DARK})() !== before", arg=light, timeout=10_000)
