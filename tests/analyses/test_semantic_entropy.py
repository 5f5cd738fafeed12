"""Semantic entropies: closed forms of the three, plans, planted answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses import run
from analyses.entropy.semantic_entropy import (
    clusters,
    entropy_of,
    final_answers,
    gram_entropy,
    grams,
    log_masses,
    log_mean,
    masses,
)
from probe import InputError, Rollouts
from tests import tiny


def planted(folder: Path, answers: dict[str, list[str]]) -> dict[str, Any]:
    tokenizer = tiny.word_tokenizer([*(str(i) for i in range(10)), "ans", "what", "?", "think", "+"])
    tiny.model("llama", vocab_size=len(tokenizer)).save_pretrained(folder / "m")
    tokenizer.save_pretrained(folder / "m")

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    rows = [
        {"step": 1, "prompt_id": q, "group_uid": q, "prompt_token_ids": ids("what ?"), "response_token_ids": ids(text),
         "reward": float(text.endswith("1"))}
        for q, texts in answers.items()
        for text in texts
    ]  # fmt: skip
    return {"model": folder / "m", "rollouts": Rollouts.of(rows)}


def example(folder: Path) -> dict[str, Any]:
    return planted(folder, {"a": ["think 1 + 2 ans 3", "ans 3", "ans 4", "think 1"], "b": ["ans 1"] * 4})


def test_closed_forms() -> None:
    assert entropy_of(np.array([1.0])) == 0
    assert entropy_of(np.full(8, 1 / 8)) == pytest.approx(2.07944, abs=5e-6)
    rare = log_masses(np.array([0, 1]), np.array([-1.0, -2000.0]))  # its share underflows, its logarithm does not
    assert rare == pytest.approx([0.0, -1999.0]) and log_mean(rare) == pytest.approx(999.5)
    assert log_mean(np.log(np.array([1e-20]))) == pytest.approx(46.05, abs=5e-3)
    assert log_mean(np.log(np.array([0.7, 0.2, 0.1]))) == pytest.approx(1.4229, abs=5e-5)
    assert entropy_of(np.array([0.7, 0.2, 0.1])) == pytest.approx(0.8018, abs=1e-4)
    assert log_mean(np.log(np.full(4, 0.25))) == pytest.approx(entropy_of(np.full(4, 0.25)))
    rng = np.random.default_rng(0)
    for _ in range(50):
        shares = rng.dirichlet(np.ones(5))
        assert log_mean(np.log(shares)) >= np.log(5) - 1e-12
        assert entropy_of(shares) <= np.log(5) + 1e-12


def test_clusters_and_masses() -> None:
    found = clusters(["3", "4", "3", None, None])
    assert len(set(found)) == 4  # each unparsed response is its own
    np.testing.assert_allclose(sorted(masses(found)), [0.2, 0.2, 0.2, 0.4])
    even = masses(found, np.full(5, -3.0))
    np.testing.assert_allclose(even, masses(found))
    np.testing.assert_allclose(masses(found, np.array([-1.0, -2, -1, -900, -900])).sum(), 1)
    order = [4, 2, 0, 1, 3]
    a = masses(clusters(["3", "4", "3", None, None]), np.arange(5.0))
    b = masses(clusters([["3", "4", "3", None, None][i] for i in order]), np.arange(5.0)[order])
    assert entropy_of(a) == pytest.approx(entropy_of(b), abs=1e-14)


def test_answers() -> None:
    assert final_answers(["think ans 2 ; ans 3", "nothing"], r"ans (\S+)")[0] == ["3", None]
    assert final_answers([" a  b ", ""], "")[0] == ["a b", None]
    answers, same = final_answers([r"\boxed{10}", "10", "so it is 10.0", r"\boxed{\frac{20}{2}}", "hm"], None)
    assert answers[4] is None
    assert len(set(same[:4])) == 1
    with pytest.raises(InputError, match="none of 1 responses"):
        final_answers(["hm"], None)


def test_unparsed_answers_are_each_their_own_beside_parsed_ones(tmp_path: Path) -> None:
    given = planted(tmp_path, {"a": ["ans 3", "ans 3", "3 ans", "7 ans"], "b": ["7 ans"] * 4})
    made = run("semantic_entropy", **given, pattern=r"ans (\S+)")
    found = made.table.set_index("item")["frequency_nats"]
    assert found["a"] == pytest.approx(1.5 * np.log(2))
    assert found["b"] == pytest.approx(np.log(4))
    assert any("75.0% of responses have no readable answer" in w for w in made.warnings)


def test_plans_have_the_entropy_of_their_grams() -> None:
    assert grams("a b c d", 3) == ["a b c", "b c d"]
    texts = ["one two three", "four five six", "seven eight nine"]
    assert gram_entropy(texts, [True] * 3, 3, 0.0) == pytest.approx(np.log(3))  # uniform over m grams
    renamed = [t.replace("one", "uno") for t in texts]
    assert gram_entropy(renamed, [True] * 3, 3, 0.0) == pytest.approx(np.log(3))
    assert np.isnan(gram_entropy(texts, [False] * 3, 3, 0.0))
    assert gram_entropy([*texts, "one two three"], [True, False, False, True], 3, 0.5) == 0


def test_planted_groups(tmp_path: Path) -> None:
    result = run("semantic_entropy", **example(tmp_path), pattern=r"ans (\S+)")
    a, b = result.table.set_index("item").loc[["a", "b"]].to_dict("records")
    assert (a["n_clusters"], a["n_unparsed"], b["n_clusters"]) == (3, 1, 1)
    assert a["frequency_nats"] == pytest.approx(entropy_of(np.array([0.5, 0.25, 0.25])))
    assert b["frequency_nats"] == 0
    assert b["mass_nats"] == pytest.approx(0, abs=1e-12)
    assert b["seed_scale"] == 1
    assert a["answers"].startswith("3 x2")


def test_bad_patterns_are_refused(tmp_path: Path) -> None:
    given = example(tmp_path)
    for pattern in ("(", "ans"):
        with pytest.raises(InputError, match="pattern"):
            run("semantic_entropy", **given, pattern=pattern)
