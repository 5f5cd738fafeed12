"""Every page opens from saved results alone, and the address is the state."""

from __future__ import annotations

import json
import re
import shutil
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from analyses.core.analysis import names
from analyses.core.store import contents
from analyses.core.store.store import Store
from apps import catalog as reading
from apps.dashboard import pages
from apps.dashboard.serve import SCRIPT
from apps.dashboard.widgets import address
from apps.drawn import curves, reproduction
from probe import RunLog
from tests.apps.conftest import HOSTILE, charts, key, perplexity

MODEL_PACKAGES = ("torch", "transformers", "transformer_lens", "nnsight")
PAGES = tuple(pages.titles())


class NotInstalled(MetaPathFinder):
    """Makes packages look as if they were not installed."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in MODEL_PACKAGES:
            raise ModuleNotFoundError(f"No module named {fullname!r}")


@pytest.fixture(autouse=True)
def _without_torch(monkeypatch: pytest.MonkeyPatch):
    """Every page in this file is opened on a machine without torch and what is built on it."""
    for name in [n for n in sys.modules if n.partition(".")[0] in MODEL_PACKAGES]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NotInstalled(), *sys.meta_path])


def opened(store: Store, monkeypatch: pytest.MonkeyPatch, **parameters: str) -> AppTest:
    monkeypatch.setenv("PROBE_RESULTS", str(store.root))
    monkeypatch.setattr(sys, "argv", ["dashboard.py"])
    app = AppTest.from_file(str(SCRIPT), default_timeout=30)
    for name, value in parameters.items():
        app.query_params[name] = value
    app.run()
    assert not app.exception, app.exception
    return app


def words(app: AppTest) -> str:
    kinds = (
        app.markdown,
        app.caption,
        app.text,
        app.info,
        app.success,
        app.warning,
        app.error,
        app.subheader,
        app.code,
    )
    return "\n".join(str(e.value) for kind in kinds for e in kind)


def markup(app: AppTest) -> str:
    """What the page's own component shows."""
    return "\n".join(str(json.loads(e.proto.json)) for e in app.get("bidi_component"))


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_without_torch(store, monkeypatch, page):
    app = opened(store, monkeypatch, page=page)
    assert app.subheader or app.header


@pytest.mark.parametrize("analysis", [*names(), "made_elsewhere"])
def test_generated_page_of_every_analysis_opens(store, monkeypatch, analysis):
    app = opened(store, monkeypatch, page="Results", analysis=analysis)
    assert app.selectbox[0].value == analysis


def test_pages_are_the_files_of_their_folder_the_run_first():
    assert PAGES[:8] == ("Run", "Read", "Circuit", "Pictures", "Token", "Compare", "Steer", "Results")


def test_page_of_an_analysis_without_results_says_how_to_get_them(store, monkeypatch):
    assert "probe sweep divergence --checkpoints DIR" in words(
        opened(store, monkeypatch, page="Results", analysis="divergence")
    )


def test_page_of_an_unknown_analysis_is_drawn_from_its_numbers(store, monkeypatch):
    app = opened(store, monkeypatch, page="Results", analysis="made_elsewhere")
    assert len(charts(app)) == 1


def test_address_sets_the_view_and_unknown_values_are_ignored(store, monkeypatch):
    low = key("perplexity", "runs/low")
    app = opened(
        store,
        monkeypatch,
        page="Results",
        analysis="perplexity",
        key=low,
        step="60",
        group="unseen",
        mask="nonsense",
        code="true",
    )
    assert app.selectbox[1].value == low
    assert app.select_slider[0].value == 60
    assert "step=60" in words(app)
    assert "group=['unseen']" in words(app)
    assert "nonsense" not in words(app)


@pytest.mark.parametrize("bad", ["../../etc/passwd", "..%2f..", "0" * 16, HOSTILE])
def test_a_key_from_the_address_cannot_leave_the_store(store, monkeypatch, bad):
    app = opened(store, monkeypatch, page="Results", analysis="perplexity", key=bad)
    assert app.selectbox[1].value in {e.key for e in reading.listing(store).of("perplexity")}
    app = opened(store, monkeypatch, page=bad, analysis=bad)
    assert app.radio[0].value in PAGES


def test_slider_moves_the_figure_the_table_and_the_code(store, monkeypatch):
    app = opened(store, monkeypatch, page="Results", analysis="perplexity", code="true")
    before = json.dumps(charts(app)[0])
    app.select_slider[0].set_value(90).run()
    assert not app.exception
    assert json.dumps(charts(app)[0]) != before
    assert "step=90" in words(app)


def test_play_walks_through_the_steps(store, monkeypatch):
    app = opened(store, monkeypatch, page="Results", analysis="perplexity", play="true")
    first = app.select_slider[0].value
    app.run()
    assert app.select_slider[0].value != first


