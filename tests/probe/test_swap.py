"""A checkpoint is more than its weights: after a swap everything equals a fresh load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from probe import Model, Prompts
from probe.checkpoints import fit
from probe.checkpoints.tokenizers import OneTokenizer
from probe.errors import InputError
from tests import tiny

TEXT = "the quick brown fox jumps over the lazy dog " * 2
LONG = Prompts.of([{"id": "a", "prompt": TEXT, "answer": "near the bank"}])


@pytest.fixture(autouse=True)
def cache_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path / "cache"))


def edited(folder: Path, to: Path, file: str, **changes: Any) -> Path:
    """A copy whose JSON file states other things; the weights stay."""
    shutil.copytree(folder, to)
    (to / file).write_text(json.dumps({**json.loads((to / file).read_text()), **changes}))
    return to


def logits(model: Model) -> torch.Tensor:
    (batch,) = model.batches(LONG, batch_size=1)
    out = model.run(batch).logits
    assert out is not None
    return out


ROPE = {"rope_type": "default", "rope_theta": 1e4}
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 16}
LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("mistral", {"sliding_window": None}),
        ("gemma3_text", {"sliding_window": 8}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0, "layer_types": LAYERS}),
        ("llama", {"rms_norm_eps": 1e-3}),
        ("llama", {"rope_parameters": {**ROPE, "rope_theta": 1e6}}),
        ("llama", {"rope_parameters": YARN}),
        ("llama", {"max_position_embeddings": 512}),
    ],
)
def test_the_configuration_is_the_new_checkpoints(
    folder_of: Callable[..., Path], tmp_path: Path, family: str, changes: dict[str, Any]
) -> None:
    one = folder_of(family)
    two = edited(one, tmp_path / "next", "config.json", **changes)
    model, fresh = Model.load(one), Model.load(two)
    before = logits(model)
    model.swap(two)
    assert torch.equal(logits(model), logits(fresh))
    assert (model.shape, model.checkpoint) == (fresh.shape, fresh.checkpoint)
    assert model.fingerprint() == fresh.fingerprint()
    model.swap(one)
    assert torch.equal(logits(model), before)


def test_what_a_configuration_says_for_information_does_not_build_anew(
    folder_of: Callable[..., Path], tmp_path: Path
) -> None:
    model = Model.load(folder_of("llama"))
    two = edited(folder_of("llama", 1), tmp_path / "next", "config.json", use_cache=False, transformers_version="4.40")
    held = model.backend
    model.swap(two)
    assert model.backend is held
    assert torch.equal(logits(model), logits(Model.load(two)))


def test_end_tokens_and_template_are_the_new_checkpoints(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    one = folder_of("llama")
    ended = edited(one, tmp_path / "ended", "generation_config.json", eos_token_id=[2, 77])
    named = {"eos_token": "<pad>", "chat_template": "{{ messages }}"}
    renamed = edited(one, tmp_path / "renamed", "tokenizer_config.json", **named)
    model = Model.load(one)
    for folder in (ended, renamed, one):
        model.swap(folder)
        fresh = Model.load(folder)
        assert model.eos_ids == fresh.eos_ids
        assert model.tokenizer.chat_template == fresh.tokenizer.chat_template
        assert model.tokenizer.eos_token == fresh.tokenizer.eos_token
    assert Model.load(ended).eos_ids != model.eos_ids


def test_a_model_in_memory_is_left_alone_by_a_swap_to_another_configuration(
    folder_of: Callable[..., Path], tmp_path: Path
) -> None:
    built, tokens = tiny.model("mistral"), tiny.tokenizer("mistral")
    kept = {n: x.clone() for n, x in built.named_parameters()}
    model = Model.wrap(built, tokens)
    two = edited(folder_of("mistral", 1), tmp_path / "next", "config.json", sliding_window=None)
    model.swap(two)
    assert torch.equal(logits(model), logits(Model.load(two)))
    assert all(torch.equal(x, kept[n]) for n, x in built.named_parameters())


def test_buffers_decide_too() -> None:
    one, two = tiny.model("llama"), tiny.model("llama")
    assert fit.differing(two, one) == []
    two.model.rotary_emb.inv_freq.mul_(2)
    assert fit.differing(two, one) == ["model.rotary_emb.inv_freq"]
    two.model.register_buffer("more", torch.zeros(1))
    assert fit.differing(two, one) == ["model.more"]


def test_added_tokens_are_taken_over(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    one, two = folder_of("llama"), tmp_path / "chat"
    tokens, built = AutoTokenizer.from_pretrained(one), AutoModelForCausalLM.from_pretrained(one)
    tokens.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    built.resize_token_embeddings(len(tokens), mean_resizing=False)
    built.save_pretrained(two)
    tokens.save_pretrained(two)
    model = Model.load(one)
    model.swap(two)
    assert (model.shape.d_vocab, len(model.tokenizer)) == (len(tokens), len(tokens))
    assert torch.equal(logits(model), logits(Model.load(two)))


def test_the_tokenizer_of_a_series_is_one(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    from probe import Checkpoint

    check = OneTokenizer()
    for folder in (folder_of("llama"), folder_of("llama", 1)):
        check.check(Checkpoint(str(folder)))
    with pytest.raises(InputError, match="another tokenizer"):
        check.check(Checkpoint(str(tiny.save(tmp_path / "words", words=True))))


@pytest.mark.parametrize("held", ["PeftModel", "compiled", "DataParallel", "value head"])
def test_what_a_training_loop_holds_is_taken_apart(held: str) -> None:
    from peft import LoraConfig, get_peft_model

    built, tokens = tiny.model("llama"), tiny.tokenizer()
    ids = torch.tensor([[5, 9, 30, 77]])
    given: Any = built
    if held == "PeftModel":
        given = get_peft_model(built, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")).eval()
        torch.nn.init.normal_(given.base_model.model.model.layers[1].self_attn.q_proj.lora_B["default"].weight)
    elif held == "compiled":
        given = torch.compile(built, backend="eager")
    elif held == "DataParallel":
        given = torch.nn.DataParallel(built)
    else:
        given = torch.nn.Module()
        given.pretrained_model, given.v_head = built, torch.nn.Linear(1, 1)
    model = Model.wrap(given, tokens)
    want = (built if held == "value head" else given)(input_ids=ids).logits
    got = model.backend.plain(input_ids=ids).logits
    assert torch.equal(got, want)
    assert model.fingerprint()
    if held == "PeftModel":
        with pytest.raises(InputError, match="an adapter's layers stand beside"):
            model.weights()


def test_a_tower_without_a_head_is_told() -> None:
    with pytest.raises(InputError, match=r"LlamaModel: no language model with a head"):
        Model.wrap(tiny.model("llama").model, tiny.tokenizer())
