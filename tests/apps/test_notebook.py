"""Answers to be read and attention patterns in CircuitsVis form, for notebooks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses.core.result import Result
from apps.drawn import reading
from apps.notebook import attention, reader
from probe import Prompts
from probe.errors import InputError
from tests.apps.conftest import STEPS, estimate, swept
from tests.apps.test_dashboard import opened
from tests.apps.test_reading import ITEMS, answers, written  # noqa: F401 (a fixture)

PATTERN = np.array([[[1.0, 0.0], [0.25, 0.75]]])


def answered(rows: pd.DataFrame) -> Result:
    values = estimate("accuracy", np.ones(len(STEPS)), {"step": list(STEPS)}, "1")
    return swept("evaluate", "runs/high", rows, values)


def test_answers_are_read_as_on_the_page_by_the_same_function(written, monkeypatch):  # noqa: F811
    """Both call `reading.page` with the same texts; the notebook has every item, each folded."""
    asked = Prompts.of([{"id": i, "prompt": f"what is {i}?", "answer": "7"} for i in ITEMS])
    calls: list[tuple[object, ...]] = []
    page = reading.page
    monkeypatch.setattr(reading, "page", lambda *args: calls.append(args[:3]) or page(*args))
    html = reader(answered(answers()), asked)._repr_html_()
    assert html.count("<details") == len(calls) == len(ITEMS) and "<script" not in html
    own = [call for call in calls if "fell" in str(call[0])]
    opened(written, monkeypatch, page="Read", item="fell")
    assert own and calls[-1] == own[0]


def test_filters_of_the_reader_count_what_they_keep():
    html = reader(answered(answers())).html
    for said in ("all (4)", "flipped to wrong (2)", "flipped to right (1)", "wrong at B (2)"):
        assert f">{said}</label>" in html
    alone = reader(answered(answers()), steps=(30, 30)).html
    assert "A · step" not in alone and ">flipped to wrong (0)</label>" in alone


def test_what_cannot_be_read_is_told():
    with pytest.raises(InputError, match="no column 'text'"):
        reader(answered(answers().drop(columns="text")))
    with pytest.raises(InputError, match=r"expected two of \[0, 30, 60, 90\]"):
        reader(answered(answers()), steps=(0, 31))


@pytest.mark.browser
def test_a_filter_and_an_item_need_no_server(browser, tmp_path: Path):
    page = browser.new_page()
    path = tmp_path / "page.html"
    path.write_text(f"<meta charset=utf-8><body>{reader(answered(answers())).html}", encoding="utf-8")
    page.goto(path.as_uri())
    page.get_by_label("flipped to right").check()
    assert page.locator("details:visible b").all_inner_texts() == ["rose"]
    page.locator("summary:visible").click()
    assert page.locator(".reader:visible mark").count() == 2
    page.close()


def test_pattern_is_shown_without_a_network():
    pytest.importorskip("circuitsvis")
    html = attention(["a", "b"], PATTERN, names=["L5H0"])._repr_html_()
    assert "CircuitsVis.AttentionHeads" in html
    assert "0.75" in html
    assert '"L5H0"' in html
    assert "unpkg.com" in attention(["a", "b"], PATTERN, offline=False).html


def test_token_text_cannot_end_the_script():
    pytest.importorskip("circuitsvis")
    html = attention(["</script><script>alert(1)</script>", "b"], PATTERN).html
    assert "<script>alert(1)" not in html
    assert html.count("</script>") == 1
    assert "\\u003c/script>" in html


def test_shapes_must_fit():
    pytest.importorskip("circuitsvis")
    with pytest.raises(InputError, match=r"expected \(head, 3, 3\)"):
        attention(["a", "b", "c"], PATTERN)
    with pytest.raises(InputError, match="2 names for 1 heads"):
        attention(["a", "b"], PATTERN, names=["x", "y"])


@pytest.mark.browser
def test_it_draws_in_a_browser(browser, tmp_path):
    pytest.importorskip("circuitsvis")
    page = browser.new_page()
    path = tmp_path / "page.html"
    path.write_text(f"<meta charset=utf-8><body>{attention(['alpha', 'beta'], PATTERN).html}", encoding="utf-8")
    page.goto(path.as_uri())
    page.wait_for_selector("text=Head Selector", timeout=10_000)
    page.close()
