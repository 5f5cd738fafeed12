"""Evaluation of logged responses with known grades, and of a tiny model that can be computed by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses.core import analysis as registry
from analyses.core.result import Result
from probe import Model
from probe.errors import InputError
from probe.prompts import Item, Prompts
from tests import tiny
from tests.tiny import twelve_items


def example(folder: Path) -> dict[str, Any]:
    """For the contract tests: a tiny model of words, greedy and sampled."""
    return {
        "model": Model.load(tiny.save(folder / "model", words=True)),
        "prompts": twelve_items(),
        "grade": "number",
        "samples": 2,
        "ks": (1, 2),
        "max_new_tokens": 6,
    }


def evaluated(*args, **options) -> Result:
    return registry.get("evaluate")(*args, **options)


def log(texts: list[list[str]], golds: list[str]) -> pd.DataFrame:
    rows = [
        {"item": f"q{i}", "sample": s, "text": t, "gold": g}
        for i, (answers, g) in enumerate(zip(texts, golds, strict=True))
        for s, t in enumerate(answers)
    ]
    return pd.DataFrame(rows)


def value(result: Result, name: str, **at) -> float:
    return float(result.data[name].sel(group="all", answer_kind="given", **at))


def test_unreadable_answers_are_counted_apart():
    result = evaluated(None, None, log([["7"], ["8"], ["hm"], ["7"]], ["7", "7", "7", "x"]), grade="number")
    assert result.table["status"].tolist() == ["correct", "wrong", "unparsed", "gold_unparsed"]
    assert value(result, "accuracy") == pytest.approx(1 / 2)
    assert value(result, "accuracy_strict") == pytest.approx(1 / 3)
    assert value(result, "unparsed") == pytest.approx(1 / 4)
    assert math.isnan(value(result, "truncated"))  # the log does not say
    assert any("no readable answer" in w for w in result.warnings)
    assert any("gold answers" in w for w in result.warnings)


def test_samples_give_unbiased_pass_and_majority():
    texts = [["1"] * 2 + ["0"] * 14, ["1"] * 16]
    result = evaluated(None, None, log(texts, ["1", "1"]), grade="number")
    assert value(result, "pass_at_k", k=4) == pytest.approx((0.45 + 1) / 2)
    assert value(result, "pass_at_k", k=1) == pytest.approx((2 / 16 + 1) / 2)
    assert value(result, "maj_at_k", k=16) == pytest.approx(0.5)
    assert result.data.k.values.tolist() == [1, 2, 4, 8, 16]
    assert set(result.table["decoding"]) == {"sampled"}


def test_prompts_replace_the_gold_of_a_log():
    prompts = Prompts((Item("q0", "?", "8", "leaked", "label"), Item("q0", "?", "7", "leaked", "truth")))
    result = evaluated(None, prompts, log([["7"]], ["0"]), grade="number")
    by_kind = result.table.set_index("answer_kind")["status"].to_dict()
    assert by_kind == {"label": "wrong", "truth": "correct"}
    with pytest.raises(InputError, match="do not hold"):
        evaluated(None, prompts, log([["7"], ["7"]], ["0", "0"]), grade="number")


def test_a_log_without_gold_needs_prompts():
    with pytest.raises(InputError, match="no gold answer"):
        evaluated(None, None, log([["7"]], ["7"]).drop(columns="gold"))
    with pytest.raises(InputError, match="no column"):
        evaluated(None, None, pd.DataFrame({"item": ["a"]}))
    with pytest.raises(InputError, match="either a model and prompts"):
        evaluated()


def test_contradictory_gold_answers_are_refused():
    both = log([["7", "7"]], ["7"]).assign(gold=["7", "8"])
    with pytest.raises(InputError, match="several gold answers"):
        evaluated(None, None, both, grade="number")


def test_a_jsonl_log_through_the_command_line(tmp_path, capsys):
    from apps.command.cli import main

    path = tmp_path / "log.jsonl"
    path.write_text('{"id": 1, "response": "it is 4", "answer": "4"}\n{"id": 2, "response": "5", "answer": "4"}')
    with pytest.raises(SystemExit) as left:
        main(["run", "evaluate", "--log", str(path), "--grade", "number", "--results", str(tmp_path / "r"), "--json"])
    assert left.value.code == 0
    rows = json.loads(capsys.readouterr().out)["summary"]
    (accuracy,) = [r for r in rows if r["quantity"] == "accuracy"]
    assert accuracy["value"] == 0.5
    assert accuracy["n"] == 2


def test_figures_build():
    from analyses.answers.evaluate import figures

    result = evaluated(None, None, log([["1", "0"], ["1", "1"]], ["1", "1"]), grade="number")
    assert set(figures(result)) == {"accuracy", "code", "pass_at_k"}
    swept = pd.concat([result.table.assign(step=s) for s in (0, 10)])
    assert np.isfinite(swept["step"]).all()


@pytest.fixture
def word_model(tmp_path, monkeypatch) -> Model:
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path / "cache"))
    return Model.load(tiny.save(tmp_path / "model", words=True))


def test_responses_are_the_models_own_whatever_the_batches(word_model: Model, monkeypatch, tmp_path):
    options = {"grade": "number", "max_new_tokens": 5, "samples": 3, "temperature": 1.0}
    first = evaluated(word_model, twelve_items(), batch_size=12, **options)
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path / "other"))
    second = evaluated(word_model, twelve_items(), batch_size=5, **options)
    pd.testing.assert_frame_equal(first.table, second.table)
    drawn = word_model.generate(twelve_items(), max_new_tokens=5)
    greedy = first.table[first.table["decoding"] == "greedy"].set_index("item")["text"]
    assert greedy.to_dict() == {c.item.id: c.text for c in drawn}
    cut = first.table["n_tokens"] == 5
    assert first.table.loc[first.table["truncated"] == 1.0, "n_tokens"].eq(5).all()
    assert cut.any()


def test_an_interrupted_run_goes_on_where_it_stopped(word_model: Model, monkeypatch):
    prompts, options = twelve_items(), {"grade": "number", "max_new_tokens": 5, "batch_size": 4}
    generate, asked = Model.generate, []

    def stops_after_two(self, items, **how):
        asked.append(len(items))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return generate(self, items, **how)

    monkeypatch.setattr(Model, "generate", stops_after_two)
    with pytest.raises(KeyboardInterrupt):
        evaluated(word_model, prompts, **options)
    resumed = evaluated(word_model, prompts, **options)
    assert asked == [4, 4, 4, 4]  # two batches kept, one lost, that one generated again
    monkeypatch.setattr(Model, "generate", generate)
    whole = {c.item.id: c.text for c in word_model.generate(prompts, max_new_tokens=5)}
    assert resumed.table.set_index("item")["text"].to_dict() == whole


def test_a_prompt_with_two_gold_answers_is_answered_once(word_model: Model):
    item = twelve_items().items[0]
    prompts = Prompts((item, Item(item.id, item.prompt, "41", item.group, "label")))
    table = evaluated(word_model, prompts, grade="number", max_new_tokens=4).table
    assert table["text"].nunique() == 1
    assert set(table["answer_kind"]) == {"given", "label"}


def test_a_limit_beyond_the_context_says_what_to_change(word_model: Model):
    with pytest.raises(InputError, match="context is 64 tokens"):
        evaluated(word_model, twelve_items(), grade="number")
