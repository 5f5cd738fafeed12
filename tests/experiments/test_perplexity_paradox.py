"""The published recipe end to end on real questions with random weights of the family; the lab's report and rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses import Loading, Store
from experiments.perplexity_paradox import published
from experiments.perplexity_paradox.lab import PREDICTED, against_truth, held, of_seed
from experiments.perplexity_paradox.report import interval, tables
from probe.errors import InputError
from tests import tiny

EVALUATED = {"evaluate_chat", "evaluate_none"}
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    series = _series(tmp_path_factory)
    for checkpoint in series.iterdir():
        (checkpoint / "chat_template.jinja").write_text(CHAT)
    return series


def _series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.series(tmp_path_factory.mktemp("qwen"), steps=(0, 50), family="qwen2", max_position_embeddings=1024)


def test_questions_and_stubs(benchmarks: Path):
    asked = published.questions(benchmarks)
    sizes = {g: sum(i.group == g for i in asked.items) for g in asked.groups}
    assert sizes == {"MATH-500": 500, "Minerva": 272, "AMC": 83, "AIME24": 30}
    stub = published.stubbed(asked).items[0]
    assert stub.prompt.endswith("\\boxed{")
    assert stub.answer == asked.items[0].answer + "}"
    assert published.instructed(asked).items[0].prompt.endswith("within \\boxed{}.")


def test_every_gold_answer_can_be_graded_or_is_counted_apart(benchmarks: Path):
    from analyses.core.reading.grading import grader

    grade = grader("math")
    some = published.questions(benchmarks).items[::12]
    statuses = [grade(f"so \\boxed{{{i.answer}}}", i.answer).status for i in some]
    assert "wrong" not in statuses
    assert statuses.count("correct") >= 0.9 * len(statuses)


def test_the_recipe_runs_on_the_real_text(folder: Path, benchmarks: Path, tmp_path: Path):
    checkpoints = published.series(str(folder / "checkpoint-0"), [str(folder / "checkpoint-50")])
    how = published.Setting(max_new_tokens=6, samples=2, batch_size=8, limit=2, partial_tokens=6, controls=2)
    found = published.study(checkpoints, benchmarks, Store.at(tmp_path), Loading(), how)
    assert set(found) == {"perplexity", "perplexity_paradox", *EVALUATED, "labels", "partial_prompt"}
    assert found["perplexity"].table["step"].nunique() == 2
    assert set(found["perplexity_paradox"].table["group"]) >= {"MATH-500", "Minerva", "AMC", "AIME24"}
    assert all(
        found[e].table["truncated"].max() == 1.0 for e in EVALUATED
    )  # six tokens end no solution: marked, not hidden
    assert "leak" not in set(found["labels"].table["label"])  # random weights solve nothing
    assert {"c_other", "n_other"} <= set(found["labels"].table)  # the base under the other template
    drawn: Any = found["partial_prompt"].figures()["exact_match"]
    panels = [a.text for a in drawn.layout.annotations]
    for group in ("MATH-500", "Minerva", "AMC", "AIME24"):  # printed values are on view beside each benchmark
        own, printed = panels.index(f"{group}, this run"), panels.index(f"{group}, published, arXiv 2507.10532")
        assert {t.name for t in _lines(drawn, own)} == {"gold_final, step 0", "gold_final, step 50"}
        assert "Qwen2.5-Math-7B" in {t.name for t in _lines(drawn, printed)}
        assert all(np.isfinite(t.y).all() for t in _lines(drawn, printed))


def _lines(figure: Any, panel: int) -> list[Any]:
    axis = f"x{panel + 1}" if panel else "x"
    return [t for t in figure.data if t.xaxis == axis and t.name]


def test_checkpoints_get_steps_of_their_own(tmp_path: Path):
    steps = [c.step for c in published.series("a", ["r/step-50", "r/step-100"])]
    assert steps == [0, 50, 100]
    assert [c.step for c in published.series("a", ["one", "two"])] == [0, 1, 2]
    with pytest.raises(InputError, match="steps of their own"):
        published.series("a", ["x/step-50", "y/step-50"])
    assert published.templates("none") == ("none",) and published.templates("chat, none") == ("chat", "none")
    with pytest.raises(InputError, match="templates='other'"):
        published.templates("other")
    with pytest.raises(InputError, match="no benchmark"):
        published.questions(tmp_path)


def test_the_short_lab_shows_what_it_should(lab: Path, tmp_path: Path):
    """Format run of the lab against the lab's own scripts is `make verify`; here: it runs and is told in words."""
    found = of_seed(lab, Store.at(tmp_path), n=24)
    row = found["grpo-format"]
    assert row["verdict"]["leaked"] in ("paradox", "fall", "none found", "cannot be judged")
    parts = row["contribution"]
    total = parts["answer:first"][0] + parts["answer:rest"][0]
    assert total == pytest.approx(row["answer"][0], abs=2e-4)
    text = tables({"0": {"runs": found, "held": held(found), "from_truth": {}}})
    assert "| 0 | grpo-format | paradox |" in text


def test_rules_of_the_report():
    assert interval(None) == "-"
    assert interval([0.1, -0.2, 0.3]) == "+0.100 [-0.200, +0.300]"
    row = {"verdict": {"leaked": "paradox", "unseen": "none"}}
    assert held({"grpo-format": row, "grpo-random": row, "grpo-true-leaked": row}) == {
        "grpo-format": True,
        "grpo-random": False,
    }
    assert against_truth({}, 0) == {}
    assert set(PREDICTED.values()) == {"paradox", "no paradox", None}