def test_code_of_a_view_runs_as_pasted(store, monkeypatch, tmp_path):
    app = opened(store, monkeypatch, page="Results", analysis="perplexity", step="60", group="unseen", code="true")
    code = next(c.value for c in app.code if "Store.at" in c.value)
    monkeypatch.chdir(tmp_path)
    shown: dict[str, object] = {}
    exec(compile(code, "pasted", "exec"), shown)
    assert set(shown["result"].summary()["group"]) == {"unseen"}  # type: ignore[attr-defined]
    assert (tmp_path / "perplexity.html").is_file()


def test_command_of_a_view_names_its_inputs(store):
    entry = reading.listing(store).of("perplexity")[0]
    assert reproduction.command(entry) == (
        f"probe sweep perplexity --checkpoints {entry.run} --prompts {entry.run}/prompts.jsonl"
    )


def test_text_of_models_and_files_is_shown_literally(store, monkeypatch):
    app = opened(store, monkeypatch, page="Run", answers="true")
    assert "<script>" not in markup(app) and "&lt;script&gt;" in markup(app) and "<a" not in markup(app)
    said = "\n".join(m.value for m in app.markdown)
    assert "<script>" not in said
    assert "\\<script\\>" in said
    assert "](http" not in said.replace("\\", "") or "\\]\\(http" in said
    page = opened(store, monkeypatch, page="Results", analysis="over_memorization")
    told = [box.value for boxes in (page.warning, page.success, page.info, page.error) for box in boxes]
    assert sum("\\<script\\>" in text for text in told) == 2  # a claim's and a warning's
    assert not any("<script>" in text for text in told)


def test_markdown_is_escaped_character_by_character():
    assert address.escaped("[a](b) :red[x] $y$ `z`") == r"\[a\]\(b\) \:red\[x\] \$y\$ \`z\`"


def test_run_page_marks_stages_and_the_checkpoint_to_ship(store, monkeypatch):
    app = opened(store, monkeypatch, page="Run", run="high")
    assert all({"good fit", "over-memorized"} <= {t.get("name") for t in c["data"]} for c in charts(app))
    (star,) = [t for c in charts(app) for t in c["data"] if t.get("name") == "ship high"]
    assert (star["x"], star["y"]) == ([30], [0.9])
    assert "Accuracy held while perplexity rose since step 60" in markup(app)


def test_two_runs_share_panels_of_one_group_each(store, monkeypatch):
    drawn = charts(opened(store, monkeypatch, page="Run"))
    shared = [c for c in drawn if {"high", "low"} <= {t["name"] for t in c["data"]}]
    titles = [c["layout"]["title"]["text"] for c in shared]
    assert any("leaked" in t for t in titles) and any("unseen" in t for t in titles)
    assert all(t["line"].get("dash", "solid") == "solid" for c in shared for t in c["data"] if "line" in t)


def test_token_page_shows_difference_of_two_checkpoints(store, monkeypatch):
    app = opened(store, monkeypatch, page="Token", of="high", item="leaked-0", show="difference")
    spec = charts(app)[0]
    assert spec["layout"]["title"]["text"].endswith("step 90 minus step 0")
    assert spec["layout"]["coloraxis"]["cmid"] == 0
    assert "<script>" not in json.dumps(charts(app)[0])


def test_compare_pairs_items_and_corrects_p(store, monkeypatch):
    high, low = key("perplexity", "runs/high"), key("perplexity", "runs/low")
    app = opened(store, monkeypatch, page="Compare", analysis="perplexity", a=high, b=low, step_a="90", step_b="90")
    lines = next(d.value for d in app.dataframe if "p_holm" in d.value)
    assert set(lines["mask"]) == {"prompt", "answer"}
    assert lines["value"].tolist() == pytest.approx([0.5] * len(lines))  # 3 tokens an item
    assert (lines["p_holm"] >= lines["p"]).all()
    assert app.selectbox(key="column").options[0].endswith("per token of each item (nats/token)")
    summed = opened(
        store, monkeypatch, page="Compare", analysis="perplexity", a=high, b=low, step_a="90", step_b="90",
        column="nll_nats",
    )  # fmt: skip
    lines = next(d.value for d in summed.dataframe if "p_holm" in d.value)
    assert lines["value"].tolist() == pytest.approx([1.5] * len(lines))
    assert app.selectbox(key="column").options[1].endswith("summed over each item's tokens (nats/item)")


def test_compare_opens_with_two_different_things(store, monkeypatch):
    for analysis in ("perplexity", "logit_lens"):
        assert "A and B are the same" not in words(opened(store, monkeypatch, page="Compare", analysis=analysis))


