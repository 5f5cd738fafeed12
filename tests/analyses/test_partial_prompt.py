"""ROUGE-L and exact match in closed form and against the reference library; a model that knows a text by heart."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from analyses.core import analysis as registry
from analyses.core.published import beside, partial_prompts
from analyses.core.result import Result
from analyses.memory.partial_prompt import exact_match, rouge_l, split
from probe import Item, Model, Prompts
from probe.errors import InputError
from tests import tiny
from tests.tiny import twelve_items


def example(folder) -> dict:
    """For the contract tests."""
    return {
        "model": Model.load(tiny.save(folder / "model", words=True)),
        "prompts": twelve_items(),
        "grade": "number",
        "max_new_tokens": 5,
    }


def analysed(*args, **options) -> Result:
    return registry.get("partial_prompt")(*args, **options)


def test_equal_and_disjoint_texts():
    assert rouge_l("the answer is x^2", "the answer is x^2") == 1.0
    assert rouge_l("the answer is x^2 and more", "the answer is x^2") == 1.0  # cut to the reference
    assert rouge_l("foo bar", "baz qux") == 0.0
    assert rouge_l("", "baz") == 0.0
    assert math.isnan(rouge_l("x", ""))
    assert exact_match("the  answer\nis 4 .", "the answer is 4") == 1.0
    assert exact_match("an answer is 4", "the answer is 4") == 0.0


def test_rouge_against_the_reference_library():
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    rng = np.random.default_rng(0)
    vocabulary = ["alpha", "beta", "gamma", "delta", "eps"]
    for _ in range(50):
        reference, hypothesis = (" ".join(rng.choice(vocabulary, size=8)) for _ in range(2))
        expected = scorer.score(reference, hypothesis)["rougeL"].fmeasure
        assert rouge_l(hypothesis, reference) == pytest.approx(expected)


def test_random_strings_do_not_match():
    rng = np.random.default_rng(1)
    texts = [" ".join(map(str, rng.integers(0, 1000, 20))) for _ in range(40)]
    assert max(exact_match(a, b) for a, b in itertools.pairwise(texts)) == 0.0


def test_where_a_question_is_cut(base: Model):
    assert split("abcdefghij", 0.6, "char") == ("abcdef", "ghij")
    assert split("a bb  ccc dd", 0.5, "word") == ("a bb", "  ccc dd")
    start, rest = split("what is 3 plus 7 ?", 0.5, "token", base.tokenizer)
    assert start + rest == "what is 3 plus 7 ?"
    assert 0 < len(start) < 18


def test_a_model_that_continues_its_own_text_matches_and_others_do_not(tmp_path):
    model = Model.load(tiny.save(tmp_path, words=True))
    for item in twelve_items().items:
        (drawn,) = model.generate(Prompts((item,)), max_new_tokens=6)
        if len(drawn.text.split()) == 6:
            break
    known = f"{item.prompt} {drawn.text}"
    share = (len(item.prompt) + 0.5) / len(known)
    options = {"fractions": (share,), "grade": "number", "max_new_tokens": 8}
    own = analysed(model, Prompts((Item("own", known, "1"),)), **options)
    assert own.table["exact_match"].tolist() == [1.0]
    assert own.table["rouge_l"].tolist() == [1.0]
    others = analysed(model, twelve_items(), **{**options, "fractions": (0.6,)})
    assert others.table["exact_match"].max() == 0.0


def test_whole_questions_are_skipped_and_short_ones_left_out(base: Model):
    with pytest.raises(InputError, match="fractions"):
        analysed(base, twelve_items(), fractions=(1.0,))
    with pytest.raises(InputError, match="long enough"):
        analysed(base, Prompts((Item("a", "x", "1"),)), fractions=(0.4,), max_new_tokens=4)


def test_controls_are_groups_of_their_own(tmp_path):
    model = Model.load(tiny.save(tmp_path, words=True, max_position_embeddings=256))
    result = analysed(model, twelve_items(), controls=2, grade="number", max_new_tokens=4, fractions=(0.5,))
    groups = set(result.table["group"])
    assert {"random_calculation_5", "random_calculation_10", "leaked", "unseen"} == groups
    rows = result.summary()
    assert rows.loc[rows["quantity"] == "exact_match", "ci_high"].notna().all()


def test_published_values_are_marked_and_only_beside_their_benchmark():
    rows = partial_prompts().set_index(["quantity", "benchmark", "model", "fraction"])["value"]
    assert rows["exact_match", "MATH-500", "Qwen2.5-Math-7B", 0.6] == pytest.approx(0.546)
    assert rows["rouge_l", "LiveMathBench", "Llama3.1-8B", 0.4] == pytest.approx(0.2688)
    assert rows["accuracy", "MATH-500", "Qwen2.5-Math-7B, no template", 1.0] == pytest.approx(0.722)
    assert set(beside(["math"])["benchmark"]) == {"MATH-500"}
    assert beside(["my items"]).empty
    assert partial_prompts()["published"].eq("arXiv 2507.10532").all()


def test_figures_draw_the_published_values_beside_the_run(tmp_path):
    from analyses.memory.partial_prompt import figures

    model = Model.load(tiny.save(tmp_path, words=True))
    items = [Item(i.id, i.prompt, i.answer, "math") for i in twelve_items().items]
    drawn = figures(analysed(model, Prompts(tuple(items)), grade="number", max_new_tokens=4))
    names = [t.name for t in drawn["exact_match"].data]
    assert any("published" in n for n in names)
    assert any("this run" in n for n in names)
