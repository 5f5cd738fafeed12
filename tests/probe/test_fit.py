"""Folders as people leave them: what is missing, what nothing takes, other heads, quantised weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from probe import Model
from probe.checkpoints.quantised import held_otherwise, quantisation_of
from probe.errors import InputError
from tests import tiny

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("base") / "m")


def changed(base: Path, to: Path, change: Callable[[State], State]) -> Path:
    shutil.copytree(base, to)
    state = change(load_file(to / "model.safetensors"))
    save_file({n: x.contiguous() for n, x in state.items()}, to / "model.safetensors", {"format": "pt"})
    return to


@pytest.mark.parametrize(
    "extra",
    [
        "model.layers.1.self_attn.q_proj.bias",
        "model.layers.3.mlp.up_proj.weight",
        "score.weight",
        "model.layers.0.mlp.gate.e_score_correction_bias",
    ],
)
def test_tensors_that_nothing_takes_are_a_refusal(base: Path, tmp_path: Path, extra: str) -> None:
    folder = changed(base, tmp_path / "m", lambda s: {**s, extra: torch.ones(32)})
    with pytest.raises(InputError, match=rf"1 tensor\(s\) that no module .* takes, e.g. \['{extra}'\]"):
        Model.load(folder)


@pytest.mark.parametrize(
    "extra",
    ["v_head.summary.weight", "model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.0.attn.masked_bias"],
)
def test_harmless_ones_change_nothing(base: Path, tmp_path: Path, extra: str) -> None:
    folder = changed(base, tmp_path / "m", lambda s: {**s, extra: torch.ones(4)})
    one, two = Model.load(base, check=False).weights(), Model.load(folder, check=False).weights()
    assert all(torch.equal(x, two[n]) for n, x in one.items())


@pytest.mark.parametrize(
    ("architecture", "refused"),
    [
        ("LlamaForSequenceClassification", True),
        ("Qwen3ForTokenClassification", True),
        ("Qwen2ForProcessRewardModel", True),
        ("Qwen2ForRewardModel", True),
        ("LlamaForCausalLMWithValueModel", True),
        ("LlamaForQuestionAnswering", True),
        ("BertForMaskedLM", True),
        ("LlamaForCausalLM", False),
        ("GPT2LMHeadModel", False),
        ("LlamaModel", False),
        ("Gemma3ForConditionalGeneration", False),
    ],
)
def test_reward_models_and_classifiers_are_refused_by_name(
    base: Path, tmp_path: Path, architecture: str, refused: bool
) -> None:
    from probe.checkpoints.fit import refuse_other_heads

    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    if refused:
        with pytest.raises(InputError, match=f"{architecture} is no language model"):
            refuse_other_heads(tmp_path)
    else:
        refuse_other_heads(tmp_path)


def test_a_reward_model_over_tied_embeddings_gives_no_number(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    config = tiny.config("qwen3", 320, tie_word_embeddings=True, num_labels=1)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    tiny.tokenizer("qwen3").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="Qwen3ForSequenceClassification is no language model"):
        Model.load(tmp_path)


@pytest.mark.parametrize(
    ("method", "pip"),
    [("bitsandbytes", "bitsandbytes"), ("gptq", "gptqmodel"), ("awq", "gptqmodel"), ("torchao", "torchao"),
     ("hqq", "hqq"), ("quanto", "optimum-quanto"), ("compressed-tensors", "compressed-tensors")],
)  # fmt: skip
def test_a_missing_package_is_named_as_pip_names_it(base: Path, tmp_path: Path, method: str, pip: str) -> None:
    own = {"bitsandbytes": {"load_in_4bit": True}, "gptq": {"bits": 4}, "awq": {"bits": 4, "version": "gemm"},
           "torchao": {"quant_type": "int8_weight_only"}, "hqq": {"quant_config": {}}, "quanto": {"weights": "int8"},
           "compressed-tensors": {"format": "pack-quantized", "config_groups": {}}}[method]  # fmt: skip
    if find_spec(method.replace("-", "_")) is not None:
        pytest.skip(f"{method} is installed")
    folder = Path(shutil.copytree(base, tmp_path / "m"))
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, **own}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=f"quantised with {method}, which needs: pip install .*{pip}"):
        Model.load(folder)


def test_packed_weights_are_told_by_their_method() -> None:
    plain = tiny.model("llama")
    assert held_otherwise(plain) is None
    packed = torch.nn.Parameter(torch.zeros(4, 4, dtype=torch.uint8), requires_grad=False)
    plain.model.layers[1].mlp.down_proj.weight = packed
    plain.config.quantization_config = {"quant_method": "gptq"}
    assert quantisation_of(plain) == "gptq (model.layers.1.mlp.down_proj.weight)"


@pytest.mark.parametrize("bits", [4, 8])
def test_bitsandbytes_folders_give_logits_and_no_weights(tmp_path: Path, bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    base = tiny.save(tmp_path / "base", hidden_size=64, head_dim=16, intermediate_size=128)
    asked = BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    AutoModelForCausalLM.from_pretrained(base, quantization_config=asked).save_pretrained(tmp_path / "q")
    tiny.tokenizer().save_pretrained(tmp_path / "q")
    model = Model.load(tmp_path / "q")
    with pytest.raises(InputError, match=f"quantised, {bits}-bit bitsandbytes"):
        model.weights()
    model.swap(tmp_path / "q")
    assert model.sites("resid_post")
    batches = model.batches(tiny.twelve_items(), batch_size=4)
    assert len(batches) == (12 if bits == 8 else 3)  # int8 looks at the whole batch for its large columns


def test_llamas_legacy_tokenizer_is_read_as_it_was_saved(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, normalizers

    from probe import Checkpoint
    from probe.checkpoints.tokenizers import read_tokenizer

    # As transformers 4 saved them: a normaliser puts the space in front, nothing splits before.
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz"]
    raw = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [], byte_fallback=True, unk_token="<unk>"))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    raw.save(str(tmp_path / "tokenizer.json"))
    own = {"tokenizer_class": "LlamaTokenizer", "legacy": True, "bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**own, "chat_template": "{{ messages }}"}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.warns(UserWarning, match="its tokenizer.json is used as it was saved"):
        tokenizer = read_tokenizer(Checkpoint(str(tmp_path)))
    for text in (" abc", "abc  de", "a\nb"):
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == raw.encode(text, add_special_tokens=False).ids
    assert (tokenizer.eos_token, tokenizer.chat_template) == ("</s>", "{{ messages }}")
