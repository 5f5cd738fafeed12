"""Adapters of many sorts against PEFT's own layers, not merged: equal logits, or a refusal with its reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from probe import Checkpoint, Model
from probe.checkpoints import adapters
from probe.checkpoints.loading import Reading, read_model
from probe.errors import InputError
from tests import tiny

IDS = torch.tensor([[5, 9, 30, 77, 101, 6]])
TASK: dict[str, Any] = {"task_type": "CAUSAL_LM"}


def lora(**options: Any) -> Any:
    return peft.LoraConfig(r=2, **({"target_modules": ["q_proj"]} | options), **TASK)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {
        "untied": tiny.save(root / "untied"),
        "tied": tiny.save(root / "tied", tie_word_embeddings=True),
        "gpt2": tiny.save(root / "gpt2", "gpt2"),
    }


def trained(base: Path, config: Any, folder: Path) -> torch.Tensor:
    """Logits of PEFT's own model, whose adapter is saved."""
    torch.manual_seed(0)
    tuned = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager"), config)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(0.15 * torch.randn(parameter.shape))
    tuned.save_pretrained(folder)
    own = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    return peft.PeftModel.from_pretrained(own, folder).eval()(input_ids=IDS).logits


def read(checkpoint: Checkpoint | Path) -> Any:
    return read_model(Checkpoint.of(checkpoint), Reading())


CASES: dict[str, tuple[str, Callable[[], Any]]] = {
    "all linear": ("untied", lambda: lora(target_modules="all-linear")),
    "DoRA": ("untied", lambda: lora(use_dora=True)),
    "head saved, tied base": ("tied", lambda: lora(modules_to_save=["lm_head"])),
    "embedding saved, tied base": ("tied", lambda: lora(modules_to_save=["embed_tokens"])),
    "both saved, tied base": ("tied", lambda: lora(modules_to_save=["embed_tokens", "lm_head"])),
    "embedding targeted, tied base": ("tied", lambda: lora(target_modules=["embed_tokens", "q_proj"])),
    "tying kept, tied base": ("tied", lambda: lora(modules_to_save=["embed_tokens"], ensure_weight_tying=True)),
    "trained tokens, tied base": ("tied", lambda: lora(trainable_token_indices=[5, 9])),
    "both saved, untied base": ("untied", lambda: lora(modules_to_save=["embed_tokens", "lm_head"])),
    "AdaLoRA": ("untied", lambda: peft.AdaLoraConfig(r=2, init_r=3, total_step=10, target_modules=["q_proj"], **TASK)),
    "norms": ("untied", lambda: peft.LNTuningConfig(target_modules=["input_layernorm"], **TASK)),
    "IA3": ("untied", lambda: peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[], **TASK)),
    "transposed weights": ("gpt2", lambda: lora(target_modules=["c_attn"], fan_in_fan_out=True)),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", CASES)
