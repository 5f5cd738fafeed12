"""Every decoder family of transformers as a tiny random model: sizes by whatever name a configuration has for them."""

from __future__ import annotations

from typing import Any

from probe import families
from tests import tiny

LAYERS = 4
SIZES: dict[str, Any] = {
    # depth and width
    "num_hidden_layers": LAYERS, "n_layer": LAYERS, "n_layers": LAYERS, "num_layers": LAYERS, "hidden_size": 32,
    "n_embd": 32, "d_model": 32, "word_embed_proj_dim": 32, "max_position_embeddings": 128, "n_positions": 128,
    "max_seq_len": 128, "seq_length": 128,
    # attention
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4, "attention_heads": 4, "head_dim": 8,
    "num_key_value_heads": 2, "num_kv_heads": 2, "rotary_dim": 4, "sliding_window": 16, "window_size": 16,
    "attention_types": [[["global", "local"], 2]], "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 8, "qk_head_dim": 16, "index_head_dim": 8, "index_n_heads": 2, "index_topk": 4,
    "attention_chunk_size": 16, "layer_types": None, "global_head_dim": 8, "query_pre_attn_scalar": 8,
    # MLP and experts
    "intermediate_size": 48, "n_inner": 48, "ffn_dim": 48, "ffn_hidden_size": 48, "expansion_ratio": 2,
    "intermediate_size_mlp": 48, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4,
    "moe_num_experts": 4, "num_experts_per_tok": 2, "moe_k": 2, "moe_topk": 2, "top_k_experts": 2,
    "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24, "shared_intermediate_size": 24,
    "n_shared_experts": 1, "num_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
    # states from position to position
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "state_size": 8, "mamba_d_ssm": 32,
    "mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 1, "lru_width": 32, "expand": 2,
    "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
    "use_mamba_kernels": False,
    # the rest
    "vocab_size_per_layer_input": 320, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0, "laurel_rank": 4,
}  # fmt: skip

LINEAR = ["linear_attention", "full_attention"] * 2
MAMBA = ["mamba", "attention"] * 2
LOW_RANK = ("axk1", "axk2", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "longcat_flash", "youtu")
OWN: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "codegen": {"n_inner": None},
    "cohere": {"logit_scale": 0.3},
    "cohere2": {"logit_scale": 0.3, "layer_types": None},
    "deepseek_v2": {"topk_method": "greedy", "num_key_value_heads": 4, "head_dim": 8},
    **{family: {"num_key_value_heads": 4} for family in LOW_RANK},
    "deepseek_v3": {"num_key_value_heads": 4, "head_dim": 8},
    "falcon_h1": {"mamba_d_head": 8},
    "gemma2": {"attn_logit_softcapping": 1.0, "final_logit_softcapping": 2.0},
    "gemma3n_text": {"intermediate_size": [48] * LAYERS, "activation_sparsity_pattern": [0.0] * LAYERS,
                     "layer_types": ["sliding_attention", "full_attention"] * 2},
    "gemma4_text": {"global_head_dim": 16, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "gpt_neox": {},
    "granite": {"residual_multiplier": 0.5, "embedding_multiplier": 3.0, "logits_scaling": 2.0,
                "attention_multiplier": 0.2},
    "granitemoehybrid": {"layer_types": MAMBA, "residual_multiplier": 0.5},
    "llama4_text": {"interleave_moe_layer_step": 2, "no_rope_layers": [1, 1, 1, 0]},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 2},
    "lfm3": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "minicpm3": {"head_dim": 16, "num_key_value_heads": 4},
    "nemotron_h": {"layer_types": ["linear_attention", "moe", "full_attention", "mlp"]},
    "olmo_hybrid": {"layer_types": LINEAR},
    "phi": {"num_key_value_heads": 4},
    "qwen3_5_moe_text": {"layer_types": LINEAR},
    "qwen3_5_text": {"layer_types": LINEAR},
    "qwen3_next": {"layer_types": LINEAR},
    "zamba": {"layer_types": ["mamba", "hybrid"] * 2},
    "zaya": {"num_experts_per_tok": 1},
    **{f"{name}_text": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
       for name in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")},
    "smollm3": {"no_rope_layers": [1, 0, 1, 1]},
}  # fmt: skip
"""What a family needs beyond sizes."""

