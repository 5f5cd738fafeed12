"""The page's own charts: the script comes from this package, colours follow the page, clicks and cameras work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from apps.dashboard.widgets import chart
from tests.apps.test_browser import ready

BUNDLE = Path(chart.__file__).parents[1] / "static" / chart.BUNDLE
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
