"""The lab's fine-tuning runs, small: prompts, pool, matching of checkpoints, report."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analyses import Result, Store
from experiments.over_memorization import lab as study
from experiments.over_memorization.report import interval, steps, tables


def test_problems_are_grouped_by_length(lab: Path):
    prompts = study.problems(lab)
    assert set(prompts.groups) == {"k2", "k3"}  # the short lab trains on 2 steps
    pooled = study.with_pool(prompts.limit(3), 0)
    assert len(pooled) == 15
    texts = {i.answer for i in pooled.items if i.id == pooled.items[0].id}
    assert len({t.rsplit("ans", 1)[1] for t in texts}) == 1  # other words, the same answer
    members = study.train_and_test(lab, 0, "short")
    assert members.groups == ("member", "nonmember")


def test_a_run_is_staged_from_its_items(lab: Path, tmp_path: Path):
    (tmp_path / "sft-high").mkdir()
    (tmp_path / "sft_test.jsonl").symlink_to(lab / "sft_test.jsonl")
    saved = sorted((lab / "sft-high").glob("checkpoint-*"), key=lambda f: int(f.name.split("-")[1]))
    for checkpoint in (saved[0], saved[len(saved) // 2], saved[-1]):  # three are enough to tell that it runs
        (tmp_path / "sft-high" / checkpoint.name).symlink_to(checkpoint)
    result, marks = study.stages(tmp_path, "sft-high", 0, Store.at(tmp_path / "results"), n=32)
    assert set(result.table["stage"]) <= {"under-trained", "good fit", "over-memorized", "over-fit"}
    assert {"accuracy", "log_ppl", "onset_share", "style_entropy"} <= set(result.data)
    assert set(marks.table["group"]) == {"k2"}
    assert set(marks.table["status"]) <= {"correct", "wrong", "unparsed"}


def staged(stages: list[str], accuracy: list[float]) -> Result:
    table = pd.DataFrame({"step": [10 * i for i in range(len(stages))], "stage": stages, "accuracy": accuracy})
    return Result.of(table)


def test_checkpoints_are_matched_by_accuracy():
    fast = staged(["under-trained", "good fit", "good fit", "over-memorized", "over-fit"], [0.2, 0.95, 0.9, 0.91, 0.7])
    slow = staged(["good fit", "good fit"], [0.9, 0.9])
    chosen = study.matched_checkpoints({"sft-high": fast, "sft-low": slow})
    assert chosen == {
        "normal": ("sft-high", 20),
        "over-memorized": ("sft-high", 30),
        "slow run": ("sft-low", 10),
    }
    assert study.matched_checkpoints({"sft-high": slow, "sft-low": slow}) == {}


def test_the_report_says_what_was_not_measured():
    assert interval(None) == "-"
    assert interval([0.5, None, None]) == "0.500"
    assert steps(None) == "none"
    assert steps([24.0, 12.0, 36.0]) == "24 [12, 36]"
    one = {
        "stages": {"0": "good fit", "12": "good fit", "24": "over-fit"}, "onset": None, "ppl_rise": [24.0, 24.0, 24.0],
        "area": [0.0, 0.0, 0.0], "recommended": [12.0, 12.0, 24.0], "log_ppl": [0.36, 0.37], "accuracy": [1.0, 0.9],
        "style_reading": None,
    }  # fmt: skip
    gap = {"inside_change": None, "outside_change": None, "ood_gap": [0.1, 0.0, 0.2]}
    run = {**one, "tolerance": 0.07, "ood": gap}
    text = tables({"0": {"sft-high": run, "sft-low": run, "side_effects": {}}})
    assert "| 0 | sft-low | 0.070 | good fit 0-12, over-fit 24 | none |" in text


@pytest.mark.parametrize("seed", [0, 99])
def test_truth_is_of_the_seed_or_nothing(seed: int):
    assert isinstance(study.truth(seed), dict)


@pytest.mark.parametrize("name", ["over_memorization", "perplexity_paradox"])
def test_the_readmes_tables_are_those_of_the_results(name: str):
    import importlib
    import json

    report = importlib.import_module(f"experiments.{name}.report")
    found = json.loads((report.FOLDER / "results.json").read_text())
    told = (report.FOLDER / "README.md").read_text()
    assert report.tables(found) in told
    assert set(found) == {"0", "1", "2"}


def test_the_lab_agrees_with_its_own_scripts():
    """An onset where the lab's own scripts saw perplexity rise, good fit throughout where they did not."""
    import json

    from experiments.over_memorization.report import FOLDER

    for seed, of in json.loads((FOLDER / "results.json").read_text()).items():
        told = study.truth(int(seed))
        assert told["over_memorization_high"]["holds"] == (of["sft-high"]["onset"] is not None)
        assert told["no_over_memorization_low"]["holds"] == (set(of["sft-low"]["stages"].values()) == {"good fit"})
        assert of["sft-high"]["from_truth"] < 1e-3 and of["sft-low"]["from_truth"] < 1e-3
        assert of["sft-high"]["ood"]["outside_change"][0] < 0
