"""Labels of planted gains, of the same checkpoint twice, and of swapped checkpoints."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from analyses.answers.labels import agreement, relabelled
from analyses.core import analysis as registry
from analyses.core.result import Result
from probe.errors import InputError
from probe.prompts import Item, Prompts


def evaluation(p, n=16, seed=0, step=None, **options) -> Result:
    """Responses that are correct with the item's probability."""
    rng = np.random.default_rng(seed)
    rows = []
    for i, chance in enumerate(p):
        for sample in range(n):
            right = rng.random() < chance
            rows.append(
                {
                    "item": f"i{i}", "group": "math", "answer_kind": "given", "decoding": "sampled", "sample": sample,
                    "status": "correct" if right else "wrong", "correct": float(right), "answer": "7",
                    "n_tokens": 10.0 + i,
                    "truncated": 0.0, "boxed": False, "code": False, "text": "7", "gold": "7",
                }
            )  # fmt: skip
    table = pd.DataFrame(rows)
    return Result.of(table if step is None else table.assign(step=step)).with_record(options=options)


def example(folder) -> dict:
    """For the contract tests."""
    both = [evaluation([0.0, 0.9, 0.1], seed=1, step=0).table, evaluation([1.0, 0.9, 0.1], seed=2, step=10).table]
    return {"tuned": Result.of(pd.concat(both)).with_record(options={})}


def labelled(*args, **options) -> Result:
    return registry.get("labels")(*args, **options)


def test_planted_gains_are_labelled():
    base, tuned = evaluation([0.0, 0.9, 0.1, 0.9], seed=1), evaluation([1.0, 0.9, 0.1, 0.0], seed=2)
    for rule in ("interval", "fdr"):
        table = labelled(tuned, base, rule=rule).table.set_index("item")
        assert table["label"].to_dict() == {"i0": "leak", "i1": "stable", "i2": "unlabelled", "i3": "unlabelled"}
    assert labelled(tuned, base).table.set_index("item").loc["i0", "match"] == "i1"


def test_the_same_checkpoint_twice_gives_few_leaks():
    p = np.random.default_rng(0).random(400)
    result = labelled(evaluation(p, seed=2), evaluation(p, seed=1))
    assert (result.table["label"] == "leak").mean() <= 0.05
    same = labelled(evaluation(p, seed=1), evaluation(p, seed=1))
    assert "leak" not in set(same.table["label"])
    fdr = labelled(evaluation(p, seed=2), evaluation(p, seed=1), rule="fdr")
    assert (fdr.table["label"] == "leak").mean() <= 0.01


def test_swapping_the_checkpoints_drops_the_leaks():
    base, tuned = evaluation([0.0, 0.9], seed=1), evaluation([1.0, 0.9], seed=2)
    back = labelled(base, tuned).table.set_index("item")["label"]
    assert back.to_dict() == {"i0": "unlabelled", "i1": "stable"}  # right to wrong is dropped


def test_one_greedy_response_gives_the_published_rule():
    base, tuned = evaluation([0, 1, 0, 1], n=1), evaluation([1, 1, 0, 0], n=1)
    table = labelled(tuned, base, rule="any_of_k").table.set_index("item")
    assert table["label"].to_dict() == {"i0": "leak", "i1": "stable", "i2": "unlabelled", "i3": "unlabelled"}
    careful = labelled(tuned, base)
    assert any("fewer than 8" in w for w in careful.warnings)
    assert "leak" not in set(careful.table["label"])  # one response proves nothing


def test_another_template_for_the_base_says_what_the_label_is_worth():
    base, tuned, other = evaluation([0.0, 0.9], seed=1), evaluation([1.0, 0.9], seed=2), evaluation([0.78, 0.9], seed=3)
    result = labelled(tuned, base, other)
    value = float(result.data["p_other"].sel(group="math", answer_kind="given"))
    assert value == pytest.approx(result.table.set_index("item").loc["i0", "c_other"] / 16)
    assert value > 0.5


def test_unlike_templates_are_a_warning():
    base, tuned = evaluation([0.0, 0.9], template="chat"), evaluation([1.0, 0.9], template="none")
    assert any("confounded" in w for w in labelled(tuned, base).warnings)


def test_one_checkpoint_is_refused():
    with pytest.raises(InputError, match="compare two checkpoints"):
        labelled(evaluation([0.5]))


def test_agreement_and_prompts_with_labels_as_groups():
    table = labelled(evaluation([1.0, 0.9], seed=2), evaluation([0.0, 0.9], seed=1)).table
    assert agreement(table, table) == 1.0
    assert np.isnan(agreement(table.assign(label="stable"), table.assign(label="stable")))
    prompts = Prompts((Item("i0", "p", "a", "math"), Item("i1", "p", "a", "math"), Item("i9", "p", "a", "math")))
    made = relabelled(prompts, table).items
    assert [i.group for i in made] == ["leak", "stable"]
    assert {i.meta["group_from"] for i in made} == {"outcomes"}, "rules refuse to judge what the labels selected"


def test_covariates_tell_answers_of_one_character(benchmarks):
    result = labelled(evaluation([1.0, 0.9], seed=2), evaluation([0.0, 0.9], seed=1))
    assert float(result.data["one_character"].sel(group="math", answer_kind="given")) == 1.0
    answers = [row["answer"] for row in json.loads((benchmarks / "math500.json").read_text())]
    assert sum(len(a) == 1 for a in answers) == 117  # of 500: the published setting's share


def test_numbers_of_the_published_label_set():
    from analyses.core import stats

    assert round(19 / 0.1484) == 128
    n = 128
    assert np.array([109, 79]) / n == pytest.approx([0.85156, 0.6172], abs=5e-5)
    assert stats.mcnemar_exact(19, 0) == pytest.approx(3.8147e-6, rel=1e-4)
    assert stats.mcnemar_exact(6, 0) == pytest.approx(0.03125)
    assert stats.mcnemar_exact(0, 0) == 1.0
