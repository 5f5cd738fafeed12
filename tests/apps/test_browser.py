"""The dashboard in a real browser: clicks, slider, links, exports, two at once, hostile text, no word on the console.

Screenshots land in docs/images when PROBE_SCREENSHOTS=1 (the documentation shows them).
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from analyses.core.store.store import Store
from apps.report import write_report
from tests.apps.conftest import IMAGES, key

pytestmark = pytest.mark.browser
TAKES_PICTURES = os.environ.get("PROBE_SCREENSHOTS") == "1"
# What the pictures of the documentation show, where the store has it; anything else is ignored by the page.
SHOWN = {
    "Read": "&run=sft-high&flip=to+wrong",
    "Circuit": "&of=planted",
    "Pictures": "&of=grpo-format",
    "Token": "&of=planted&base=0&show=two+checkpoints",
    "Compare": "&analysis=logit_lens",
    "Results": "&analysis=logit_lens",
}
TITLES = {
    "Run": "What happened over training",
    "Read": "What the model wrote",
    "Circuit": "Where in the model",
    "Pictures": "Pictures of one run",
    "Token": "One item, token by token",
    "Compare": "Two results side by side",
    "Steer": "Change the model while it writes",
    "Results": "",
}
PAGES = tuple(TITLES)
# In pictures a path begins at the lab's runs, wherever the checkout lies.
WITHOUT_FOLDERS = """() => {
    const all = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (all.nextNode()) all.currentNode.data = all.currentNode.data.replace(/\\/\\S*?\\/(?=runs\\/)/g, '');
}"""


# A figure is away for a moment while it is drawn anew.
REDRAWN = """before => {
    const now = document.querySelector('.js-plotly-plot .main-svg')?.innerHTML;
    return now && now !== before;
}"""


@pytest.fixture(scope="module")
def address(store, serve) -> str:
    return serve(store)


def ready(page: Any) -> None:
    """Wait until the page's script has run through and its figure, if any, is drawn."""
    page.wait_for_selector("h3, h2", timeout=30_000)
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=60_000)
    page.wait_for_function("!document.querySelector('[data-testid=stSkeleton]')", timeout=30_000)
    if page.locator(".probe-chart").count():
        page.wait_for_selector(".js-plotly-plot .main-svg", timeout=30_000)


def shot(page: Any, name: str) -> None:
    if TAKES_PICTURES:
        IMAGES.mkdir(parents=True, exist_ok=True)
        page.set_viewport_size({"width": 1280, "height": 1400})
        page.wait_for_timeout(3000)
        page.evaluate(WITHOUT_FOLDERS)
        content = page.locator("[data-testid=stMainBlockContainer]").bounding_box()
        clip = {"x": 0, "y": 0, "width": 1280, "height": min(1400, content["y"] + content["height"] - 100)}
        page.screenshot(path=IMAGES / f"{name}.png", clip=clip)


@pytest.fixture(scope="module")
def lab_address(lab, serve) -> str:
    """Dashboard of results of a trained lab; PROBE_LAB_RESULTS names a fuller store than the demo's."""
    folder = Path(os.environ.get("PROBE_LAB_RESULTS", lab / "results"))
    if not any(folder.glob("*/*/record.json")):
        pytest.skip(f"no results in {folder}; make them with `make demo`")
    return serve(Store(folder))


@pytest.mark.parametrize("name", PAGES)
def test_page_opens(address, watched, name):
    page = watched(f"{address}/?page={name}").page
    ready(page)
    assert page.locator("h3").first.is_visible()
    assert page.evaluate("window.hacked") is None
    assert page.locator("a[href*=evil]").count() == 0
    assert page.get_by_test_id("stSidebarNav").count() == 0  # Streamlit's own list of the files in `pages`


