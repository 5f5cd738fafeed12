"""Stages are whole or absent, and recipes never mix."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.lab.build import STAGES, build, chosen_stages
from experiments.lab.recipe import GRPO_RUNS, Recipe, full, short
from experiments.lab.stages import MARKER, run_stage
from probe.errors import InputError


def test_an_interrupted_stage_leaves_nothing_and_is_rebuilt(tmp_path: Path):
    def interrupted(scratch: Path) -> dict[str, int]:
        (scratch / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path / "stage", "a", interrupted)
    assert list(tmp_path.iterdir()) == []
    # A dead process's scratch folder (as after kill -9) is swept by the next build.
    (tmp_path / ".stage.partial-999999999").mkdir()
    run_stage(tmp_path / "stage", "a", lambda _: {"n": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["stage"]


def test_a_finished_stage_is_not_built_again(tmp_path: Path):
    calls: list[Path] = []
    for _ in range(2):
        run_stage(tmp_path / "stage", "a", lambda scratch: calls.append(scratch) or {})
    assert len(calls) == 1


def test_a_changed_recipe_is_refused_and_nothing_is_lost(tmp_path: Path):
    run_stage(tmp_path / "stage", "a", lambda _: {})
    with pytest.raises(InputError, match="another recipe"):
        run_stage(tmp_path / "stage", "b", lambda _: {})
    assert json.loads((tmp_path / "stage" / MARKER).read_text())["fingerprint"] == "a"


def test_the_first_of_two_builders_wins(tmp_path: Path):
    def overtaken(_: Path) -> dict[str, int]:
        (tmp_path / "stage").mkdir()
        (tmp_path / "stage" / MARKER).write_text(json.dumps({"fingerprint": "a", "by": "other"}))
        return {}

    run_stage(tmp_path / "stage", "a", overtaken)
    assert json.loads((tmp_path / "stage" / MARKER).read_text())["by"] == "other"
    assert [p.name for p in tmp_path.iterdir()] == ["stage"]


def test_a_folder_that_is_no_stage_is_refused(tmp_path: Path):
    (tmp_path / "stage").mkdir()
    with pytest.raises(InputError, match="no stage"):
        run_stage(tmp_path / "stage", "a", lambda _: {})


def test_changing_the_recipe_of_a_lab_on_disk_is_refused(tiny_recipe: Recipe, tiny_lab: Path):
    changed = replace(tiny_recipe, pretraining=replace(tiny_recipe.pretraining, lr=1e-3))
    with pytest.raises(InputError, match="another recipe"):
        build(changed, tiny_lab, ["base"])
    changed = replace(tiny_recipe, reinforcement=replace(tiny_recipe.reinforcement, lr=1e-4))
    with pytest.raises(InputError, match="grpo-format"):
        build(changed, tiny_lab, ["grpo-format"])


def test_a_second_call_finds_everything(tiny_recipe: Recipe, tiny_lab: Path):
    times = {p: p.stat().st_mtime_ns for p in tiny_lab.rglob("*.safetensors")}
    build(tiny_recipe, tiny_lab, ["sft-high", "grpo-format", "planted"])
    assert times == {p: p.stat().st_mtime_ns for p in tiny_lab.rglob("*.safetensors")}


def test_fingerprints_separate_seeds_variants_and_rewards():
    recipes = [full(0), full(1), short(0)]
    assert len({recipe.fingerprint("pretraining") for recipe in recipes}) == 3
    assert len({json.dumps(vars(full(0).grpo(run))) for run in GRPO_RUNS}) == len(GRPO_RUNS)


def test_unknown_stages_are_named():
    with pytest.raises(InputError, match="grpo-typo"):
        chosen_stages(full(0), ["grpo-typo"])
    assert chosen_stages(full(0), []) == list(STAGES)
    assert chosen_stages(full(0), ["planted"]) == ["base", "planted"]


KILLED = """
import os, signal, sys, torch
sys.path[:0] = [{root!r}]
torch.set_num_threads(1)
from pathlib import Path
from experiments.lab import build as b, training
from tests.experiments.conftest import TINY
original = training.timed_training
def killed_in_the_second_stage(trainer):
    if (Path({folder!r}) / "base").exists():
        trainer.args.max_steps = 2
        original(trainer)
        os.kill(os.getpid(), signal.SIGKILL)
    return original(trainer)
training.timed_training = killed_in_the_second_stage
b.build(TINY, Path({folder!r}), ["sft-high"])
"""


def test_a_killed_run_resumes_and_ends_where_an_unkilled_one_does(tiny_recipe: Recipe, tiny_lab: Path, tmp_path: Path):
    folder = tmp_path / "seed-3"
    code = KILLED.format(root=str(Path(__file__).parents[2]), folder=str(folder))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    assert (folder / "base" / MARKER).exists()
    assert not (folder / "sft-high").exists()
    assert list(folder.glob(".sft-high.partial-*"))
    kept = (folder / "base" / MARKER).stat().st_mtime_ns

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    build(tiny_recipe, folder, ["sft-high"])
    torch.set_num_threads(threads)
    assert (folder / "base" / MARKER).stat().st_mtime_ns == kept
    assert not list(folder.glob(".*partial*"))
    # Another process, another folder, interrupted and resumed: the same bytes.
    for name in ("base/checkpoint-30", "sft-high/checkpoint-4"):
        resumed, plain = (root / name / "model.safetensors" for root in (folder, tiny_lab))
        assert resumed.read_bytes() == plain.read_bytes()
