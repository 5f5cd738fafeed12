"""Tiny random models of each family with tokenizers trained on the spot, saved as ordinary folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from probe import Item, Prompts

FAMILIES = ("llama", "qwen2", "gpt2", "mistral", "qwen3", "gemma2", "gemma3_text", "olmo2", "gpt_neox")
N_LAYERS, D_MODEL, N_CTX = 3, 32, 64

_TEXT = [
    "what is 3 plus 7 ? ans 10",
    "Ann has 12 figs . buys 5 . loses 3 . how many ? think 12 + 5 = 17 ; ans 14",
    "the quick brown fox jumps over the lazy dog near the river bank",
    "numbers 0 1 2 3 4 5 6 7 8 9 and words add take away how many are left",
] * 4


_QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)


def tokenizer(family: str = "llama", vocab_size: int = 320) -> Any:
    """A byte-level BPE tokenizer that transformers reads back unchanged in a folder of that family."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if family in ("qwen2", "qwen3"):
        split = pre_tokenizers.Split(Regex(_QWEN_SPLIT), "isolated")
        byte = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        raw.normalizer = normalizers.NFC()
        raw.pre_tokenizer = pre_tokenizers.Sequence([split, byte])
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(_TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def word_tokenizer(words: list[str] | None = None) -> Any:
    """A word-level tokenizer: one id per whitespace-separated word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    found = words or sorted({w for line in _TEXT for w in line.split()})
    vocab = {w: i for i, w in enumerate(["<pad>", "<eos>", "<unk>", *found])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def config(family: str, vocab_size: int, **changes: Any) -> Any:
    """A configuration of a family at tiny size (grouped-query attention where the family has it)."""
    from transformers import AutoConfig

    common = {"vocab_size": vocab_size, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if family == "gpt2":
        sizes = {"n_layer": N_LAYERS, "n_embd": D_MODEL, "n_head": 4, "n_positions": N_CTX}
    else:
        sizes = {
            "num_hidden_layers": N_LAYERS,
            "hidden_size": D_MODEL,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": N_CTX,
        }
    if family not in ("gpt2", "gpt_neox"):
        sizes |= {"num_key_value_heads": 2, "head_dim": 8}
    if family in ("gemma2", "gemma3_text", "mistral"):
        sizes |= {"sliding_window": 16}
    return AutoConfig.for_model(family, **(common | sizes | changes))


def model(family: str = "llama", *, seed: int = 0, vocab_size: int = 320, **changes: Any) -> Any:
    """A random model of a family, norms and biases perturbed so that no identity holds by accident."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    built = AutoModelForCausalLM.from_config(config(family, vocab_size, **changes), attn_implementation="eager")
    return perturbed(built, seed)


def perturbed(built: Any, seed: int = 0) -> Any:
    """The model with noise on every parameter, in eval mode."""
    import torch

    rng = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in built.parameters():
            spread = 0.2 if parameter.ndim == 1 else 0.1
            parameter.add_(torch.randn(parameter.shape, generator=rng) * spread)
    return built.eval()


def save(folder: Path, family: str = "llama", *, seed: int = 0, words: bool = False, **changes: Any) -> Path:
    """A saved folder (weights, configuration, tokenizer) of a random model."""
    toks = word_tokenizer() if words else tokenizer(family)
    built = model(family, seed=seed, vocab_size=changes.pop("vocab_size", len(toks)), **changes)
    built.save_pretrained(folder)
    toks.save_pretrained(folder)
    return folder


def series(folder: Path, steps: tuple[int, ...] = (0, 10, 20), family: str = "llama", **changes: Any) -> Path:
    """A trainer's folder with `checkpoint-N` for each step; weights drift with the step."""
    import torch

    toks = tokenizer(family)
    start = model(family, vocab_size=changes.pop("vocab_size", len(toks)), **changes)
    for step in steps:
        rng = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for parameter in start.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=rng) * 0.02 * (step > 0))
        start.save_pretrained(folder / f"checkpoint-{step}")
        toks.save_pretrained(folder / f"checkpoint-{step}")
    return folder


def twelve_items() -> Prompts:
    """Items of two groups and several lengths, so that batches need padding."""
    items = [
        Item(
            f"q{i:02d}",
            f"what is {i} plus {3 * i} ?" if i % 3 else f"Ann has {i} figs . buys 5 . how many ?",
            f"ans {4 * i}" if i % 2 else f"think {i} ; ans {4 * i}",
            group="leaked" if i % 2 else "unseen",
        )
        for i in range(12)
    ]
    return Prompts(tuple(items), "twelve items")
