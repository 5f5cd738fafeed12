"""Sharded checkpoints, made for real by two ranks, and what is read of them: every tensor, bit for bit."""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from probe import Checkpoint, Model, discover
from probe.checkpoints.shards import shards_in, state_of
from probe.errors import InputError
from tests import tiny

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def cache_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of real saves by two ranks (the ten seconds are theirs), and `base`, which training started from."""
    root = tmp_path_factory.mktemp("shards")
    # Odd sizes: parts of different lengths, and dimensions shorter than there are ranks.
    tiny.save(root / "base", "qwen3", intermediate_size=45, num_key_value_heads=1, vocab_size=321)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    told = subprocess.run(
        [sys.executable, *launch, str(HERE / "make_shards.py"), str(root / "base"), str(root)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr[-2000:]
    return root


def values(folder: Path) -> dict[str, torch.Tensor]:
    return Model.load(folder, check=False).weights()


@pytest.mark.parametrize(
    ("run", "trained"),
    [("verl2", True), ("verl1", False), ("hybrid", False), ("bare", True), ("accelerate", True), ("both", True)],
)
def test_every_tensor_is_that_of_the_full_model(saved: Path, run: str, trained: bool) -> None:
    (found,) = discover(saved / run, config=saved / "base")
    assert (found.step, found.stage) == (1, run)
    want = torch.load(saved / "full.pt", weights_only=True) if trained else values(saved / "base")
    got = Model.load(found, check=False, allow_pickle=True).weights()
    assert got.keys() == want.keys()
    assert all(torch.equal(got[n], want[n]) for n in want)


def test_a_loaded_shard_is_proven_and_swapped_like_any_other(saved: Path) -> None:
    base = Model.load(saved / "base")
    (found,) = discover(saved / "verl2", config=saved / "base")
    base.swap(found, allow_pickle=True)
    want = torch.load(saved / "full.pt", weights_only=True)
    assert all(torch.equal(x, want[n]) for n, x in base.weights().items())
    assert base.eos_ids == Model.load(found, allow_pickle=True).eos_ids


def test_pickled_shards_need_leave_and_a_configuration(saved: Path) -> None:
    for run in ("verl2", "accelerate"):
        (found,) = discover(saved / run)
        with pytest.raises(InputError, match="--config FOLDER"):
            Model.load(found, allow_pickle=True)
        with pytest.raises(InputError, match="--allow-pickle"):
            Model.load(Checkpoint(found.path, config=str(saved / "base")))


def test_a_configuration_beside_the_shards_is_found(saved: Path, tmp_path: Path) -> None:
    actor = Path(shutil.copytree(saved / "verl2", tmp_path / "run")) / "global_step_1/actor"
    shutil.copytree(saved / "base", actor / "huggingface", ignore=shutil.ignore_patterns("*.safetensors"))
    for given in (tmp_path / "run", tmp_path / "run/global_step_1", actor):
        (found,) = discover(given)
        assert (found.path, found.label) == (str(actor), "global_step_1")
    before = found.fingerprint()
    (actor / "huggingface/config.json").write_text((actor / "huggingface/config.json").read_text() + " ")
    assert found.fingerprint() != before
    shutil.copy(saved / "base/model.safetensors", actor / "huggingface")
    assert discover(tmp_path / "run")[0].path == str(actor / "huggingface"), "exported weights stand before shards"


def test_a_missing_rank_and_two_saves_in_one_folder_are_told(saved: Path, tmp_path: Path) -> None:
    actor = Path(shutil.copytree(saved / "verl2", tmp_path / "run")) / "global_step_1/actor"
    shutil.copy(actor / "model_world_size_2_rank_0.pt", actor / "model_world_size_4_rank_0.pt")
    with pytest.raises(InputError, match="2 saves"):
        Checkpoint(str(actor), config=str(saved / "base")).fingerprint()
    (actor / "model_world_size_4_rank_0.pt").unlink()
    (actor / "model_world_size_2_rank_1.pt").unlink()
    with pytest.raises(InputError, match=r"rank \[1\] are missing"):
        Checkpoint(str(actor), config=str(saved / "base")).fingerprint()


def test_parts_without_a_mesh_name_the_command(saved: Path) -> None:
    (found,) = discover(saved / "without_mesh", config=saved / "base")
    actor = saved / "without_mesh/global_step_1/actor"
    with pytest.raises(InputError, match=rf"ShardedTensor.*merge --backend fsdp --local_dir {actor}"):
        Model.load(found, allow_pickle=True)


def test_metadata_that_names_anything_but_tensors_is_refused(saved: Path, tmp_path: Path) -> None:
    folder, ran = Path(shutil.copytree(saved / "bare/step-1", tmp_path / "step-1")), tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return (os.mkdir, (str(ran),))

    (folder / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match=r"posix.mkdir, which no description of tensors needs"):
        Model.load(Checkpoint(str(folder), config=str(saved / "base")), allow_pickle=True)
    assert not ran.exists()


def written(state: dict[str, torch.Tensor], folder: Path) -> None:
    import torch.distributed.checkpoint as dcp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that one process saves is what is wanted
        dcp.save(state, checkpoint_id=str(folder), no_dist=True)


def test_torchtitans_own_names_are_told(tmp_path: Path) -> None:
    names = ("tok_embeddings.weight", "layers.0.attention.wq.weight", "output.weight")
    for step in (10, 20):
        written({n: torch.zeros(2, 2) for n in names}, tmp_path / f"step-{step}")
    with pytest.raises(InputError, match=rf"torchtitan.*convert_to_hf.py {tmp_path}/step-10 {tmp_path}/step-10-hf"):
        discover(tmp_path)


def test_names_of_another_model_are_refused(saved: Path, tmp_path: Path) -> None:
    written({"encoder.weight": torch.zeros(2, 2)}, tmp_path / "step-1")
    with pytest.raises(InputError, match=r"not named as in the configuration's model, e.g. \['encoder.weight'\]"):
        Model.load(Checkpoint(str(tmp_path / "step-1"), config=str(saved / "base")), allow_pickle=True)
    lora = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight": torch.zeros(2, 2)}
    written(lora, tmp_path / "step-2")
    with pytest.raises(InputError, match="LoRA layers inside"):
        Model.load(Checkpoint(str(tmp_path / "step-2"), config=str(saved / "base")), allow_pickle=True)


@pytest.mark.parametrize("layout", ["checkpoint-{0}/global_step{0}", "_actor/global_step{0}"])
def test_deepspeeds_whole_weights_are_read(saved: Path, tmp_path: Path, layout: str) -> None:
    # Laid out after DeepSpeed's source (ZeRO-1 and -2): the weights as trained in, under "module".
    state = {n: x.bfloat16() for n, x in values(saved / "base").items()}
    for step in (10, 20):
        folder = tmp_path / layout.format(step)
        folder.mkdir(parents=True)
        held = {"module": state, "buffer_names": [], "param_shapes": [{n: x.shape for n, x in state.items()}]}
        torch.save({**held, "ds_version": "0.17", "global_steps": step}, folder / "mp_rank_00_model_states.pt")
        (folder / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt").touch()
        (folder.parent / "latest").write_text(folder.name)
    found = discover(tmp_path, config=saved / "base")
    assert [c.step for c in found] == [10, 20]
    got = Model.load(found[0], check=False, allow_pickle=True).weights()
    assert all(torch.equal(x, state[n].float()) for n, x in got.items())


def test_a_gathered_fsdp_file_is_read(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint-7").mkdir()
    torch.save(values(saved / "base"), tmp_path / "checkpoint-7" / "pytorch_model_fsdp.bin")
    (found,) = discover(tmp_path, config=saved / "base")
    assert found.step == 7
    got = Model.load(found, check=False, allow_pickle=True).weights()
    assert all(torch.equal(x, got[n]) for n, x in values(saved / "base").items())


def test_one_tensor_is_put_together_at_a_time(saved: Path) -> None:
    shards = shards_in(saved / "verl2/global_step_1/actor")
    assert shards is not None
    state = state_of(shards, values(saved / "base"))
    one = state["lm_head.weight"]
    assert (one.get_shape(), one.get_dtype()) == ([321, 32], "float32")
    assert one[...].shape == (321, 32)
