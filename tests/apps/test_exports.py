"""What a reader takes from a page: pasted code gives the page's figures and numbers, files hold what they say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from analyses.core.result import Result
from analyses.core.store.store import Store
from apps.catalog import listing
from apps.dashboard.widgets import exports
from apps.drawn import curves, maps
from tests.apps.conftest import HOSTILE, charts, estimate, key, lens, perplexity, staged
from tests.apps.test_browser import ready
from tests.apps.test_dashboard import opened
from tests.conftest import ROOT

NASTY = 'o\'brien "x"\n</script><img src=http://evil.example/p> {f} \\ \u202e'
HIGH, LOW = (key("perplexity", f"runs/{run}") for run in ("high", "low"))
VIEWS: dict[str, dict[str, str]] = {
    "one run": {"page": "Run", "run": "high"},
    "two runs": {"page": "Run"},
    "one group": {"page": "Run", "group": "unseen", "curves": "ppl · answer"},
    "layers and map": {"page": "Circuit", "of": "high", "step": "60"},
    "layers of a group": {"page": "Circuit", "of": "low", "group": "leaked"},
    "one checkpoint": {"page": "Token", "of": "high", "item": "leaked-0", "layer": "1"},
    "two checkpoints": {"page": "Token", "of": "high", "item": HOSTILE, "show": "two checkpoints", "base": "30"},
    "difference": {"page": "Token", "of": "high", "item": "leaked-0", "show": "difference"},
    "two results": {"page": "Compare", "analysis": "perplexity", "a": HIGH, "b": LOW, "step_a": "90", "step_b": "90"},
    "chosen": {"page": "Compare", "analysis": "perplexity", "compare_group": "leaked", "column": "nll_nats"},
    "no steps": {"page": "Compare", "analysis": "logit_lens", "quantity": "top1"},
}
BLOCKED = """
import sys
class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("streamlit", "torch", "transformers"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NotInstalled())
"""


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A run, a group and an item with names made to break out of code, markup and files; it has a training log."""
    run = tmp_path_factory.mktemp("runs") / NASTY.replace("/", "-")
    log = run / "checkpoint-90" / "trainer_state.json"
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps({"log_history": [{"step": s, NASTY: 0.1 * s} for s in (0, 30, 60, 90)]}))
    store = Store(tmp_path_factory.mktemp("a 'folder'") / "results")
    for result in (first := perplexity(str(run), 0.5), lens(str(run), 0.1), staged(first)):
        store.put(_renamed(result))
    return store


def _renamed(result: Result) -> Result:
    data, table = result.data, result.table
    if "group" in data.dims:
        data = data.assign_coords(group=[NASTY, "unseen"])
        table = table.assign(
            group=table["group"].replace("leaked", NASTY), item=table["item"].replace("leaked-0", NASTY)
        )
    return Result(data, table, result.record)


def pasted(app: AppTest) -> str:
    return next(c.value for c in app.code if "Store.at" in c.value)