def test_run_page_says_every_claim_what_was_found_first_and_what_was_not_assessed(store, monkeypatch):
    app = opened(store, monkeypatch, page="Run")
    said = markup(app)
    assert "<b>high</b> Accuracy held while perplexity rose since step 60: +0.700 [+0.500, +0.900]." in said
    order = [said.index(word) for word in ("Over-memorized", "Ship high @ 30", "Not over-fit", "Not judged")]
    assert order == sorted(order)
    assert re.findall(r'class="card (\w+)"', said)[:4] == ["bad", "good", "good", "unknown"]
    assert "4 questions not assessed" in said and "memory or not (gains) · where it sits (cross_patching)" in said
    app = opened(store, monkeypatch, page="Run", answers="true")
    table = next(m.value for m in app.markdown if m.value.startswith("| training run")).replace("\\", "")
    assert "what would let it be judged: 8 items" in table and "cannot be judged" in table


def test_recorded_paths_are_found_from_the_results_too(tmp_path, monkeypatch):
    results = tmp_path / "runs" / "lab" / "results"
    (tmp_path / "runs" / "lab" / "high").mkdir(parents=True)
    results.mkdir()
    monkeypatch.chdir(results)
    assert reading.located("runs/lab/high", results) == tmp_path / "runs" / "lab" / "high"
    assert reading.located("runs/lab/gone", results) is None
    assert reading.located(tmp_path / "runs", results) == tmp_path / "runs"
    assert str(results) in reading.not_found("runs/lab/gone") and "start the dashboard" in reading.not_found("x/y")


def test_going_from_page_to_page_keeps_defaults_and_draws(store, monkeypatch):
    app = opened(store, monkeypatch, page="Run")
    for page in (*PAGES, *reversed(PAGES), "Circuit", "Run", "Circuit"):
        app.radio(key="page").set_value(page).run()
        assert not app.exception, page
        if page in ("Run", "Circuit"):
            assert app.multiselect[0].value, page
            assert charts(app), page
    app.multiselect(key="layer_curves").set_value([]).run()
    assert "Choose at least one curve" in words(app)


def test_a_choice_goes_along_to_another_page_and_a_default_does_not(store, monkeypatch):
    app = opened(store, monkeypatch, page="Token")
    assert app.select_slider(key="step").value == 90
    app.radio(key="page").set_value("Results").run()
    assert app.select_slider(key="step").value == "all steps"
    app.radio(key="page").set_value("Token").run()
    app.select_slider(key="step").set_value(30).run()
    app.radio(key="page").set_value("Results").run()
    assert app.select_slider(key="step").value == 30


def test_what_was_not_chosen_by_hand_follows_what_is_on_offer():
    def page() -> None:
        import streamlit as st

        from apps.dashboard.widgets import address

        address.begin()
        wide = st.toggle("wide", key="wide")
        default = ["b", "c"] if wide else ["a", "b"]
        address.select_many("Curves", ["a", "b", "c"], key="curves", default=default, buttons=False)

    app = AppTest.from_function(page).run()
    assert app.multiselect(key="curves").value == ["a", "b"]
    app.toggle(key="wide").set_value(True).run()
    assert app.multiselect(key="curves").value == ["b", "c"]
    app.multiselect(key="curves").set_value(["a"]).run()
    app.toggle(key="wide").set_value(False).run()
    assert app.multiselect(key="curves").value == ["a"]


def test_a_table_shows_texts_of_models_literally(store, monkeypatch):
    def page() -> None:
        import pandas as pd

        from apps.dashboard.widgets import tables

        tables.static(pd.DataFrame({"a | b": ["<script>x</script>", "two\n\nlines | [x](y)"], "n": [1, 2]}), "of *2*")

    app = AppTest.from_function(page).run()
    _, rule, first, second = app.markdown[0].value.splitlines()
    assert rule == "| --- | ---: |"
    assert first == "| \\<script\\>x\\</script\\> | 1 |"
    assert second.count(" | ") == 1 and "two lines" in second and "\\[x\\]" in second


def test_compare_of_a_thing_with_itself_is_refused(store, monkeypatch):
    same = key("perplexity", "runs/low")
    app = opened(store, monkeypatch, page="Compare", analysis="perplexity", a=same, b=same, step_a="30", step_b="30")
    assert "the same" in words(app)


def test_steer_says_what_is_missing_and_is_off_beyond_loopback(store, monkeypatch):
    assert "needs torch" in words(opened(store, monkeypatch, page="Steer"))
    monkeypatch.setenv("PROBE_DASHBOARD_OPEN", "1")
    assert "PROBE_STEER=1" in words(opened(store, monkeypatch, page="Steer"))


def test_empty_store_says_how_to_fill_it(tmp_path, monkeypatch):
    assert "probe demo" in words(opened(Store(tmp_path / "nothing"), monkeypatch))


