"""Pages for everybody: WCAG A and AA by axe, in light and dark; and no page of a real project's store is endless."""

from __future__ import annotations

from typing import Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT

from apps.report import write_report
from benchmarks._large import fill
from tests.apps.test_browser import PAGES, ready

pytestmark = pytest.mark.browser
TALLEST = 4000  # pixels
RULES = "axe.run({runOnly: {type: 'tag', values: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']}})"
TALL = "document.querySelector('[data-testid=stMain]').scrollHeight"


def broken(page: Any) -> list[str]:
    """Rules that the page breaks, with the first element that does."""
    page.evaluate(AXE_SCRIPT)
    found = page.evaluate(RULES)["violations"]
    return [f"{v['id']} ({len(v['nodes'])}): {v['nodes'][0]['html'][:200]} {v['nodes'][0]['any'][:1]}" for v in found]


@pytest.fixture(scope="module")
def address(store, serve) -> str:
    return serve(store)


@pytest.mark.parametrize(("scheme", "pages"), [("light", ("Run", "Token&of=high")), ("dark", ("Run",))])
def test_pages_break_no_rule(address, watched, scheme, pages):
    for name in pages:
        page = watched(f"{address}/?page={name}", color_scheme=scheme).page
        ready(page)
        page.locator("[data-testid=stMain] h3").first.wait_for()
        assert not broken(page), name


def test_the_report_breaks_no_rule(store, watched, tmp_path):
    page = watched(write_report(store, tmp_path / "report.html").as_uri()).page
    page.wait_for_selector(".js-plotly-plot .main-svg")
    assert not broken(page)


@pytest.mark.verify
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_of_a_real_project_break_no_rule_and_end(tmp_path, serve, watched, scheme):
    address = serve(fill(tmp_path / "results"))
    for name in (*PAGES, "Results&analysis=attention_entropy", "Results&analysis=logit_lens"):
        page = watched(f"{address}/?page={name}", color_scheme=scheme).page
        ready(page)
        page.locator("[data-testid=stMain] h3").first.wait_for()
        assert not broken(page), name
        assert page.evaluate(TALL) < TALLEST, name
        first = page.locator(".js-plotly-plot").first
        assert name != "Run" or first.bounding_box()["y"] < 800
