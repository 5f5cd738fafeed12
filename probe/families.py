"""What model families call their parts: the one table of names of modules, parameters and configuration fields.

A new family needs a line here only where it spells a part in a way not yet listed; what a block *does* with its
parts (which of them write into the residual stream, where a norm follows) is not written down but observed in one
short pass (`probe.backends.places`) and proved at load (`probe.check`). Nothing here needs torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

ATTENTION = ("self_attn", "attention", "attn", "self_attention", "temporal_block", "norm_attn_norm.attn")
"""Modules of a block that let each position look back at earlier ones by a softmax over them."""

MIXER = ("linear_attn", "mamba", "conv", "mixer", "temporal_block", "short_conv", "kda", "block_sparse_mixer")
"""Modules that carry a state from position to position instead: linear attention, state-space, short convolution."""

MLP = ("mlp", "feed_forward", "block_sparse_moe", "mlp_block", "ffn", "moe", "shared_mlp", "feedforward")
"""Modules that act on each position alone. A block without one may hold the two matrices itself (OPT)."""

INNER_ATTENTION = ("attention",)
"""Where the attention module only wraps another (GPT-Neo)."""

Q = ("q_proj", "q_b_proj")
K = ("k_proj",)
V = ("v_proj",)
NORMS = {"q": ("q_norm", "q_layernorm", "query_layernorm"), "k": ("k_norm", "k_layernorm", "key_layernorm")}
FUSED = ("qkv_proj", "query_key_value", "c_attn", "Wqkv")
OUT = ("o_proj", "c_proj", "dense", "out_proj", "Wo", "o_b_proj")
GATE = ("gate_proj", "w1")
UP = ("up_proj", "w3", "c_fc", "fc1", "dense_h_to_4h", "fc_in")
GATE_UP = ("gate_up_proj", "Wi", "input_linear")
DOWN = ("down_proj", "w2", "c_proj", "fc2", "dense_4h_to_h", "fc_out", "output_linear", "Wo")
ROUTER = ("gate", "router")
EXPERTS = ("experts",)

PAIRED_HEADS = ("diffllama",)
"""Families whose attention subtracts one head's output from another's before heads are mixed."""

EMBEDDINGS = ("embed_tokens", "wte", "wpe", "embed_in", "word_embeddings", "embed_positions", "embeddings")
UNEMBEDDINGS = ("lm_head", "embed_out")

_PARTS: tuple[tuple[str, str], ...] = (
    (r"(?:^|\.|_)(?:\w*norm\w*|ln_\d|ln_f|ln_attn|ln_mlp|groupnorm)$", "norms"),
    (r"(?:mlp|feed_forward|block_sparse_moe|moe|ffn)\.(?:gate|router|expert_bias)(?:\..*)?$", "mlp.router"),
    (r"(?:^|\.)(?:shared_experts?|shared_expert_gate|shared_mlp)(?:\..*)?$", "mlp.shared"),
    (r"(?:^|\.)experts(?:\..*)?$", "mlp.experts"),
    (r"(?:mlp|mlp_block|feed_forward|ffn)\.(?:gate_proj|w1)$", "mlp.gate"),
    (r"(?:mlp|mlp_block|feed_forward|ffn)\.(?:up_proj|w3|c_fc|fc1|dense_h_to_4h|fc_in)$|^fc1$", "mlp.up"),
    (r"(?:mlp|mlp_block|feed_forward|ffn)\.(?:down_proj|w2|c_proj|fc2|dense_4h_to_h|fc_out|Wo)$|^fc2$", "mlp.down"),
    (r"(?:attn|attention|temporal_block)\.(?:q_proj|q_a_proj|q_b_proj)$", "attn.q"),
    (r"(?:attn|attention|temporal_block)\.k_proj$", "attn.k"),
    (r"(?:attn|attention|temporal_block)\.v_proj$", "attn.v"),
    (r"attn\.(?:kv_a_proj_with_mqa|kv_b_proj|kv_proj)$", "attn.kv"),
    (r"(?:attn|attention|temporal_block)\.(?:o_proj|c_proj|dense|out_proj|Wo|o_a_proj|o_b_proj)$", "attn.o"),
)  # fmt: skip
_MIXER_PART = re.compile(r"^(?:linear_attn|mamba|conv|mixer|short_conv|temporal_block|kda)(?:\..*)?$")
_ATTENTION_PART = re.compile(r"^(?:self_attn|attention|attn|self_attention)(?:\..*)?$")


def part_of(module: str, *, in_block: bool) -> str:
    """The part of the model a parameter's module belongs to, named as in `probe.weights.PARTS`.

    Args:
        module: its name, within the block or from the root.
        in_block: whether it is a block's.
    """
    last = module.rpartition(".")[2]
    if not in_block:
        if last in EMBEDDINGS:
            return "embed"
        if last in UNEMBEDDINGS:
            return "unembed"
    if _MIXER_PART.match(module) and not module.startswith("temporal_block."):
        return "mixer"
    for pattern, part in _PARTS:
        if re.search(pattern, module):
            return part
    if _MIXER_PART.match(module):
        return "mixer"
    return "attn.other" if _ATTENTION_PART.match(module) else "other"


def is_conv1d(config: Any, name: str) -> bool:
    """Whether a parameter's matrix is stored [in, out] (transformers' Conv1D, in GPT and GPT-2)."""
    return str(config.model_type) in ("gpt2", "openai-gpt") and bool(re.search(r"\.(?:c_attn|c_proj|c_fc)\.", name))


def text_config(config: Any) -> Any:
    """The configuration of the text decoder: the configuration itself, or the part a multimodal model has for it."""
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def of_block(config: Any, layer: int) -> Any:
    """The configuration of one block: the model's own, or where blocks differ in a field (Gemma 4), that block's."""
    differ = getattr(config, "is_heterogeneous", False)
    return config.per_layer_config[layer] if differ else config


def frequency_turn(config: object) -> int | None:
    """Length beyond which the rotary frequencies of a whole batch change (`longrope`); None where they do not.

    transformers picks them by the longest item of a batch, so an item's numbers would depend on its neighbours.
    """
    text = text_config(config)
    given = getattr(text, "rope_parameters", None) or {}
    kinds = [given, *(v for v in given.values() if isinstance(v, dict))]
    own = getattr(text, "original_max_position_embeddings", None)
    turns = [k.get("original_max_position_embeddings", own) for k in kinds if k.get("rope_type") == "longrope"]
    return int(turns[0]) if turns and turns[0] is not None else None


def number(config: object, *names: str) -> int | None:
    """The first of these fields that is stated, as one number (a list that repeats one number is that number)."""
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, Sequence) and not isinstance(value, str):
            value = value[0] if len(set(value)) == 1 else None
        if isinstance(value, (int, float)):
            return int(value)
    return None


def n_layers(config: object) -> int | None:
    """Number of blocks."""
    return number(config, "num_hidden_layers", "n_layer", "n_layers", "num_layers")


def n_heads(config: object) -> int:
    """Number of query heads; 0 in a family without attention."""
    return number(config, "num_attention_heads", "n_head", "n_heads", "num_heads") or 0


def n_kv_heads(config: object) -> int:
    """Number of key and value heads."""
    heads = n_heads(config)
    kind = str(getattr(config, "model_type", ""))
    if kind == "falcon" and not getattr(config, "new_decoder_architecture", False):
        return 1 if getattr(config, "multi_query", False) else heads
    if kind == "gpt_bigcode":
        return 1 if getattr(config, "multi_query", False) else heads
    attention = getattr(config, "attn_config", None)
    return number(config, "num_key_value_heads", "num_kv_heads") or number(attention, "kv_n_heads") or heads


def d_mlp(config: object) -> int:
    """Width of the MLP's inside: of the dense one, or of the first block where blocks differ."""
    width = number(config, "hidden_size", "n_embd", "d_model") or 0
    found = number(config, "intermediate_size", "n_inner", "ffn_hidden_size", "ffn_dim", "moe_intermediate_size")
    return found or int(width * float(getattr(config, "expansion_ratio", 4) or 4))