def test_pages_open_where_torch_is_not_installed(store, serve, watched, tmp_path):
    for package in ("torch", "transformers"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise ImportError('not installed')")
    page = watched(serve(store, PYTHONPATH=str(tmp_path))).page
    for name in PAGES:
        page.get_by_role("radio", name=name).locator("xpath=ancestor::label").click()
        page.wait_for_function(f"location.search.includes('page={name}') || '{name}' === 'Run'")
        ready(page)
        assert "ImportError" not in page.locator("[data-testid=stMain]").inner_text()
    page.get_by_role("radio", name="Steer").locator("xpath=ancestor::label").click()
    page.wait_for_selector("text=needs torch")


def go_to(page: Any, name: str) -> None:
    page.get_by_role("radio", name=name).locator("xpath=ancestor::label").click()
    page.wait_for_selector(f"[data-testid=stMain] h3:has-text('{TITLES[name]}')", timeout=30_000)
    ready(page)


def test_pages_are_reached_from_one_another_by_a_click(address, watched):
    page = watched(address).page
    ready(page)
    for there in PAGES[3:]:
        for back in ("Run", "Circuit"):
            if back != there:
                go_to(page, there)
                go_to(page, back)
                assert page.locator("[data-testid=stException]").count() == 0, (there, back)
    go_to(page, "Circuit")
    assert page.locator(".probe-chart").count() == 2  # curves are chosen already, and the map


def slider_at(page: Any, text: str) -> None:
    page.locator(f"[aria-valuetext='{text}']").first.wait_for()


def test_back_and_forward_bring_earlier_views(address, watched):
    page = watched(f"{address}/?page=Results&analysis=logit_lens").page
    ready(page)
    slider = page.get_by_role("slider").first
    slider.focus()
    slider.press("End")
    page.wait_for_function("location.search.includes('step=90')")
    ready(page)
    go_to(page, "Token")
    go_to(page, "Run")
    page.go_back()
    page.wait_for_selector(f"[data-testid=stMain] h3:has-text('{TITLES['Token']}')")
    ready(page)
    page.go_back()
    slider_at(page, "90")
    page.wait_for_selector("[data-testid=stMain] h3:has-text('At which layer')")
    ready(page)
    assert "step=90" in page.url
    page.go_back()
    page.wait_for_function("!location.search.includes('step=90')")
    slider_at(page, "all steps")
    page.go_forward()
    page.wait_for_function("location.search.includes('step=90')")
    slider_at(page, "90")
    ready(page)


def test_numbers_are_there_before_the_grid_is_asked_for(address, watched):
    page = watched(f"{address}/?page=Results&analysis=perplexity").page
    ready(page)
    table = page.locator("[data-testid=stMain] table").first
    assert table.locator("th").all_inner_texts()[-1] == "n"
    assert table.locator("tbody tr").count() == 12
    assert page.locator("[data-testid=stDataFrame]").count() == 0
    page.locator("label", has_text="All estimates").click()
    page.wait_for_selector("[data-testid=stDataFrame] canvas")


@pytest.mark.lab
@pytest.mark.parametrize("name", PAGES)
def test_page_opens_on_results_of_the_lab(lab_address, watched, name):
    page = watched(f"{lab_address}/?page={name}{SHOWN.get(name, '')}").page
    ready(page)
    assert page.locator("h3").first.is_visible()
    if name == "Steer" and TAKES_PICTURES:
        page.get_by_role("button", name="Steer", exact=True).click()
        page.locator(".reader pre").nth(2).wait_for(timeout=120_000)
        ready(page)
    if name == "Pictures":
        page.locator(".probe-chart .main-svg").nth(3).wait_for()  # at least four pictures
    shot(page, name.lower())


@pytest.mark.lab
def test_a_dose_of_steer_is_written_beside_its_placebo(lab_address, watched):
    page = watched(f"{lab_address}/?page=Steer").page
    ready(page)
    page.get_by_role("button", name="Steer", exact=True).click()
    page.locator(".reader pre").nth(2).wait_for(timeout=120_000)
    assert page.locator(".doses").count() == 2  # the direction's doses, and the placebo's
    assert page.locator(".doses").first.locator("td").count() == page.locator(".doses").last.locator("td").count()
    page.locator(".doses td[data-pick]").nth(4).click()
    page.wait_for_function("location.search.includes('dose=')")
    ready(page)
    page.locator(".reader mark").first.wait_for(timeout=120_000)
    assert page.locator(".reader h4").all_inner_texts() == ["as it is", "steered", "placebo"]
    assert not page.locator(".reader pre").first.locator("mark").count()


@pytest.mark.lab
@pytest.mark.parametrize(
    ("name", "size", "scheme"),
    [
        ("run-1920", (1920, 1080), "light"),
        ("run-dark", (1280, 800), "dark"),
        ("run-phone", (390, 844), "dark"),
        ("run-phone-light", (390, 844), "light"),
    ],
)
def test_the_first_screen_of_the_lab_at_other_sizes(lab_address, watched, name, size, scheme):
    page = watched(lab_address, color_scheme=scheme).page
    page.set_viewport_size(dict(zip(("width", "height"), size, strict=True)))
    ready(page)
    page.locator(".card").first.wait_for()
    wide = "document.querySelector('[data-testid=stMain]')"
    assert page.evaluate(f"{wide}.scrollWidth <= {wide}.clientWidth")
    if TAKES_PICTURES:
        page.wait_for_timeout(3000)
        page.evaluate(WITHOUT_FOLDERS)
        page.screenshot(path=IMAGES / f"{name}.png")


def test_slider_redraws_the_figure_and_a_link_brings_the_view_back(address, watched):
    page = watched(f"{address}/?page=Results&analysis=logit_lens").page
    ready(page)
    before = page.locator(".js-plotly-plot .main-svg").first.inner_html()
    slider = page.get_by_role("slider").first
    slider.focus()
    slider.press("End")
    page.wait_for_function("location.search.includes('step=90')")
    page.wait_for_function(REDRAWN, arg=before)
    again = watched(page.url).page
    ready(again)
    assert again.get_by_role("slider").first.get_attribute("aria-valuetext") in ("90", None)
    assert again.get_by_text("90", exact=True).first.is_visible()
    assert (
        re.search(r"step=90", again.locator("[data-testid=stExpander]").all_inner_texts()[0]) or "step=90" in again.url
    )


def test_a_cell_leads_to_its_items_and_an_item_to_its_tokens(address, watched):
    page = watched(f"{address}/?page=Circuit&of=high").page
    ready(page)
    page.wait_for_selector("text=Choose a cell")
    chart = page.locator(".probe-chart").last
    chart.scroll_into_view_if_needed()
    box = chart.locator(".nsewdrag").first.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 6, box["y"] + box["height"] / 8)
    page.wait_for_selector("text=Tokens of", timeout=10_000)
    assert "layer 0" in page.locator("text=Tokens of").inner_text()
    page.wait_for_function("location.search.includes('cell=layer+0')")
    again = watched(page.url).page
    again.wait_for_selector("text=Tokens of", timeout=20_000)
    assert again.locator("text=Tokens of").inner_text() == page.locator("text=Tokens of").inner_text()


