"""What a newcomer met on the pages: lines, colours, links and names mean what they seem to mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from analyses.core.store.store import Store
from apps.drawn import comparison, curves
from tests.apps.conftest import HOSTILE, key, lens
from tests.apps.test_dashboard import charts, markup, opened, words


def drawn(app: AppTest, place: int = 0) -> dict[str, Any]:
    return charts(app)[place]


def side(layers: int, groups: int, rise: float) -> pd.DataFrame:
    """Items whose value rises in the first half of the layers and falls in the others."""
    return pd.DataFrame(
        {"item": f"{g}-{i}", "group": f"g{g}", "layer": n, "value": i + (rise if 2 * n < layers else -rise)}
        for g in range(groups)
        for i in range(8)
        for n in range(layers)
    )


def test_layers_of_opposite_sign_are_lines_of_their_own():
    a, b = side(4, 2, 1.0), side(4, 2, 0.0)
    figure, lines = comparison.by_item(a, b, comparison.Value("value"))["paired-by-item"]
    assert lines.groupby("layer")["value"].mean().tolist() == pytest.approx([1, 1, -1, -1])
    assert len(lines) == 8 and (lines["p_holm"] == lines["p"] * 8).all()
    assert figure.layout.xaxis.title.text == "layer"
    assert {t.name for t in figure.data} == {"g0", "g1"}


def test_what_is_averaged_over_is_said():
    a, b = side(30, 3, 1.0), side(30, 3, 0.0)
    figure, lines = comparison.by_item(a, b, comparison.Value("value"))["paired-by-item"]
    assert len(lines) == 3 and lines["value"].tolist() == pytest.approx([0] * 3)
    assert figure.layout.title.text == "A − B paired by item, mean over layer"
    one = [comparison.only(x, {"group": ["g1"], "unknown": [1]}) for x in (a, b)]
    assert len(comparison.by_item(*one, comparison.Value("value"))["paired-by-item"][1]) == 30


def test_compare_tells_layers_apart_and_keeps_to_the_groups_chosen(store, monkeypatch):
    high, low = key("logit_lens", "runs/high"), key("logit_lens", "runs/low")
    view = {"page": "Compare", "analysis": "logit_lens", "a": high, "b": low, "compare_group": "unseen"}
    lines = next(d.value for d in opened(store, monkeypatch, **view).dataframe if "p_holm" in d.value)
    assert lines["layer"].tolist() == [0, 1, 2] and set(lines["group"]) == {"unseen"}


def hues(app: AppTest) -> dict[str, set[str]]:
    """Run -> colours of its lines and bands."""
    found: dict[str, set[str]] = {}
    for trace in (t for c in charts(app) for t in c["data"] if t.get("name") in ("high", "low")):
        found.setdefault(trace["name"], set()).add(trace.get("fillcolor") or trace["line"]["color"])
    return found


def test_a_run_keeps_its_colour_whatever_else_is_chosen(store, monkeypatch):
    both = hues(opened(store, monkeypatch, page="Run"))
    assert not both["high"] & both["low"]
    for run in ("high", "low"):
        assert hues(opened(store, monkeypatch, page="Run", run=run, group="unseen")) == {run: both[run]}
    alone = charts(opened(store, monkeypatch, page="Run", run="high"))
    (star,) = [t for c in alone for t in c["data"] if t["name"] == "ship high"]
    assert star["marker"]["color"] in both["high"]


def test_a_card_and_the_rail_choose_runs_for_every_page(store, monkeypatch):
    app = opened(store, monkeypatch, page="Run", run="low")
    assert 'aria-label="hide low"' in markup(app) and 'aria-label="show high"' in markup(app)
    app.radio(key="page").set_value("Circuit").run()
    assert app.query_params["run"] == "low" and "Nothing of" not in words(app)
    assert not [r for r in app.radio if r.key == "of"]


def test_many_runs_have_a_colour_each():
    assert len(set(curves.colors([f"run-{i}" for i in range(20)]).values())) == 20


def test_a_link_brings_back_the_token_chosen(store, monkeypatch):
    view = {"page": "Token", "of": "high", "item": "leaked-0"}
    app = opened(store, monkeypatch, **view, pos="1", code="true")
    assert "position 1" in words(app) and "'pos': 1" in words(app)
    assert app.query_params["pos"] == "1"
    assert drawn(app)["data"][-1]["selectedpoints"] == [1]
    for bad in ("3", "-1", "x", HOSTILE):
        app = opened(store, monkeypatch, **view, pos=bad)
        assert "position" not in words(app) and "pos" not in app.query_params


def test_a_link_brings_back_the_cell_and_the_point_chosen(store, monkeypatch):
    titles = {"map": "logit_lens: share of tokens ranked first · unseen (layer × step)", "cell": "layer 1, step 30"}
    app = opened(store, monkeypatch, page="Circuit", of="high", point="logprob_nats, leaked, layer 2", **titles)
    (at_point, at_cell) = [d.value for d in app.dataframe]
    assert set(zip(at_point["layer"], at_point["group"], at_point["step"], strict=True)) == {(2, "leaked", 90)}
    assert set(zip(at_cell["layer"], at_cell["group"], at_cell["step"], strict=True)) == {(1, "unseen", 30)}
    assert app.query_params["cell"] == "layer 1, step 30"
    assert drawn(app, 1)["data"][-1]["selectedpoints"] == [4]
    for bad in ("layer 9, step 30", HOSTILE):
        app = opened(store, monkeypatch, page="Circuit", of="high", point=bad, cell=bad)
        assert not app.dataframe and not {"cell", "point"} & set(app.query_params)


@pytest.fixture
def written(tmp_path: Path) -> Store:
    """A lens over a run whose prompts, tokenizer and training log are at hand."""
    run = tmp_path / "run"
    (run / "checkpoint-90").mkdir(parents=True)
    words = {"fish": 0, "swim": 1, "deep": 2}
    Tokenizer(WordLevel(words, unk_token="fish")).save(str(run / "checkpoint-90" / "tokenizer.json"))
    log = [{"step": s, "entropy": 0.1 * s, "reward": 1.0} for s in (0, 30, 60)]
    (run / "checkpoint-90" / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    items = [
        {"id": i, "prompt": f"how do {i} fish\nswim {HOSTILE}", "answer": "well"} for i in ("leaked-0", "unseen-0")
    ]
    (run / "prompts.jsonl").write_text("\n".join(map(json.dumps, items)) + "\n\n")
    store = Store(tmp_path / "results")
    store.put(lens(str(run), 0.1))
    return store


def test_an_item_is_found_by_the_words_of_its_prompt(written, store, monkeypatch):
    app = opened(written, monkeypatch, page="Token", item="leaked-0")
    assert app.selectbox(key="item").options[1] == f"leaked-0 · how do leaked-0 fish swim {HOSTILE}"
    assert app.selectbox(key="item").value == "leaked-0"
    assert any(c.value.endswith("\nwell") for c in app.code)
    gone = opened(store, monkeypatch, page="Token").selectbox(key="item").options
    assert gone == sorted(["leaked-0", "unseen-0", HOSTILE])
    (written.root.parent / "run" / "prompts.jsonl").write_text("{broken")
    assert "The text is not shown" in words(opened(written, monkeypatch, page="Token", item="leaked-0"))


def test_a_token_is_named_and_so_are_axes(written, monkeypatch):
    app = opened(written, monkeypatch, page="Token", item="leaked-0", pos="2")
    assert "##### Token “·7” of leaked\\-0, read at position 2" in words(app).replace("\\·", "·")
    strip, over = drawn(app), drawn(app, 1)
    assert strip["layout"]["title"]["text"] == "log-probability at step 90"
    axis = strip["layout"]["coloraxis"]
    assert (axis["cmin"], axis["cmax"], axis["colorbar"]["title"]["text"]) == (0, 1, "probability")
    assert over["layout"]["yaxis"]["title"]["text"] == "log-probability (nats)"
    assert over["layout"]["title"]["text"] == "log-probability over layers"
    assert "logit_lens: log-probability (nats)" in app.selectbox(key="signal").options
    ranked = drawn(opened(written, monkeypatch, page="Token", item="leaked-0", signal="logit_lens: rank"))
    assert ranked["layout"]["coloraxis"]["colorbar"]["title"]["text"] == "rank (0 = top)"


def test_curves_of_the_training_log_say_so(written, monkeypatch):
    app = opened(written, monkeypatch, page="Run", curves="log: entropy")
    assert app.multiselect(key="curves").format_func("log: entropy") == "entropy, from the training log"
    assert drawn(app)["layout"]["title"]["text"] == "entropy<br><sup>from the training log · nats</sup>"
    reward = drawn(opened(written, monkeypatch, page="Run", curves="log: reward"))["layout"]["title"]["text"]
    assert reward == "reward<br><sup>from the training log</sup>"


def test_rows_behind_a_cell_are_tokens_with_their_texts(written, monkeypatch):
    app = opened(written, monkeypatch, page="Circuit", cell="layer 1, step 30")
    assert "Tokens of 1 item at " in words(app)
    (rows,) = [d.value for d in app.dataframe]
    assert set(rows["target"]) == {"fish", "swim", "deep"}


@pytest.mark.parametrize("bad", ["planted", HOSTILE])
def test_what_a_link_asks_for_and_is_not_there_is_said(store, monkeypatch, bad):
    said = words(opened(store, monkeypatch, page="Token", of=bad)).replace("\\", "")
    assert f"Nothing of {bad} to show here: showing high" in said
    said = words(opened(store, monkeypatch, page=bad)).replace("\\", "")
    assert f"No page {bad}: showing Run" in said
    for page in ("Run", "Token"):
        assert ": showing" not in words(opened(store, monkeypatch, page=page))