def test_damaged_results_are_named_and_the_others_shown(store, monkeypatch, tmp_path):
    root = tmp_path / "damaged"
    shutil.copytree(store.root, root)
    half, newer, garbled = (root / "perplexity" / key(x) for x in ("half", "newer", "garbled"))
    whole = root / "perplexity" / key("perplexity", "runs/low")
    half.mkdir()
    (half / "record.json").write_text("{}")
    for folder, change in ((newer, {"schema": 99, "key": newer.name}), (garbled, {"key": garbled.name})):
        shutil.copytree(whole, folder)
        (folder / "record.json").write_text(json.dumps({**json.loads((whole / "record.json").read_text()), **change}))
    (garbled / "arrays.nc").write_bytes(b"not a netCDF file")
    app = opened(Store(root), monkeypatch, page="Results", analysis="perplexity", key=garbled.name)
    assert "incomplete" in words(app)
    assert "newer version" in words(app)
    assert "cannot be read" in words(app)
    for page in PAGES:
        opened(Store(root), monkeypatch, page=page)


def test_a_selection_without_items_says_so(store, monkeypatch):
    app = opened(
        store, monkeypatch, page="Results", analysis="perplexity", table="Rows", search="no such item anywhere"
    )
    assert "No row matches" in words(app)


def test_running_sweeps_are_shown(tmp_path, monkeypatch, store):
    root = tmp_path / "live"
    shutil.copytree(store.root, root)
    Store(root).announce("0" * 16, {"analysis": "perplexity", "done": 2, "total": 5})
    app = opened(Store(root), monkeypatch)
    bar = app.get("progress")[0].proto
    assert (bar.value, bar.text) == (40, "perplexity: 2 of 5 checkpoints")


def test_rows_are_filtered_in_the_file_not_in_memory(store):
    entry = reading.listing(store).of("logit_lens")[0]
    found, count = contents.rows(entry, where={"step": [30], "layer": [1], "unknown": ["x"]}, search="LEAKED", limit=2)
    assert (len(found), count) == (2, 3)
    assert set(found["item"]) == {"leaked-0"}
    assert contents.rows(entry, where={"step": []})[1] == 0
    assert contents.rows(entry, search="'; DROP TABLE x --")[1] == 0


def test_result_of_results_belongs_to_the_run_of_its_source(store):
    (entry,) = reading.listing(store).of("over_memorization")
    assert entry.run == "runs/high"
    assert entry.steps == [0, 30, 60, 90]


def test_scalars_of_a_run_are_curves_by_the_names_pages_know():
    log = RunLog.of([(1, {"actor/entropy": 2.0, "epoch": 0.1}), (2, {"actor/entropy": 1.0, "grad_norm": 3.0})])
    rows = curves.logged(log)
    assert rows[["step", "panel", "value"]].values.tolist() == [
        [1, "log: entropy", 2.0],
        [2, "log: entropy", 1.0],
        [2, "log: grad_norm", 3.0],
    ]
    assert rows["unit"].tolist()[:2] == ["nats", "nats"] and rows["unit"].isna()[2]


VERL = '{"step": 1, "data": {"actor/entropy": 0.5}}\n{"step": 2, "data": {"actor/entropy": 0.4}}\n'
STATE = '{"log_history": [{"step": 1, "entropy": 0.5}, {"step": 2, "entropy": 0.4}]}'
LOGS = {"metrics.jsonl": VERL, "metrics.csv": "step,entropy\n1,0.5\n2,0.4\n", "trainer_state.json": STATE}


@pytest.mark.parametrize("name", LOGS)
def test_page_run_shows_whatever_a_run_log_reads(name, tmp_path, monkeypatch):
    run, made = tmp_path / "run", Store(tmp_path / "results")
    run.mkdir()
    (run / name).write_text(LOGS[name])
    made.put(perplexity(str(run), 0.5))
    app = opened(made, monkeypatch, page="Run")
    assert "log: entropy" in app.multiselect(key="curves").value


@pytest.mark.parametrize("text", [None, "step,entropy\n1,0.5\n1.5,0.4,7\n"], ids=["none", "damaged"])
def test_page_run_says_which_training_log_it_could_not_read(text, tmp_path, monkeypatch):
    run, made = tmp_path / "run", Store(tmp_path / "results")
    run.mkdir()
    if text:
        (run / "metrics.csv").write_text(text)
    made.put(perplexity(str(run), 0.5))
    said = words(opened(made, monkeypatch, page="Run"))
    assert "Training log of run: " in said
    assert ("metrics.csv" if text else "no run log in") in said.replace("\\", "")


def test_no_page_reads_pickles():
    sources = [p.read_text() for p in Path(SCRIPT).parent.rglob("*.py")]
    assert not [s for s in sources if "import pickle" in s or "read_pickle" in s or "torch.load" in s]