def test_a_token_shows_its_layers(address, watched):
    page = watched(f"{address}/?page=Token&of=high&item=leaked-0").page
    ready(page)
    chart = page.locator(".probe-chart").first
    chart.scroll_into_view_if_needed()
    box = chart.locator(".nsewdrag").first.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 24, box["y"] + box["height"] / 2)
    page.wait_for_selector("text=read at position 0", timeout=10_000)
    page.wait_for_function("location.search.includes('pos=0')")
    watched(page.url).page.wait_for_selector("text=read at position 0", timeout=20_000)


def test_exports_are_files_with_what_they_say(address, watched):
    page = watched(f"{address}/?page=Results&analysis=perplexity").page
    ready(page)
    page.get_by_role("button", name=re.compile("Export")).click()
    for label, start in (
        ("Figure, HTML", b"<!doctype html>"),
        ("Estimates, CSV", b"quantity,unit"),
        ("All rows, Parquet", b"PAR1"),
    ):
        with page.expect_download(timeout=20_000) as download:
            page.get_by_role("button", name=re.compile(label)).click()
        assert Path(download.value.path()).read_bytes().startswith(start)


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_camera_button_saves_an_image(address, watched, kind):
    page = watched(f"{address}/?page=Results&analysis=perplexity&image={kind}").page
    ready(page)
    page.locator(".js-plotly-plot").first.hover()
    with page.expect_download(timeout=20_000) as download:
        page.locator(".modebar-btn[data-title*='Download plot']").first.click()
    assert download.value.suggested_filename.endswith(f".{kind}")


def test_two_browsers_do_not_disturb_each_other(address, watched):
    first = watched(f"{address}/?page=Results&analysis=perplexity").page
    second = watched(f"{address}/?page=Results&analysis=logit_lens").page
    for page in (first, second):
        ready(page)
    slider = first.get_by_role("slider").first
    slider.focus()
    slider.press("End")
    first.wait_for_function("location.search.includes('step=90')")
    assert "step" not in second.url
    assert second.get_by_text("At which layer").is_visible()


def test_pages_are_reached_by_keyboard(address, watched):
    page = watched(address).page
    ready(page)
    page.get_by_role("radio", name="Run").focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_function("location.search.includes('page=Read')")


def test_new_results_appear_by_themselves(store, serve, watched, tmp_path):
    root = tmp_path / "growing"
    (root / "perplexity").mkdir(parents=True)
    page = watched(serve(Store(root))).page
    page.wait_for_selector("text=No results yet")
    name = key("perplexity", "runs/high")
    shutil.copytree(store.root / "perplexity" / name, root / "perplexity" / name)
    page.wait_for_selector("text=What happened over training", timeout=15_000)


def test_dark_mode_is_followed(address, watched):
    page = watched(f"{address}/?page=Run", color_scheme="dark").page
    ready(page)
    shade = page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")
    assert max(map(int, re.findall(r"\d+", shade)[:3])) < 80


def test_report_opens_from_a_file_and_asks_no_other_host(store, watched, tmp_path):
    path = write_report(store, tmp_path / "report.html")
    page = watched(path.as_uri()).page
    page.wait_for_selector(".js-plotly-plot .main-svg")
    assert page.evaluate("window.hacked") is None
    assert page.locator(".js-plotly-plot").count() >= 4
    assert page.locator(".card").first.bounding_box()["y"] < page.locator(".figure").first.bounding_box()["y"] < 900
