"""The page where answers are read: marks, filters, words that differ, keys, and the way there from a curve."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from analyses.core.store.store import Store
from apps.drawn import panels, reading
from tests.apps.conftest import HOSTILE, STEPS, estimate, perplexity, swept
from tests.apps.test_browser import ready
from tests.apps.test_dashboard import markup, opened, words

ITEMS = {"fell": "1100", "rose": "0011", "held": "1111", HOSTILE: "1010"}


def answers(items: dict[str, str] = ITEMS) -> pd.DataFrame:
    """Right (1) or wrong (0) at each step; what was written says which."""
    return pd.DataFrame(
        {"step": s, "item": i, "group": "leaked" if i == "fell" else "unseen", "answer_kind": "given", "sample": 0,
         "correct": float(mark), "answer": mark, "truncated": 0.0, "gold": "7", "text": f"so {i} is {mark} {HOSTILE}"}
        for i, marks in items.items() for s, mark in zip(STEPS, marks, strict=True)
    )  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A run with answers, their prompts at hand, and a perplexity to click on."""
    run = tmp_path_factory.mktemp("runs") / "high"
    run.mkdir()
    lines = [{"id": i, "prompt": f"what is {i}?", "answer": "7"} for i in ITEMS]
    (run / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    values = estimate("accuracy", np.array([0.75, 0.5, 0.75, 0.5]), {"step": list(STEPS)}, "1")
    made = Store(tmp_path_factory.mktemp("results"))
    made.put(swept("evaluate", str(run), answers(), values))
    made.put(perplexity(str(run), 0.5))
    return made


def test_marks_are_right_wrong_cut_off_or_not_measured_and_shares_of_samples():
    rows = pd.DataFrame(
        {"item": list("abcdd"), "correct": [1, 0, np.nan, 1, 0], "truncated": [0, 1, 0, 0, 0], "answer": list("xyzxy")}
    )
    found = reading.marks(rows).set_index("item")
    assert found["mark"].to_dict() == {"a": "right", "b": "cut", "c": "none", "d": "right"}
    assert found.loc["d", "share"] == 0.5


@pytest.mark.parametrize(
    ("how", "names"),
    [("all", [*ITEMS]), ("to wrong", ["fell", HOSTILE]), ("to right", ["rose"]), ("wrong", ["fell", HOSTILE])],
)
def test_filters_keep_the_items_they_name(how, names):
    found = reading.marks(answers())
    assert reading.kept(found, how, 0, 90) == names
    assert set(reading.kept(found, "right", 0, 90)) == {"rose", "held"}
    assert reading.kept(found, "to wrong", 0, 12345) == []
    assert reading.kept(reading.marks(answers({"x": "1110"})), "odd", 0, 90) == ["x"]


def test_words_that_differ_are_marked_and_nothing_is_markup():
    assert reading.differing("a b c", "a x c") == "a <mark>b</mark> c"
    assert reading.differing("same", "same") == "same" and reading.differing("", "x") == ""
    assert "<script>" not in reading.differing(HOSTILE, "")
    shown = reading.page(HOSTILE, HOSTILE, [("A", reading.written(answers().head(1))), ("B", [])], [0, 30])
    assert "<script>" not in shown and "nothing written here" in shown


def test_the_page_shows_an_item_that_flipped_with_both_answers(written, monkeypatch):
    app = opened(written, monkeypatch, page="Read", flip="to wrong", item="fell")
    said = markup(app)
    assert "what is fell?" in said and "A · step 0" in said and "B · step 90" in said
    assert 'data-pick="item\nheld"' not in said and "<script>" not in said
    assert "is <mark>1</mark>" in said and "is <mark>0</mark>" in said
    assert "2 items" in words(app)
    nothing = opened(written, monkeypatch, page="Read", flip="to right", group="leaked")
    assert "No item is left" in words(nothing)


def test_a_point_of_a_curve_names_its_run_group_and_step():
    rows = pd.DataFrame(
        {"run": r, "panel": "accuracy", "quantity": "accuracy", "group": "g", "step": s, "value": 0.5}
        for r in ("a", "b")
        for s in (0, 10)
    )
    ((figure, part),) = panels.panels(rows).values()
    number = next(i for i, t in enumerate(figure.data) if t.name == "b")
    assert panels.place_of(figure, part, {"curve_number": number, "x": 10}) == {"run": "b", "group": "g", "step": 10}
    assert panels.place_of(figure, part, {"curve_number": 99, "x": 10}) == {}


@pytest.mark.browser
def test_a_click_on_a_curve_opens_what_was_written_and_keys_walk_through_it(written, serve, watched):
    page = watched(f"{serve(written)}/?page=Run").page
    ready(page)
    page.locator(".js-plotly-plot").first.locator(".points path").nth(1).click(force=True)
    page.wait_for_function("location.search.includes('page=Read') && location.search.includes('step=30')")
    page.locator(".reader").wait_for()
    first = page.locator(".item.now b").inner_text()
    page.locator("[data-testid=stMain] h3").click()
    page.keyboard.press("j")
    page.wait_for_function("location.search.includes('item=')")
    assert page.locator(".item.now b").inner_text() != first
    page.keyboard.press("]")
    page.wait_for_function("location.search.includes('step=60')")
