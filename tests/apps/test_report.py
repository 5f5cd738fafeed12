"""The report says everything in one file and asks nobody for anything."""

from __future__ import annotations

import json
import re

import pytest

from analyses.core.store.store import Store, StoreError
from apps.drawn.leaf import figure_data
from apps.report import FIGURE_BYTES, render, write_report
from tests.apps.conftest import HOSTILE, key


@pytest.fixture(scope="module")
def text(store) -> str:
    return render(store)


def test_verdicts_warnings_intervals_and_provenance_are_in_it(text):
    assert "Accuracy held while perplexity rose since step 60: +0.700 [+0.500, +0.900]." in text
    assert "careful" in text
    assert '<th class="n">ci_low</th>' in text
    assert key("perplexity", "runs/high") in text
    assert "runs/high/checkpoint-90" in text
    assert "Does not show" in text
    assert "probe sweep perplexity --checkpoints runs/high" in text


def test_plotly_is_embedded_once_and_the_file_is_small(text, store, tmp_path):
    assert text.count('id="plotly"') == 1 and "plotly.js v" not in text
    assert write_report(store, tmp_path / "deep" / "report.html").stat().st_size < 4_000_000


def test_it_begins_with_the_answers_then_one_figure_a_question_then_the_rest_folded(text):
    first = [text.index(part) for part in ('class="cards"', "What happened over training", "Everything else")]
    assert first == sorted(first)
    asked = text[first[1] : first[2]]
    own = asked[asked.index("Where a fine-tuning run starts to over-memorize") :]
    assert own.count('class="figure"') == 1 and "high: Accuracy held while perplexity rose since step 60" in own
    assert '<details class="result"' in text[first[2] :] and '<details class="result" open' not in text


def test_text_of_results_is_escaped(text):
    assert HOSTILE not in text
    assert "&lt;script&gt;window.hacked" in text


def test_no_source_or_link_leads_elsewhere(text):
    body = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", body)
    assert "connect-src 'none'" in text


def test_figures_beyond_the_budget_are_named(store, monkeypatch):
    monkeypatch.setattr("apps.report.FIGURE_BYTES", 1)
    small = render(store)
    assert "is left out to keep this file small" in small
    assert small[small.index("Everything else") :].count('class="figure"') == 0
    assert FIGURE_BYTES < 1_800_000


def test_a_figure_s_text_cannot_end_the_element_it_stands_in():
    assert figure_data('{"a": "</script><b>"}').count("<") == 2
    assert json.loads(figure_data('{"a": "</script>"}').partition(">")[2].rpartition("</script>")[0]) == {
        "a": "</script>"
    }


def test_an_empty_store_gives_a_report_that_says_so(tmp_path):
    assert "No results here yet" in render(Store(tmp_path / "none"))


def test_unwritable_place_keeps_the_old_report_and_says_why(store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        write_report(store, tmp_path / "file" / "report.html")


def test_damaged_result_is_told_and_the_rest_is_reported(store, tmp_path):
    import shutil

    root = tmp_path / "damaged"
    shutil.copytree(store.root, root)
    broken = root / "perplexity" / key("perplexity", "runs/low")
    (broken / "arrays.nc").write_bytes(b"nothing")
    text = render(Store(root))
    assert "cannot be read" in text
    assert key("perplexity", "runs/high") in text
