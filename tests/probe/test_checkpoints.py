"""Checkpoints: series found, whole files, fingerprints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from probe import Model
from probe.checkpoints import Checkpoint, discover, weight_files
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


def test_nothing_found_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    with pytest.raises(InputError, match=r"config\.json.*logs"):
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


def test_pickle_needs_leave(copy: Path) -> None:
    plain = Model.load(copy)
    from safetensors.torch import load_file

    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
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