def ran(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(compile(code, "pasted", "exec"), names)
    return names["views"]


def agree(app: AppTest, views: dict[str, Any]) -> None:
    """The page's figures are the code's; only invisible marks to click on may come on top."""
    shown = charts(app)
    assert len(shown) == len(views)
    for chart, (figure, rows) in zip(shown, views.values(), strict=True):
        made = json.loads(figure.to_json())
        assert chart["data"][: len(made["data"])] == made["data"]
        assert len(chart["data"]) <= len(made["data"]) + 1
        assert chart["layout"]["title"] == made["layout"]["title"]
        assert chart["layout"].get("annotations") == made["layout"].get("annotations")
        assert len(rows)


@pytest.mark.parametrize("view", VIEWS)
def test_code_of_a_page_gives_its_figures_and_numbers(store, monkeypatch, tmp_path, view):
    app = opened(store, monkeypatch, code="true", **VIEWS[view])
    views = ran(pasted(app), tmp_path, monkeypatch)
    agree(app, views)
    assert {p.name for p in tmp_path.iterdir()} == {f"{n}{end}" for n in views for end in (".html", ".csv")}


@pytest.mark.parametrize(
    "view", [{"page": "Run"}, {"page": "Circuit"}, {"page": "Token", "item": NASTY}, {"page": "Compare"}]
)
def test_names_made_to_break_out_stay_text(nasty, monkeypatch, tmp_path, view):
    chosen = {"Run": {"group": NASTY}, "Circuit": {"group": NASTY}, "Compare": {"compare_group": NASTY}}
    app = opened(nasty, monkeypatch, code="true", **view, **chosen.get(view["page"], {}))
    code = pasted(app)
    assert NASTY not in code and "\u202e" not in code
    views = ran(code, tmp_path, monkeypatch)
    agree(app, views)
    for name, (figure, rows) in views.items():
        for file in exports.files(f"page-{name}", figure, rows):
            assert re.fullmatch(r"page-[a-z0-9-]+\.(html|csv|parquet)", file.name)
            assert file.mime != "text/html" or "<img" not in str(file.data()).rpartition("</script>")[0][-100_000:]


def test_code_runs_where_neither_streamlit_nor_torch_is_installed(store, monkeypatch, tmp_path):
    pages = ("two runs", "layers and map", "difference", "two results")
    codes = [pasted(opened(store, monkeypatch, code="true", **VIEWS[view])) for view in pages]
    script = "\n".join([BLOCKED, *codes])
    done = subprocess.run(
        [sys.executable, "-"],
        input=script,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert {"curves-1.csv", "layers.csv", "map.html", "difference.csv", "paired-by-item.csv"} <= {
        p.name for p in tmp_path.iterdir()
    }


def test_files_hold_the_rows_of_the_figure(store, monkeypatch, tmp_path):
    for view in ("two runs", "layers and map", "difference", "two results"):
        views = ran(pasted(opened(store, monkeypatch, code="true", **VIEWS[view])), tmp_path, monkeypatch)
        for name, (figure, rows) in views.items():
            html, csv, parquet = (file.data() for file in exports.files(f"page-{name}", figure, rows))
            kept = rows.reset_index(drop=True)
            pd.testing.assert_frame_equal(pd.read_parquet(BytesIO(parquet)), kept)
            again, numbers = pd.read_csv(StringIO(csv)), list(kept.select_dtypes("number"))
            assert list(again.columns) == list(kept.columns) and numbers
            pd.testing.assert_frame_equal(again[numbers], kept[numbers], check_dtype=False)
            assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=", html)


@pytest.mark.parametrize("page", ["Run", "Circuit", "Token", "Compare"])
def test_closed_boxes_make_nothing(store, monkeypatch, page):
    def made(*_: Any, **__: Any) -> Any:
        raise AssertionError("made although its box is closed")

    monkeypatch.setattr(exports, "files", made)
    monkeypatch.setattr("apps.drawn.reproduction._head", made)
    app = opened(store, monkeypatch, page=page)
    assert not app.code or all("Store.at" not in c.value for c in app.code)


@pytest.mark.parametrize("page", ["Run", "Circuit", "Token", "Compare"])
def test_every_figure_of_a_page_can_be_saved(store, monkeypatch, page):
    app = opened(store, monkeypatch, page=page, export="true")
    labels = [b.proto.label for b in app.get("download_button")]
    assert len(labels) == 3 * len(charts(app)) and len(set(labels)) == len(labels)


def test_code_box_names_the_commands_that_computed_the_results(store, monkeypatch):
    app = opened(store, monkeypatch, page="Circuit", of="high", code="true")
    assert any(c.value.startswith("probe sweep logit_lens --checkpoints runs/high") for c in app.code)


def test_a_sweep_without_the_chosen_step_is_left_out(store, monkeypatch, tmp_path):
    longer = Store(tmp_path / "results")
    (entry,) = [e for e in listing(store).of("logit_lens") if e.run == "runs/low"]
    whole = store.get("logit_lens", entry.key)
    longer.put(whole)
    members = [*whole.record["members"], {**whole.record["members"][-1], "step": 120}]
    more = whole.data.assign_coords(step=[0, 30, 60, 120])
    longer.put(
        Result(
            more,
            whole.table,
            {**whole.record, "analysis": "divergence", "key": key("d"), "members": members[:3] + members[4:]},
        )
    )
    app = opened(longer, monkeypatch, page="Circuit", step="120", code="true")
    assert "divergence" in pasted(app)
    agree(app, ran(pasted(app), tmp_path, monkeypatch))


def test_a_point_of_a_curve_leads_to_the_row_behind_it(store):
    of = [e for e in listing(store).of("logit_lens") if e.run == "runs/high"]
    found = [curves.over_layers(store.get(e.analysis, e.key).where(step=60).summary()) for e in of]
    rows = curves.chosen(curves.joined(found), ["entropy_nats", "logprob_nats"])
    figure = curves.layers_figure(rows)
    for number, trace in enumerate(figure.data):
        if trace.hoverinfo == "skip":
            continue
        row = curves.row_at(rows, figure, {"curve_number": number, "x": 1})
        assert row is not None and row["value"] == list(trace.y)[list(trace.x).index(1)]
        assert curves.place_of(row) == {"layer": 1, "group": trace.name}
    assert curves.row_at(rows, figure, {"curve_number": 99, "x": 1}) is None


def test_states_and_windows_lead_to_their_own_rows():
    for axis, layer in (("state", 0), ("window", 1)):
        values = estimate("kl_nats", pd.Series([0.0, 1.0, 2.0]).to_numpy(), {axis: [0, 1, 2]}, "nats")
        rows = curves.chosen(
            panels := curves.over_layers(Result.of(pd.DataFrame(), values).summary()), panels["panel"][:1]
        )
        row = curves.row_at(rows, curves.layers_figure(rows), {"curve_number": 1, "x": layer})
        assert row is not None and curves.place_of(row) == {axis: 1}


def test_a_map_knows_which_category_it_is(store):
    of = next(e for e in listing(store).of("logit_lens") if e.run == "runs/high")
    found = maps.maps_of(store.get(of.analysis, of.key).summary(), "layer", "step")
    assert found["top1 · unseen"].attrs["fixed"] == {"group": "unseen"}
    assert set(found["top1 · unseen"]["quantity"]) == {"top1"}


@pytest.fixture(scope="module")
def address(store, serve) -> str:
    return serve(store)


@pytest.mark.browser
@pytest.mark.parametrize("page", ["Run", "Circuit&of=high", "Token&of=high", "Compare&analysis=perplexity"])
def test_a_saved_figure_opens_from_its_file_and_asks_no_host(address, watched, tmp_path, page):
    shown = watched(f"{address}/?page={page}").page
    ready(shown)
    shown.get_by_role("button", name="Export").click()
    saved: dict[str, Path] = {}
    for end in ("HTML", "CSV", "Parquet"):
        with shown.expect_download(timeout=20_000) as download:
            shown.get_by_role("button", name=re.compile(f", {end}$")).first.click()
        saved[end] = tmp_path / download.value.suggested_filename
        download.value.save_as(saved[end])
    assert len(pd.read_csv(saved["CSV"])) == len(pd.read_parquet(saved["Parquet"])) > 0
    offline = watched(saved["HTML"].as_uri()).page
    offline.wait_for_selector(".js-plotly-plot .main-svg")
    assert offline.evaluate("window.hacked") is None


@pytest.mark.browser
def test_a_click_on_a_point_shows_its_items(address, watched):
    page = watched(f"{address}/?page=Circuit&of=high&group=leaked").page
    ready(page)
    page.wait_for_selector("text=Choose a point")
    page.locator(".js-plotly-plot").first.locator(".points path").nth(1).click(force=True)
    page.wait_for_selector("text=Tokens of", timeout=10_000)
    assert "group leaked, layer 1" in page.locator("text=Tokens of").first.inner_text()


@pytest.mark.browser
@pytest.mark.parametrize("page", ["Run", "Circuit", "Token", "Compare", "Results&analysis=perplexity"])
def test_a_narrow_window_cuts_nothing_off(address, watched, page):
    shown = watched(f"{address}/?page={page}&code=true").page
    ready(shown)
    for width in (900, 480):
        shown.set_viewport_size({"width": width, "height": 900})
        wide = "document.querySelector('[data-testid=stMain]')"
        shown.wait_for_function(f"{wide}.scrollWidth <= {wide}.clientWidth", timeout=5_000)
    shown.set_viewport_size({"width": 900, "height": 900})
    for switch in shown.locator("[data-testid=stCheckbox] p").all():
        assert switch.evaluate("e => e.scrollWidth <= e.clientWidth")
