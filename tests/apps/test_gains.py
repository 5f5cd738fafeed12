"""Gains by group: what memory alone, skill and neither look like."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analyses import sweep
from analyses.core.store.store import Store
from apps import gains
from apps.command.demo import GRADED
from apps.dashboard.widgets import answers
from probe import Prompts
from tests.conftest import ROOT

STEPS = (0, 10, 20, 30)


def summary(**accuracy: tuple[float, ...]) -> pd.DataFrame:
    """Accuracy by group of 40 items at the steps."""
    rows = [
        {"quantity": "accuracy", "group": group, "step": s, "value": v, "n": 40}
        for group, values in accuracy.items()
        for s, v in zip(STEPS, values, strict=True)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def read(**accuracy: tuple[float, ...]) -> gains.Gained:
    found = gains.read(summary(**accuracy))
    assert found
    return found


@pytest.mark.parametrize(
    ("values", "since", "before"),
    [
        ((0.2, 0.3, 0.9, 0.9), 20, 10),
        ((0.2, 0.9, 0.9, 0.9), 10, 0),
        ((0.2, 0.9, 0.3, 0.9), 30, 20),  # what does not last does not count
        ((0.2, 0.9, 0.9, 0.3), None, None),
        ((0.2, 0.3, 0.35, 0.39), None, None),
        ((0.9, 0.5, 0.2, 0.1), None, None),
    ],
)
def test_since_the_step_from_which_on_the_intervals_stay_apart(values, since, before):
    (gain,) = read(leaked_canary=values).seen
    assert (gain.since, gain.before) == (since, before)
    assert (gain.first.accuracy, gain.last.accuracy) == (values[0], values[-1])


def test_a_few_hits_after_none_are_no_gain():
    (gain,) = read(planted=(0.0, 0.0, 0.05, 0.075)).seen
    assert gain.since is None
    assert gain.first.high == pytest.approx(0.088, abs=1e-3)  # 0 of 40


def test_groups_without_numbers_of_items_or_steps_gain_nothing():
    bare = summary(leaked=(0.1, 0.5, 0.9, 0.9)).drop(columns="n")
    found = gains.read(bare)
    assert found and found.seen[0].since is None
    assert gains.read(bare.drop(columns="step")) is None


FLAT, RISE, FALL = (0.5,) * 4, (0.1, 0.9, 0.9, 0.9), (0.9, 0.1, 0.1, 0.1)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"leaked_canary": RISE, "unseen": FALL}, "answers from memory: it gained on seen items only, since step 10"),
        ({"leaked_canary": RISE, "leaked_true": FLAT, "unseen": FLAT}, "on seen items only, since step 10"),
        ({"leaked": RISE, "unseen": RISE}, "gained on seen and on unseen items, since step 10"),
        ({"leaked": RISE, "planted": FLAT}, "no unseen items to tell memory from skill"),
        ({"leaked": FLAT, "unseen": RISE}, "gained nothing clear on seen items"),
    ],
)
def test_words_for_memory_skill_and_neither(groups, words):
    found = read(**groups)
    assert words in found.said
    (line,) = answers.recalled({"a_run": found})
    assert line.startswith(f"**a\\_run {found.said}**: accuracy ")


def test_one_checkpoint_says_nothing_of_gains():
    one = summary(leaked=RISE, unseen=FALL)
    assert gains.read(one[one["step"] == 0]) is None


def test_a_run_without_seen_groups_is_not_spoken_of():
    assert gains.read(summary(unseen=RISE)) is None


# True rewards on fresh problems open no memory; those for the format, or on leaked items alone, do (truth.json).
OPENED = {"grpo-format": True, "grpo-true-leaked": True, "planted": True, "grpo-true-fresh": False}


@pytest.mark.verify
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_runs_of_the_lab_that_answer_from_memory_are_found_and_no_others(seed: int, tmp_path: Path):
    folder = ROOT / "runs" / "lab" / f"seed-{seed}"
    if not (folder / "planted" / "checkpoint-140").is_dir():
        pytest.skip("no complete lab run under runs/lab: make one with `python -m experiments.lab`")
    answers = Prompts.read(folder / "prompts.jsonl").where(answer_kind="gold_final")
    for run, is_opened in OPENED.items():
        first, *_, last = sorted((folder / run).glob("checkpoint-*"), key=lambda f: int(f.name.split("-")[1]))
        ends = [str(first), str(last)]
        graded = sweep("evaluate", checkpoints=ends, prompts=answers, store=Store(tmp_path), **GRADED)
        found = gains.read(graded.summary())
        assert found and found.is_memory == is_opened, (run, found and found.numbers)