def test_logits_equal_pefts(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    base, config = CASES[case]
    want = trained(bases[base], config(), tmp_path / "a")
    got = read(tmp_path / "a")
    plain = AutoModelForCausalLM.from_pretrained(bases[base])(input_ids=IDS).logits
    torch.testing.assert_close(got(input_ids=IDS).logits, want, atol=1e-5, rtol=0)
    assert (want - plain).abs().max() > 1e-3
    assert not any("lora" in n for n, _ in got.named_parameters())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_untied_head_is_proven_like_any_model(bases: dict[str, Path], tmp_path: Path) -> None:
    trained(bases["tied"], lora(modules_to_save=["lm_head"]), tmp_path / "a")
    model = Model.load(tmp_path / "a")
    assert not model.weights()["lm_head.weight"].equal(model.weights()["model.embed_tokens.weight"])
    model.swap(bases["tied"])
    assert model.weights()["lm_head.weight"].equal(model.weights()["model.embed_tokens.weight"])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("tied", [True, False])
def test_a_resized_vocabulary_resizes_the_base(bases: dict[str, Path], tmp_path: Path, tied: bool) -> None:
    base = AutoModelForCausalLM.from_pretrained(bases["tied" if tied else "untied"])
    rows = base.get_input_embeddings().weight.shape[0]
    base.resize_token_embeddings(rows + 3, mean_resizing=False)
    tuned = peft.get_peft_model(base, lora())
    tuned.save_pretrained(tmp_path / "a", save_embedding_layers=True)
    got = read(tmp_path / "a")
    assert got.get_input_embeddings().weight.shape[0] == rows + 3
    torch.testing.assert_close(got(input_ids=IDS).logits, tuned.eval()(input_ids=IDS).logits, atol=1e-5, rtol=0)
    file = tmp_path / "a" / "adapter_model.safetensors"
    if not tied:
        save_file({n: x for n, x in load_file(file).items() if "lm_head" not in n}, file)
        with pytest.raises(InputError, match="does not hold the new rows of both ends"):
            read(tmp_path / "a")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (lambda: peft.PromptTuningConfig(num_virtual_tokens=2, **TASK), "PROMPT_TUNING adapter puts learned vectors"),
        (lambda: peft.PrefixTuningConfig(num_virtual_tokens=2, **TASK), "PREFIX_TUNING adapter puts learned vectors"),
        (lambda: lora(alora_invocation_tokens=[5]), "activated LoRA"),
    ],
)
def test_what_cannot_be_merged_is_refused_in_words(
    bases: dict[str, Path], tmp_path: Path, config: Callable[[], Any], told: str
) -> None:
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(bases["untied"]), config()).save_pretrained(tmp_path / "a")
    with pytest.raises(InputError, match=told):
        read(tmp_path / "a")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: {n: x for n, x in s.items() if "layers.2" not in n}, "that the file lacks"),
        (lambda s: {n.replace("model.layers", "_orig_mod.layers"): x for n, x in s.items()}, "that no module takes"),
    ],
)
def test_an_adapter_that_lands_by_halves_is_refused(
    bases: dict[str, Path], tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]], told: str
) -> None:
    trained(bases["untied"], lora(), tmp_path / "a")
    file = tmp_path / "a" / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
    with pytest.raises(InputError, match=told):
        read(tmp_path / "a")


def test_a_folder_with_a_model_and_an_adapter_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    trained(bases["untied"], lora(), tmp_path / "a")
    tiny.save(tmp_path / "a", seed=3)
    with pytest.raises(InputError, match="a whole model and an adapter"):
        read(tmp_path / "a")


def test_a_pickled_adapter_needs_leave(bases: dict[str, Path], tmp_path: Path) -> None:
    want = trained(bases["untied"], lora(), tmp_path / "a")
    file = tmp_path / "a" / "adapter_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    with pytest.raises(InputError, match=rf"{tmp_path / 'a'}: only pickle weights \(adapter_model.bin\)"):
        read(tmp_path / "a")
    got = read_model(Checkpoint.of(tmp_path / "a"), Reading(allow_pickle=True))
    torch.testing.assert_close(got(input_ids=IDS).logits, want, atol=1e-5, rtol=0)


def test_a_base_and_its_adapter_are_written_with_a_plus(bases: dict[str, Path], tmp_path: Path) -> None:
    want = trained(bases["untied"], lora(), tmp_path / "a")
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "/gone"}))
    with pytest.raises(InputError, match=r"--base FOLDER"):
        read(tmp_path / "a")
    for checkpoint in (
        Checkpoint.of(f"{bases['untied']}+{tmp_path / 'a'}"),
        Checkpoint.of(tmp_path / "a", base=bases["untied"]),
    ):
        torch.testing.assert_close(read(checkpoint)(input_ids=IDS).logits, want, atol=1e-5, rtol=0)


def test_over_packed_weights_an_adapter_stays_beside_them(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = trained(bases["untied"], lora(), tmp_path / "a")
    monkeypatch.setattr(adapters, "quantisation_of", lambda model: "4-bit")
    got = read(tmp_path / "a")
    assert torch.equal(got(input_ids=IDS).logits, want)
    assert any("lora_A" in n for n, _ in got.named_parameters())