def n_ctx(config: object) -> int | None:
    """Longest input in tokens; None where the family states no limit (recurrent ones, ALiBi)."""
    return number(config, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length")


def d_head(config: object) -> int:
    """Width of one head's query; 0 where the configuration does not say."""
    heads, width = n_heads(config), number(config, "hidden_size", "n_embd", "d_model") or 0
    return number(config, "head_dim", "attention_head_dim") or (width // heads if heads else 0)


def logit_scale(config: object) -> float:
    """The factor between the unembedding's output and the logits (Cohere, Granite, Falcon-H1, ...)."""
    kind = str(getattr(config, "model_type", ""))
    if kind.startswith("cohere"):
        return float(getattr(config, "logit_scale", None) or 1.0)
    if kind == "falcon_h1":
        return float(getattr(config, "lm_head_multiplier", None) or 1.0)
    if kind == "hyperclovax":
        return float(getattr(config, "logits_scaling", None) or 1.0)
    return 1.0 / float(getattr(config, "logits_scaling", None) or 1.0)


def logit_cap(config: object) -> float | None:
    """The soft cap on the logits, if the family has one."""
    for name in ("final_logit_softcapping", "logits_soft_cap"):
        value = getattr(config, name, None)
        if value is not None:
            return float(value)
    return None


def embedding_multiplier(config: object) -> float:
    """The factor between the embedding's output and the first residual state, where a family states one."""
    for name in ("embedding_multiplier", "scale_emb"):
        value = getattr(config, name, None)
        if isinstance(value, (int, float)):
            return float(value)
    return 1.0


def multipliers(config: object, kind: str) -> tuple[float, ...]:
    """Factors by which a family may scale what a part adds to the residual stream, 1 last."""
    named = {
        "attn_out": ("attention_out_multiplier", "residual_multiplier"),
        "mixer_out": ("ssm_out_multiplier", "residual_multiplier"),
        "mlp_out": ("residual_multiplier",),
    }
    stated = [getattr(config, name, None) for name in named[kind]]
    return tuple(dict.fromkeys([*(float(v) for v in stated if isinstance(v, (int, float))), 1.0]))


def split_heads(config: object, fused: str, width: int) -> Mapping[str, list[int]] | None:
    """Which outputs of a fused projection are q, k and v; None where this fusion is not known.

    Args:
        config: of the model.
        fused: name of the projection.
        width: number of its outputs.
    """
    heads, kv = n_heads(config), n_kv_heads(config)
    if heads == 0 or fused not in FUSED:
        return None
    kind = str(getattr(config, "model_type", ""))
    d = width // (heads + 2 * kv)
    if width != d * (heads + 2 * kv):
        return None
    if kind == "codegen":
        return _codegen(heads, d)
    grouped = kind in ("gpt_neox", "gpt_neox_japanese", "bloom", "persimmon") or (kind == "gpt_bigcode" and kv == heads)
    if grouped or kind == "falcon":
        return _grouped(heads, kv, d)
    rows = list(range(width))
    return {"q": rows[: heads * d], "k": rows[heads * d : (heads + kv) * d], "v": rows[(heads + kv) * d :]}


def _grouped(heads: int, kv: int, d: int) -> dict[str, list[int]]:
    """[kv head, (its query heads, k, v), d_head]."""
    size = heads // kv
    start = [g * (size + 2) * d for g in range(kv)]
    return {
        "q": [s + i for s in start for i in range(size * d)],
        "k": [s + size * d + i for s in start for i in range(d)],
        "v": [s + (size + 1) * d + i for s in start for i in range(d)],
    }


def _codegen(heads: int, d: int) -> dict[str, list[int]]:
    """Four shares of [query, value, key], each of a quarter of the heads."""
    share = heads * d // 4
    columns = [[m * 3 * share + part * share + i for m in range(4) for i in range(share)] for part in range(3)]
    return {"q": columns[0], "v": columns[1], "k": columns[2]}
