"""Ways to name checkpoints on the command line, and what is said of those left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.apps.test_cli import as_json, probe

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.series(tmp_path_factory.mktemp("runs") / "out")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    folder = tmp_path_factory.mktemp("given")
    (folder / "p.jsonl").write_text('{"id": "a", "prompt": "what is 3 plus 7 ?", "answer": " ans 10"}\n')
    return ["--prompts", folder / "p.jsonl", "--results", folder / "r"]


def steps(said: dict[str, Any]) -> list[int]:
    return sorted({row["step"] for row in said["summary"]})


def test_globs_several_folders_and_numbered_ones(capsys: Capture, series: Path, given: list[object]) -> None:
    sweep = ("sweep", "perplexity", *given, "--checkpoints")
    assert steps(as_json(capsys, *sweep, f"{series}/checkpoint-*")) == [0, 10, 20]
    written_out = sorted(series.glob("checkpoint-*"))  # as a shell hands over an unquoted pattern
    assert steps(as_json(capsys, *sweep, *written_out)) == [0, 10, 20]
    two = (f"5={series}/checkpoint-10", "--checkpoints", series / "checkpoint-20")
    assert steps(as_json(capsys, *sweep, *two)) == [5, 20]
    based = (series / "checkpoint-20", "--base", series / "checkpoint-0")
    assert steps(as_json(capsys, *sweep, *based)) == [0, 20]
    assert steps(as_json(capsys, *sweep, series / "checkpoint-20")) == [20]


def test_a_finished_run_is_swept_whole_and_what_is_left_out_is_told(
    capsys: Capture, series: Path, given: list[object], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(series, tmp_path / "out"))
    for file in (out / "checkpoint-20").iterdir():
        shutil.copy(file, out)
    shutil.copytree(out / "checkpoint-10", out / "tmp-checkpoint-30")
    said = as_json(capsys, "sweep", "perplexity", *given, "--checkpoints", out)
    assert steps(said) == [0, 10, 20]
    assert any("is checkpoint-20, saved again" in w for w in said["warnings"])
    assert any("tmp-checkpoint-30 is left out" in w for w in said["warnings"])


def test_a_bad_checkpoint_is_told_at_the_end_with_exit_code_one(
    capsys: Capture, series: Path, given: list[object], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(series, tmp_path / "out"))
    file = out / "checkpoint-10" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    code, printed, told = probe(capsys, "sweep", "perplexity", *given, "--checkpoints", out, "--json")
    assert (code, steps(json.loads(printed))) == (1, [0, 20])
    assert "step 10 is not in this result" in told
    assert "truncated" in told
    code, _, told = probe(capsys, "sweep", "divergence", *given, "--checkpoints", out, "--json")
    assert (code, "step 10 is not in this result" in told) == (1, True)


def test_a_format_that_is_not_read_ends_with_its_command(capsys: Capture, given: list[object], tmp_path: Path) -> None:
    (tmp_path / "iter_0000010").mkdir()
    (tmp_path / "iter_0000010" / "common.pt").touch()
    code, _, told = probe(capsys, "sweep", "perplexity", *given, "--checkpoints", tmp_path)
    assert (code, f"export_ckpt('{tmp_path}/iter_0000010'" in told) == (2, True)


def test_a_moved_base_is_given_on_the_line(capsys: Capture, series: Path, given: list[object], tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = series / "checkpoint-0"
    plain = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(plain, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "checkpoint-7")
    file = tmp_path / "checkpoint-7" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": "/moved/away"}))
    run = ("run", "perplexity", *given, "--model")
    code, _, told = probe(capsys, *run, tmp_path / "checkpoint-7")
    assert (code, "--base FOLDER" in told) == (2, True)
    one = as_json(capsys, *run, tmp_path / "checkpoint-7", "--base", base)
    two = as_json(capsys, *run, f"{base}+{tmp_path / 'checkpoint-7'}")
    assert one["summary"] == two["summary"]
    assert steps(as_json(capsys, "sweep", "perplexity", *given, "--checkpoints", tmp_path, "--base", base)) == [0, 7]


def test_shards_are_swept_with_leave_and_a_configuration(
    capsys: Capture, series: Path, given: list[object], tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    state = load_file(series / "checkpoint-10" / "model.safetensors")
    for step in (10, 20):
        folder = tmp_path / f"checkpoint-{step}" / f"global_step{step}"
        folder.mkdir(parents=True)
        torch.save({"module": state}, folder / "mp_rank_00_model_states.pt")
    sweep = ("sweep", "perplexity", *given, "--checkpoints", tmp_path)
    code, _, told = probe(capsys, *sweep)
    assert (code, "--config FOLDER" in told) == (2, True)
    code, _, told = probe(capsys, *sweep, "--config", series / "checkpoint-0")
    assert (code, "--allow-pickle" in told) == (2, True)
    said = as_json(capsys, *sweep, "--config", series / "checkpoint-0", "--allow-pickle")
    whole = as_json(capsys, "run", "perplexity", *given, "--model", series / "checkpoint-10")
    swept = [{k: v for k, v in row.items() if k != "step"} for row in said["summary"] if row["step"] == 10]
    assert swept == whole["summary"]
    planned = ("plan", "perplexity", "--checkpoints", tmp_path, "--config", series / "checkpoint-0", *given[:2])
    assert probe(capsys, *planned)[0] == 0
