"""Page Steer on a real, tiny model: strength 1 changes nothing, the placebo is another set of units."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from analyses.core.store.store import Store
from apps.dashboard.pages import steer
from apps.dashboard.serve import SCRIPT
from apps.dashboard.widgets import directions
from probe import Model
from probe.errors import InputError
from tests import tiny
from tests.apps.conftest import perplexity
from tests.apps.test_dashboard import markup


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab") / "run"
    tiny.save(folder / "checkpoint-90")
    (folder / "prompts.jsonl").write_text('{"id": "a", "prompt": "what is 3 plus 7 ?", "answer": "10"}\n')
    return folder


@pytest.fixture(scope="module")
def recipe(run: Path) -> steer.Recipe:
    return steer.Recipe(str(run / "checkpoint-90"), "mlp_post", 1, (0, 1, 2), -4.0, "what is 3 plus 7 ?", 5, 0)


def test_strength_one_changes_nothing_and_others_do(recipe):
    texts, _ = steer.completions(replace(recipe, alpha=1.0))
    assert len(set(texts.values())) == 1
    changed = [
        steer.completions(replace(recipe, units=(), alpha=a, kind=k))[0] for a, k in ((8.0, "mlp_post"), (8.0, "z"))
    ]
    assert all(t["steered"] != t["as it is"] for t in changed)
    assert "placebo" not in changed[0]


def test_placebo_is_as_many_other_units_by_seed(recipe):
    placebo = recipe.placebo(48)
    assert len(placebo) == 3
    assert not set(placebo) & set(recipe.units)
    assert recipe.placebo(48) == placebo != replace(recipe, seed=1).placebo(48)
    assert recipe.placebo(4) == ()


def test_wrong_layers_and_units_are_input_errors(recipe):
    with pytest.raises(InputError, match="layers 0 to 2"):
        steer.completions(replace(recipe, layer=9))
    with pytest.raises(InputError, match="0 to 47"):
        steer.completions(replace(recipe, units=(48,)))


def test_saved_script_gives_the_same_texts(recipe, capsys):
    texts, placebo = steer.completions(recipe)
    exec(compile(recipe.script(placebo), "saved", "exec"), {})
    told = capsys.readouterr().out
    assert all(f"{name}: {text!r}" in told for name, text in texts.items())


def test_texts_are_told_while_they_are_written_and_are_those_of_steer(run):
    asked = directions.Asked(str(run / "checkpoint-90"), "what is 3 plus 7 ?", ("it is 10",), ("it is 9",), 0)
    told: list[dict[str, str]] = []
    of = directions.written(asked, 1, 4.0, 5, Model.load, lambda texts: told.append(dict(texts)))
    assert told[-1] == dict(of) and len(told) > 3
    assert all(of[0][1].startswith(t["as it is"]) for t in told if len(t) == 1)
    model = Model.load(asked.checkpoint)
    steered = model.steer(asked.prompt, model.direction(asked.pairs, 1), [4.0], max_new_tokens=5, seed=0)
    assert of == [
        ("as it is", steered.unchanged.text),
        ("steered", steered.text(4.0)),
        ("placebo", steered.text(4.0, directions.PLACEBO)),
    ]


@pytest.fixture
def page(run, tmp_path, monkeypatch) -> AppTest:
    """Page Steer after Write, with the settings of the address."""
    Store(tmp_path).put(perplexity(str(run), 0.5))
    monkeypatch.setenv("PROBE_RESULTS", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["dashboard.py"])
    app = AppTest.from_file(str(SCRIPT), default_timeout=60)
    app.query_params.update({"page": "Steer", "how": "units", "units": "0, 1", "tokens": "3"})
    app.run()
    assert app.text_area[0].value == "what is 3 plus 7 ?"
    pressed(app, "Write")
    return app


def pressed(app: AppTest, label: str) -> None:
    next(b for b in app.button if b.label == label).click().run()
    assert not app.exception


def test_page_writes_and_saves(page, tmp_path):
    assert {"**as it is**", "**steered**", "**placebo**"} <= {m.value for m in page.markdown}
    assert not page.warning
    pressed(page, "Save as experiment")
    (saved,) = (tmp_path / "experiments").glob("steer-*.py")
    assert "units" in saved.read_text()


def test_texts_name_the_settings_that_made_them_once_others_are_chosen(page, tmp_path):
    page.select_slider(key="alpha").set_value(8.0).run()
    (said,) = page.warning
    assert "times 0" in said.value and "press Write" in said.value and "z of layer 2" in said.value
    pressed(page, "Save as experiment")
    (saved,) = (tmp_path / "experiments").glob("steer-*.py")
    assert saved.read_text().strip() in {c.value for c in page.code} and "0.0" in saved.read_text()
    page.text_input(key="units").set_value("no number").run()
    assert page.warning and page.error
    page.text_input(key="units").set_value("0, 1").run()
    pressed(page, "Write")
    assert not page.warning and any("8.0" in c.value for c in page.code)


def test_two_texts_steer_beside_a_placebo_of_the_same_length(run, tmp_path, monkeypatch, capsys):
    Store(tmp_path).put(perplexity(str(run), 0.5))
    monkeypatch.setenv("PROBE_RESULTS", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["dashboard.py"])
    app = AppTest.from_file(str(SCRIPT), default_timeout=60)
    sides = {"more": "what is 3 plus 7 ? 10", "less": "what is 3 plus 7 ? 9"}
    app.query_params.update({"page": "Steer", "tokens": "3", **sides})
    app.run()
    pressed(app, "Steer")
    assert not app.error
    said = markup(app)
    assert said.count('class="grid doses"') == 2 and "<h4>placebo</h4>" in said and "<h4>as it is</h4>" in said
    assert said.count('data-tip="layer') == 2 * 2 * len(directions.STRENGTHS)
    exec(compile(next(c.value for c in app.code if "model.direction" in c.value), "saved", "exec"), {})
    assert "Steered at" in capsys.readouterr().out
    app.text_area(key="more").set_value("one\ntwo").run()
    assert any("give as many on both" in c.value for c in app.caption)


@pytest.mark.parametrize(("count", "found"), [(1, [0]), (2, [0, 1]), (4, [1, 2, 3]), (28, [9, 13, 18, 23, 27])])
def test_layers_to_steer_are_of_the_last_two_thirds(count, found):
    assert directions.layers(count) == found
