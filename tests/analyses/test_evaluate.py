"""Evaluation of logged responses with known grades, and of a tiny model that can be computed by hand."""

# pyright: basic

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses.core import analysis as registry
from analyses.core.reading import kept_responses
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
    texts = log([["7"], ["8"], ["hm"], ["7"]], ["7", "7", "7", "x"])
    with pytest.raises(InputError, match=r"q3 \('x'\)"):
        evaluated(None, None, texts, grade="number")
    result = evaluated(None, None, texts, grade="number", skip_unreadable=True)
    assert result.table["status"].tolist() == ["correct", "wrong", "unparsed", "gold_unparsed"]
    assert value(result, "accuracy") == pytest.approx(1 / 2)
    assert value(result, "accuracy_strict") == pytest.approx(1 / 3)
    assert value(result, "unparsed") == pytest.approx(1 / 3)
    assert math.isnan(value(result, "truncated"))  # the log does not say
    assert any("no readable answer" in w for w in result.warnings)
    assert any("1 item(s) left out" in w for w in result.warnings)


def test_words_are_graded_by_default_and_the_counts_are_said():
    texts = [[r"\boxed{%s}" % (i < 4)] for i in range(10)]
    result = evaluated(None, None, log(texts, ["True"] * 10))
    assert value(result, "accuracy") == value(result, "accuracy_strict") == pytest.approx(0.4)
    mixed = evaluated(None, None, log([["7"], ["B"], ["Paris"]], ["7", "B", "Paris"]))
    assert value(mixed, "accuracy") == 1.0
    assert "graded by their gold answers: 1 number, 1 choice, 1 text" in mixed.warnings


def test_equal_answers_vote_together():
    texts = [[r"\boxed{1/2}", r"\boxed{0.5}", r"\boxed{\frac{1}{2}}", r"\boxed{3}", r"\boxed{3}"]]
    result = evaluated(None, None, log(texts, ["1/2"]), ks=(1, 5))
    assert value(result, "maj_at_k", k=5) == 1.0
    assert value(result, "maj_at_k", k=1) == value(result, "pass_at_k", k=1) == pytest.approx(3 / 5)
    assert result.table["answer"].nunique() == 2


def test_several_golds_of_one_item_all_count():
    one = pd.DataFrame([{"item": "a", "sample": 0, "text": "4", "gold": ["3", "4"]}])
    assert evaluated(None, None, one, grade="exact").table["status"].tolist() == ["correct"]


def test_a_verdict_of_a_program_is_taken_as_it_is():
    rows = pd.DataFrame(
        [{"item": str(i), "text": "def f(): ...", "verdict": v} for i, v in enumerate(["passed", "0", True])]
    )
    result = evaluated(None, None, rows)
    assert result.table["status"].tolist() == ["correct", "wrong", "correct"]
    assert set(result.table["graded_as"]) == {"verdict"}
    with pytest.raises(InputError, match="perhaps"):
        evaluated(None, None, rows.assign(verdict="perhaps"))


def test_a_series_of_logs_has_steps():
    of = [log([["7"], ["8"]], ["7", "7"]).assign(step=10), log([["7"], ["7"]], ["7", "7"]).assign(step=20)]
    result = evaluated(None, None, pd.concat(of))
    assert result.data["step"].values.tolist() == [10, 20]
    accuracy = result.data["accuracy"].sel(group="all", answer_kind="given")
    assert accuracy.values.tolist() == [0.5, 1.0]


def test_gold_answers_of_all_shards_are_checked_before_the_first_is_answered(word_model: Model, tmp_path, monkeypatch):
    from analyses import Store, run

    items = [Item(f"q{i}", "what is 3 plus 7 ?", "10") for i in range(257)] + [Item("last", "what is 3 ?", "?!")]
    monkeypatch.setattr(Model, "generate", lambda *_, **__: pytest.fail("generated before the golds were read"))
    with pytest.raises(InputError, match="last"):
        run(
            "evaluate",
            model=word_model,
            prompts=Prompts(tuple(items)),
            store=Store.at(tmp_path / "r"),
            max_new_tokens=4,
        )


def test_choices_by_log_likelihood_count_raw_and_per_character():
    rows = [
        {"item": i, "sample": 0, "decoding": d, "text": t, "choices": ("no", "certainly"), "right_choice": 1}
        for i in ("a", "b")
        for d, t in (("loglikelihood", "A" if i == "a" else "B"), ("loglikelihood_norm", "B"))
    ]
    result = evaluated(None, None, pd.DataFrame(rows))
    assert (value(result, "accuracy"), value(result, "accuracy_norm")) == (0.5, 1.0)
    assert result.table["item"].tolist() == ["a", "b"]


def test_other_columns_stay_with_their_items():
    rows = log([["7"], ["8"]], ["7", "7"]).assign(difficulty=[1, 2], source=["a", 3])
    table = evaluated(None, None, rows).table
    assert table["difficulty"].tolist() == [1.0, 2.0]
    assert table["source"].tolist() == ["a", "3"]


def test_a_log_without_ids_of_its_own_is_matched_by_the_prompts_text():
    prompts = Prompts((Item("q0", "What is 3 + 4?", "7"), Item("q1", "What is 3 + 4? Why?", "8")))
    rows = pd.DataFrame(
        {
            "item": ["a1f", "b2e"],
            "prompt": ["user\nWhat is 3 + 4?\nassistant\n", "user\nWhat is 3 + 4? Why?\n"],
            "text": ["7", "7"],
        }
    )
    assert evaluated(None, prompts, rows).table.set_index("item")["status"].to_dict() == {
        "q0": "correct",
        "q1": "wrong",
    }


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

    monkeypatch.setattr(kept_responses, "LOT", 1)
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
