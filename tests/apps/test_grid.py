"""Layers by positions: what a cell says and how it is coloured, of one checkpoint, two, or their difference."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

from analyses.core.store.store import Store
from apps.catalog import Entry, listing
from apps.drawn import attention, grid
from probe import Model, compare, grids
from tests import tiny
from tests.apps.conftest import HOSTILE, STEPS, estimate, key, lens, swept
from tests.apps.test_browser import ready
from tests.apps.test_dashboard import charts, markup, opened

WHERE = {"item": "leaked-0", "answer_kind": "given"}


@pytest.fixture(scope="module")
def entry(tmp_path_factory: pytest.TempPathFactory) -> Entry:
    """A lens with its best tokens."""
    made = Store(tmp_path_factory.mktemp("results"))
    result = lens("runs/high", 0.1)
    many = len(result.table)
    best = {"top_ids": [[7, 8]] * many, "top_logprob_nats": [[math.log(0.5), math.log(0.25)]] * many}
    made.put(result.__class__(result.data, result.table.assign(**best), result.record))
    return listing(made).entries[0]


def test_a_cell_has_the_top_token_and_the_colour_of_the_probability(entry):
    found = grid.of_item(entry, "logprob_nats", WHERE, step=30)
    assert found is not None and found.layers == (2, 1, 0) and found.places == (0, 1, 2)
    cell = found.cells[(2, 1)]
    assert (cell.shown, cell.share) == ("#7", pytest.approx(math.exp(-3 + 2 + 0.1 - 0.1)))
    assert cell.told.splitlines()[1:] == ["step 30: log-probability (nats) -1", "#7\t0.5000", "#8\t0.2500"]
    assert found.legend == "colour: probability, 0 to 1" and not found.is_signed


def test_a_difference_is_of_probabilities_and_around_zero(entry):
    found = grid.of_item(entry, "logprob_nats", WHERE, step=90, base=0, difference=True)
    assert found is not None and found.is_signed
    assert found.cells[(0, 0)].share == pytest.approx(math.exp(-2.7) - math.exp(-3.0))
    assert found.cells[(0, 0)].told.count("step") == 2


def test_another_quantity_has_its_largest_as_its_end_and_what_was_not_measured_is_a_gap(entry):
    found = grid.of_item(entry, "rank", WHERE, step=0)
    assert found is not None and {c.share for c in found.cells.values()} == {0.0, 0.5, 1.0}
    shown = grid.table(found, (1, 1))
    assert shown.count("<tr>") == 4 and shown.count(" now") == 1 and "<script>" not in shown
    part = grid.Grid(("a", "b"), (0, 1), (0,), {(0, 0): grid.Cell("x", np.nan, "")}, "", is_signed=False)
    assert grid.table(part).count('class="gap"') == 2
    assert grid.of_item(entry, "rank", {"item": "nobody"}, step=0) is None


def test_a_notebook_and_a_page_draw_their_grids_by_one_function(tmp_path, monkeypatch):
    """Every cell of either comes from it; in a notebook, where nothing listens, it is told by the browser itself."""
    model = Model.load(tiny.save(tmp_path))
    lens, both = model.lens("what is 3"), compare(model, model, "what is 3")
    assert "title=" in lens._repr_html_() and "data-pick" not in lens._repr_html_()
    page = grid.Grid(("a",), (0,), (0,), {(0, 0): grid.Cell("x", 0.5, "half")}, "", is_signed=False)
    assert 'data-tip="half" data-pick="0\n0"' in grid.table(page)
    monkeypatch.setattr(grids, "_td", lambda *_, **__: "<td>here</td>")
    cells = len(lens.sites) * len(lens.tokens)
    assert [shown.count("here") for shown in (lens._repr_html_(), both._repr_html_(), grid.table(page))] == [
        cells,
        cells,
        1,
    ]


def test_the_page_has_the_grid_of_every_item(store, monkeypatch):
    app = opened(store, monkeypatch, page="Token", of="high", item=HOSTILE, pos="1", layer="0")
    assert 'data-pick="0\n1"' in markup(app) and "<script>" not in markup(app)


@pytest.mark.browser
def test_a_cell_tells_its_best_tokens_and_leads_to_them(entry, serve, watched):
    page = watched(f"{serve(Store(entry.root))}/?page=Token&item=leaked-0").page
    ready(page)
    cell = page.locator(".grid td").nth(4)
    cell.hover()
    assert page.locator(".tip .bar").count() == 2
    cell.click()
    page.wait_for_function("location.search.includes('pos=1') && location.search.includes('layer=1')")
    assert key("logit_lens", "runs/high") == entry.key


def test_rollouts_of_one_item_are_told_apart_token_by_token(tmp_path, monkeypatch):
    rows = pd.DataFrame(
        {"item": "a", "sample": n, "pos": p, "text": f"w{n}{p}", "entropy_nats": n + p / 10, "advantage": -1.0 + 2 * n}
        for n in range(2)
        for p in range(3)
    )
    rows = pd.concat([rows.assign(step=s) for s in STEPS])
    made = Store(tmp_path / "results")
    made.put(swept("entropy", "runs/high", rows, estimate("entropy_nats", np.ones(4), {"step": list(STEPS)}, "nats")))
    for sample, advantage in (("0", -1.0), ("1", 1.0)):
        app = opened(made, monkeypatch, page="Token", signal="entropy: advantage", of_sample=sample)
        shown = charts(app)[0]
        texts = [t for trace in shown["data"] if trace.get("mode") == "text" for t in trace["text"]]
        assert texts == [f"w{sample}{p}" for p in range(3)]
        assert f"w{sample}0”<br>{advantage:g} advantage" in str(shown["data"][0]["customdata"])


def test_every_head_is_a_small_map_and_one_row_lies_over_the_text():
    pattern = [[1.0, 0.0], [0.25, 0.75]]
    heads = attention.thumbnails(3, [pattern, pattern], 1)
    assert heads.count("<svg") == 2 and heads.count("<rect") == 6 and "L3H1" in heads  # a weight of 0 is no mark
    shown = attention.over_text(["a", HOSTILE], pattern, 1)
    assert "--p:0.250" in shown and "weight 0.7500" in shown and "<script>" not in shown


def test_the_page_reads_attention_from_the_checkpoint_when_asked(tmp_path, monkeypatch):
    run = tmp_path / "run"
    tiny.save(run / "checkpoint-90")
    line = {"id": "leaked-0", "prompt": "what is 3 plus 7 ?", "answer": "10", "answer_kind": "given"}
    (run / "prompts.jsonl").write_text(json.dumps(line))
    made = Store(tmp_path / "results")
    made.put(lens(str(run), 0.1))
    view = {"page": "Token", "item": "leaked-0", "layer": "1"}
    assert "L1H0" not in markup(opened(made, monkeypatch, **view))
    said = markup(opened(made, monkeypatch, **view, attention="true", head="1"))
    assert "L1H0" in said and "Attention over the text" in said and "<script>" not in said
