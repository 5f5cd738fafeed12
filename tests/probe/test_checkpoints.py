"""Checkpoints: series found, whole files, fingerprints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from probe import Model
from probe.checkpoints.files import weight_files
from probe.checkpoints.search import discover
from probe.checkpoints.series import Checkpoint, prefetch
from probe.errors import InputError
from tests import tiny


@pytest.fixture(autouse=True)
def cache_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.series(tmp_path_factory.mktemp("runs") / "sft-high", steps=(100, 0, 20))


@pytest.fixture
def copy(run_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_folder / "checkpoint-0", tmp_path / "model"))


def test_trainer_folder_is_sorted_by_step(run_folder: Path) -> None:
    found = discover(run_folder)
    assert [c.step for c in found] == [0, 20, 100]
    assert {c.stage for c in found} == {"sft-high"}
    assert found[1].label == "checkpoint-20"
    assert [c.step for c in discover(run_folder, pattern="*-1*")] == [100]


def test_lists_and_single_folders(run_folder: Path, copy: Path) -> None:
    (copy / "trainer_state.json").write_text(json.dumps({"global_step": 7}))
    assert discover(copy) == [Checkpoint(str(copy), step=7)]
    both = discover([run_folder / "checkpoint-100", run_folder / "checkpoint-20"])
    assert [c.step for c in both] == [20, 100]
    other = discover([copy.rename(copy.parent / "b"), run_folder / "checkpoint-0"])
    assert [c.step for c in other] == [0, 7]


@pytest.mark.parametrize(
    ("layout", "steps"),
    [
        ("global_step_{}/actor/huggingface", [5, 10]),  # verl
        ("step_{}", [100, 1000]),  # open-instruct
        ("global_step{}_hf", [8, 16]),  # OpenRLHF
        ("checkpoint-{}", [3, 20]),  # transformers, TRL
    ],
)
def test_layouts_of_trainers(run_folder: Path, tmp_path: Path, layout: str, steps: list[int]) -> None:
    for step in steps:
        inner = tmp_path / "run" / layout.format(step)
        inner.parent.mkdir(parents=True, exist_ok=True)
        inner.symlink_to(run_folder / "checkpoint-0")
    (tmp_path / "run" / "global_step_5" / "critic").mkdir(parents=True, exist_ok=True)
    found = discover(tmp_path / "run")
    assert [c.step for c in found] == steps
    assert {c.stage for c in found} == {"run"}
    assert found[0].label == layout.format(steps[0]).split("/")[0]
    assert len({c.fingerprint() for c in found}) == 1


def test_unmerged_verl_shards_say_what_to_do(run_folder: Path, tmp_path: Path) -> None:
    actor = tmp_path / "run" / "global_step_5" / "actor"
    shutil.copytree(run_folder / "checkpoint-0", actor / "huggingface")
    (actor / "huggingface" / "model.safetensors").unlink()
    (actor / "model_world_size_1_rank_0.pt").touch()
    (found,) = discover(tmp_path / "run")
    with pytest.raises(InputError, match=f"merge --backend fsdp --local_dir {actor} --target_dir {actor}-hf"):
        Model.load(found)
    with pytest.raises(InputError, match="cut short, or another format"):
        Model.load(found, allow_pickle=True)


def lora(base: Path, folder: Path, *, trained: bool = True) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_pretrained(base)
    tuned = get_peft_model(plain, LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if trained and "lora_B" in name:
                parameter.normal_()
    tuned.save_pretrained(folder)
    return folder


def test_adapters_are_merged(run_folder: Path, tmp_path: Path) -> None:
    base = run_folder / "checkpoint-0"
    run = tmp_path / "lora-run"
    lora(base, run / "checkpoint-0", trained=False)
    lora(base, run / "checkpoint-7")
    first, last = discover(run)
    assert (first.step, last.step, last.adapter) == (0, 7, str(run / "checkpoint-7"))
    assert last.path == str(base)
    assert last.label == "checkpoint-7"
    plain, model = Model.load(base), Model.load(last)
    moved = {n for n, w in model.weights().items() if not torch.equal(w, plain.weights()[n])}
    assert moved == {f"model.layers.{i}.{m}.weight" for i in range(3) for m in ("self_attn.q_proj", "mlp.down_proj")}
    assert last.fingerprint() not in (first.fingerprint(), Checkpoint(str(base)).fingerprint())
    # An untrained adapter is the base; that is no error.
    assert all(torch.equal(w, plain.weights()[n]) for n, w in Model.load(first).weights().items())
    plain.swap(last)
    assert all(torch.equal(w, plain.weights()[n]) for n, w in model.weights().items())


def test_an_adapter_that_does_not_land_is_an_error(run_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    base = run_folder / "checkpoint-0"
    folder = lora(base, tmp_path / "a")
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({k.replace("layers", "blocks"): v for k, v in tensors.items()}, file)
    with pytest.raises(InputError, match="adapter"):
        Model.load(folder)
    other = tiny.save(tmp_path / "gpt2", "gpt2")
    with pytest.raises(InputError, match="adapter"):
        Model.load(Checkpoint(str(other), adapter=str(lora(base, tmp_path / "b"))))


def test_a_full_checkpoint_with_adapter_weights_is_refused(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.lora_A.weight"] = torch.zeros(2, 32)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="adapter weights"):
        Model.load(copy)


def test_prefetch_reads_ahead(run_folder: Path, tmp_path: Path) -> None:
    assert prefetch(run_folder / "checkpoint-20").result(timeout=30) is None
    with pytest.raises(InputError, match="no model folder"):
        prefetch(tmp_path / "none").result(timeout=30)


def test_nothing_found_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    with pytest.raises(InputError, match=r"\(logs\) for config\.json"):
        discover(tmp_path)
    with pytest.raises(InputError, match="no folder"):
        discover(tmp_path / "none")
    with pytest.raises(InputError, match="empty"):
        discover([])


def test_fingerprint_is_of_bytes_not_places(run_folder: Path, copy: Path) -> None:
    original = Checkpoint(str(run_folder / "checkpoint-0"))
    assert Checkpoint(str(copy)).fingerprint() == original.fingerprint()
    assert original.fingerprint() != Checkpoint(str(run_folder / "checkpoint-20")).fingerprint()
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    assert Checkpoint(str(copy)).fingerprint() != original.fingerprint()
    assert Checkpoint(str(copy)).tokenizer_fingerprint() == original.tokenizer_fingerprint()
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    assert Checkpoint(str(copy)).tokenizer_fingerprint() != original.tokenizer_fingerprint()


def test_bytes_are_hashed_once(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(str(run_folder / "checkpoint-0"))
    first = checkpoint.fingerprint()

    def no_hashing(*_: object) -> None:
        raise AssertionError("hashed again")

    monkeypatch.setattr("hashlib.file_digest", no_hashing)
    assert checkpoint.fingerprint() == first


def test_truncated_weights_are_named(copy: Path) -> None:
    file = copy / "model.safetensors"
    whole = file.read_bytes()
    for kept in (len(whole) - 1, len(whole) // 2, 100, 4, 0):
        file.write_bytes(whole[:kept])
        with pytest.raises(InputError, match=r"model\.safetensors: truncated"):
            Model.load(copy)
        with pytest.raises(InputError, match="truncated"):
            Checkpoint(str(copy)).fingerprint()


def test_missing_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights"):
        Model.load(copy)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"missing weight file.*00001.*00002"):
        weight_files(copy)


@pytest.mark.parametrize("n_files", [1, 2])
def test_pickle_needs_leave(copy: Path, n_files: int) -> None:
    plain = Model.load(copy)
    from safetensors.torch import load_file

    state = load_file(copy / "model.safetensors")
    files = {name: f"pytorch_model-0000{i % 2 + 1}-of-00002.bin" for i, name in enumerate(state)}
    if n_files == 1:
        torch.save(state, copy / "pytorch_model.bin")
    else:
        (copy / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
        for file in set(files.values()):
            torch.save({n: x for n, x in state.items() if files[n] == file}, copy / file)
    (copy / "model.safetensors").unlink()
    with pytest.raises(InputError, match="pickle"):
        Model.load(copy)
    allowed = Model.load(copy, allow_pickle=True)
    assert all(torch.equal(v, allowed.weights()[k]) for k, v in plain.weights().items())


def test_pickle_that_runs_code_does_not_run(copy: Path, tmp_path: Path) -> None:
    target = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return (Path.touch, (target,))

    torch.save({"a": Evil()}, copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(InputError):
        Model.load(copy, allow_pickle=True)
    assert not target.exists()


def test_remote_code_is_off(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "own.py").write_text("raise SystemExit('ran')")
    with pytest.raises(InputError):
        Model.load(copy)


def test_a_parameter_that_is_not_in_the_file_is_an_error(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"up_proj"):
        Model.load(copy)


def test_no_model_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model folder"):
        Model.load(tmp_path / "none")


def test_replaced_pre_tokenizer_is_refused(tmp_path: Path) -> None:
    # A word-level vocabulary in a qwen2 folder comes back as pieces, without a warning.
    folder = tiny.save(tmp_path / "m", "qwen2", words=True)
    with pytest.raises(InputError, match="not the one saved"):
        Model.load(folder)
    kept = tiny.save(tmp_path / "n", "llama", words=True)
    assert (
        Model.load(kept).tokenizer("what is 3 plus 7 ?")["input_ids"]
        == tiny.word_tokenizer()("what is 3 plus 7 ?")["input_ids"]
    )


def test_a_folder_of_checkpoints_given_as_one_is_told(tmp_path: Path) -> None:
    tiny.series(tmp_path / "series", steps=(0, 10))
    with pytest.raises(
        InputError, match=r"It holds 2 checkpoints \(checkpoint-0 is one\): name one, or sweep over all"
    ):
        Model.load(tmp_path / "series")


@pytest.mark.parametrize(("device", "told"), [("cuda:99", "sees 0 CUDA devices"), ("gpu7", "no device of PyTorch")])
def test_a_device_that_is_not_there_is_told_before_weights_are_read(tmp_path: Path, device: str, told: str) -> None:
    if torch.cuda.is_available():
        told = told.replace("sees 0", f"sees {torch.cuda.device_count()}")
    with pytest.raises(InputError, match=told):
        Model.load(tmp_path, device=device)


def test_a_checkpoint_without_tokenizer_says_which_files_to_copy(tmp_path: Path) -> None:
    tiny.save(tmp_path / "model")
    for file in (tmp_path / "model").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match=r"no tokenizer here \(tokenizer\.json.*Copy these files"):
        Model.load(tmp_path / "model")