CAUSAL = (
    "afmoe", "apertus", "arcee", "aria_text", "axk1", "bailing_hybrid", "bamba", "bitnet", "bloom", "codegen",
    "cohere", "cohere2", "cwm", "deepseek_v2", "deepseek_v3", "diffllama", "doge", "dots1", "ernie4_5",
    "ernie4_5_moe", "exaone4", "falcon", "falcon_h1", "flex_olmo", "gemma", "gemma2", "gemma3", "gemma3_text",
    "gemma3n_text", "gemma4", "gemma4_text", "glm", "glm4", "glm4_moe", "glm4_moe_lite", "gpt2", "gpt_bigcode",
    "gpt_neo", "gpt_neox", "gpt_neox_japanese", "gpt_oss", "gptj", "granite", "granitemoe", "granitemoehybrid",
    "granitemoeshared", "helium", "hunyuan_v1_dense", "hunyuan_v1_moe", "internlm3", "jais2", "jamba", "jetmoe",
    "kimi_linear", "lfm2", "llama", "llama4_text", "llava", "mamba", "mamba2", "minicpm3", "minimax_m2",
    "ministral", "ministral3", "mistral", "mistral3", "mixtral", "mpt", "nanochat", "nemotron", "olmo", "olmo2",
    "olmo3", "olmo_hybrid", "olmoe", "opt", "persimmon", "phi", "phi3", "phimoe", "qwen2", "qwen2_5_vl",
    "qwen2_moe", "qwen3", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_moe", "qwen3_next", "qwen3_vl", "seed_oss",
    "smollm3", "smolvlm", "stablelm", "starcoder2", "vaultgemma", "xglm",
)  # fmt: skip
"""Families of the table in docs/families.md."""


DERIVED = ("bamba", "jamba", "falcon_h1", "recurrent_gemma")
"""Families that work their layer types out from other fields."""


LARGEST = 20_000_000
"""Numbers of a model that may still be called tiny."""


def config(family: str, vocab_size: int = 320, **changes: Any) -> Any:
    """A configuration of the family at tiny size, with all its parts: of `SIZES`, those it has a field for."""
    from transformers import AutoConfig

    given = _sizes(AutoConfig.for_model(family), vocab_size) | changes
    return AutoConfig.for_model(family, **given)


def _sizes(own: Any, vocab_size: int) -> dict[str, Any]:
    """What makes this configuration tiny, the parts of a multimodal one included."""
    family, own = own.model_type, families.of_block(own, 0)
    sizes = {n: v for n, v in SIZES.items() if (hasattr(own, n) or n == "head_dim") and v is not None}
    derived = isinstance(getattr(type(own), "layer_types", None), property) or family in DERIVED
    if not derived and getattr(own, "layer_types", None) is not None:
        sizes["layer_types"] = None  # made anew for this depth
    common = {"vocab_size": vocab_size, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    given = common | sizes | OWN.get(family, {})
    if family in ("falcon", "bloom", "mpt", "gptj", "codegen", "gpt_neo"):
        given.pop("head_dim", None)
    parts = {n: part for n in own.sub_configs if (part := getattr(own, n, None)) is not None}
    return given | {n: {"model_type": part.model_type, **_sizes(part, vocab_size)} for n, part in parts.items()}


def model(family: str, *, seed: int = 0, vocab_size: int = 320, **changes: Any) -> Any:
    """A random model of a family, norms and biases perturbed so that no identity holds by accident."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    made = config(family, vocab_size, **changes)
    whole = made.get_text_config() is not made and family not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    auto = AutoModelForImageTextToText if whole else AutoModelForCausalLM
    with torch.device("meta"):
        numbers = sum(p.numel() for p in auto.from_config(made).parameters())
    if numbers > LARGEST:
        raise ValueError(f"{family} has {numbers:,} parameters at these sizes")
    torch.manual_seed(seed)
    try:
        built = auto.from_config(made, attn_implementation="eager")
    except ValueError:  # a family with one kernel of its own
        built = auto.from_config(made)
    built = tiny.perturbed(built.float(), seed)
    with torch.no_grad():  # sizes that do not go together show here, not in what is tested
        built(input_ids=torch.zeros(1, 3, dtype=torch.long), use_cache=False)
    return built
