"""Formats that are not read: each is named, with a command that holds the user's own paths; what can be run, is."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from probe import Model, discover
from probe.checkpoints.files import index_command, weight_files
from probe.errors import InputError
from tests import tiny


@pytest.fixture(autouse=True)
def cache_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("base") / "BASE")


def touch(*files: Path, text: str = "") -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


LAYOUTS = {
    "checkpoint-{}/global_step{}/zero_pp_rank_0_mp_rank_00_model_states.pt": (
        r"ZeRO-3.*python {run}/checkpoint-10/zero_to_fp32.py {run}/checkpoint-10 {run}/checkpoint-10-hf "
        r"-t global_step10"
    ),
    "_actor/global_step{}/zero_pp_rank_0_mp_rank_00_model_states.pt": (
        r"ZeRO-3.*-m deepspeed.utils.zero_to_fp32 {run}/_actor {run}/_actor/global_step10-hf -t global_step10"
    ),
    "iter_{:07d}/common.pt": r"Megatron.*export_ckpt\('{run}/iter_0000010', '{run}/iter_0000010-hf'\)",
    "iter_{:07d}/mp_rank_00/model_optim_rng.pt": r"Megatron-LM.*--load {run} .*{run}/iter_0000010-torch_dist",
    "global_step_{}/actor/dist_ckpt/.metadata": (
        r"Megatron, saved by verl.*--backend megatron --local_dir {run}/global_step_10/actor "
        r"--target_dir {run}/global_step_10/actor-hf"
    ),
    "step_{}/model.gguf": r"GGUF.*from_pretrained\('{run}/step_10', gguf_file='model.gguf'\)",
    "step_{}/consolidated.safetensors": r"Mistral's own names.*--input_dir {run}/step_10 --output_dir {run}/step_10-hf",
    "step_{}/consolidated.00.pth": r"Llama's own names.*convert_llama_weights_to_hf --input_dir {run}/step_10",
    "step_{}/adapters.safetensors": r"adapter of MLX.*mlx_lm.fuse --model BASE --adapter-path {run}/step_10",
    "step_{}/flax_model.msgpack": r"Flax.*from_flax=True",
    "step_{}/tf_model.h5": r"TensorFlow.*from_tf=True",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_format_is_named_and_the_command_printed(tmp_path: Path, layout: str) -> None:
    run = tmp_path / "run"
    touch(*(run / layout.format(step, step) for step in (10, 20)))
    touch(run / "checkpoint-10" / "zero_to_fp32.py")
    with pytest.raises(InputError, match=LAYOUTS[layout].format(run=run)) as told:
        discover(run)
    assert "all 2 checkpoints" in str(told.value)
    folder = next(f for f in sorted((run / layout.format(10, 10)).parents) if f.parent == run or f.name == "_actor")
    with pytest.raises(InputError, match=LAYOUTS[layout].format(run=run).partition(".*")[0]):
        Model.load(folder / "global_step10" if folder.name == "_actor" else folder)


def test_nemo_and_mlx_models_are_named(tmp_path: Path, base: Path) -> None:
    (tmp_path / "nemo" / "context").mkdir(parents=True)
    (tmp_path / "nemo" / "weights").mkdir()
    with pytest.raises(InputError, match=r"NeMo 2.*llm.export_ckpt"):
        discover(tmp_path / "nemo")
    mlx = Path(shutil.copytree(base, tmp_path / "mlx"))
    config = json.loads((mlx / "config.json").read_text())
    (mlx / "config.json").write_text(json.dumps({**config, "quantization": {"group_size": 64, "bits": 4}}))
    with pytest.raises(InputError, match=rf"quantised by MLX.*--hf-path {mlx} --mlx-path {mlx}-hf --dequantize"):
        Model.load(mlx)


def test_one_file_given_is_told_as_what_it_is(tmp_path: Path) -> None:
    for name, told in (("a.gguf", "GGUF"), ("a.nemo", "NeMo"), ("epoch=0-step=10.ckpt", "Lightning")):
        touch(tmp_path / name)
        with pytest.raises(InputError, match=told):
            discover(tmp_path / name)
        with pytest.raises(InputError, match=told):
            Model.load(tmp_path / name)


def test_a_whole_model_beside_a_trainers_partitions_is_read(base: Path, tmp_path: Path) -> None:
    for step in (10, 20):
        shutil.copytree(base, tmp_path / f"checkpoint-{step}")
        touch(tmp_path / f"checkpoint-{step}/global_step{step}/zero_pp_rank_0_mp_rank_00_model_states.pt")
    assert [c.step for c in discover(tmp_path)] == [10, 20]
    assert Model.load(tmp_path / "checkpoint-10")


def ran(command: str, base: Path) -> None:
    """Run a printed command, python's own part of it, with BASE filled in."""
    words = shlex.split(command[command.index('python -c "') :].replace("BASE", str(base)))
    subprocess.run([sys.executable, *words[1:3]], check=True, capture_output=True, timeout=120)


def same_weights(one: Path, two: Path) -> bool:
    first, second = Model.load(one, check=False).weights(), Model.load(two, check=False).weights()
    return all(torch.equal(first[n], second[n]) for n in first)


def test_the_command_for_lightning_works(base: Path, tmp_path: Path) -> None:
    tuned = tiny.save(tmp_path / "tuned", seed=5)
    state = {f"model.{n}": x for n, x in load_file(tuned / "model.safetensors").items()}
    (tmp_path / "run").mkdir()
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.5"}, tmp_path / "run" / "epoch=0-step=10.ckpt")
    with pytest.raises(InputError, match="Lightning") as told:
        discover(tmp_path / "run")
    ran(str(told.value), base)
    assert same_weights(tmp_path / "run" / "epoch=0-step=10.ckpt-hf", tuned)


def test_shards_without_an_index_say_how_to_write_it(base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = Path(shutil.copytree(base, tmp_path / "m"))
    (folder / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(folder, max_shard_size="60KB")
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(InputError, match=r"no model.safetensors.index.json") as told:
        Model.load(folder)
    assert index_command(folder) in str(told.value)
    ran(str(told.value), base)
    assert same_weights(folder, base)
    (folder / "model.safetensors.index.json").unlink()
    max(folder.glob("model-*.safetensors")).unlink()
    with pytest.raises(InputError, match=r"There are \d of \d shards and no index"):
        weight_files(folder)


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module.", "_fsdp_wrapped_module.", "base_model.model."])
def test_names_with_a_wrappers_prefix_say_which_and_how_to_rename(base: Path, tmp_path: Path, wrapper: str) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "m"))
    state = load_file(folder / "model.safetensors")
    save_file({wrapper + n: x for n, x in state.items()}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=rf"under names with '{wrapper}'") as told:
        Model.load(folder)
    ran(str(told.value), base)
    assert same_weights(Path(f"{folder}-renamed"), base)
