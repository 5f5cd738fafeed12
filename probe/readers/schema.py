"""Columns of a rollout log, what one value of each is, and which analyses read which."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

Shape = Literal["scalar", "token", "prompt", "segment", "topk"]

COLUMNS: dict[str, Shape] = {
    "run_id": "scalar",
    "policy_version": "scalar",
    "step": "scalar",
    "prompt_id": "scalar",
    "group_uid": "scalar",
    "prompt_token_ids": "prompt",
    "response_token_ids": "token",
    "response_mask": "token",
    "finish_reason": "scalar",
    "reward": "scalar",
    "reward_parts": "scalar",
    "advantage": "scalar",  # or one per token
    "adv_std_normalised": "scalar",
    "adv_eps": "scalar",
    "temperature": "scalar",
    "top_p": "scalar",
    "top_k": "scalar",
    "sampling_logp": "token",
    "old_logp": "token",
    "new_logp": "token",
    "ref_logp": "token",
    "logp_temperature": "scalar",
    "H": "token",
    "sum_p2": "token",
    "B": "token",
    "sum_p2_logp": "token",
    "max_logp": "token",
    "topk_ids": "topk",
    "topk_logp": "topk",
    "tail_mass": "token",
    "segment_starts": "segment",
    "segment_type": "segment",
    "segment_id": "segment",
    "segment_outcome": "segment",
    "micro_batch_id": "scalar",
    "clip_low": "scalar",
    "clip_high": "scalar",
    "loss_agg": "scalar",
    "lr": "scalar",
    "grad_norm": "scalar",
    "n_updates": "scalar",
    "group": "scalar",
    "tokenizer": "scalar",
    "update_steps": "scalar",
    "prompt_text": "scalar",
    "response_text": "scalar",
    "prompt_messages": "scalar",
    "response_messages": "scalar",
    "log_writer": "scalar",  # which trainer's own form the log had
    "n_prompt_tokens": "scalar",
}
"""What one value is: a number or text, or a list over tokens of the response, its segments, or the prompt."""

REQUIRED = (
    "run_id", "policy_version", "step", "prompt_id", "group_uid", "prompt_token_ids", "response_token_ids",
    "response_mask", "finish_reason", "reward", "advantage", "adv_std_normalised", "adv_eps", "temperature",
    "top_p", "top_k", "old_logp|sampling_logp",
)  # fmt: skip
"""A complete log has these (`a|b`: either). Less can be read; what is lacking rules analyses out by name."""

LOGP = ("old_logp", "sampling_logp", "new_logp")
FLOATS = (*LOGP, "ref_logp", "H", "sum_p2", "B", "sum_p2_logp", "max_logp", "tail_mass")
AT_TEMPERATURE = tuple(name for name in FLOATS if name != "tail_mass")
IDS = ("prompt_token_ids", "response_token_ids")

NEEDS: dict[str, tuple[str, ...]] = {
    "entropy": IDS,
    "entropy_change": IDS,
    "entropy_covariance": (*IDS, "advantage"),
    "entropy_attribution": (*IDS, "advantage"),
    "entropy_step": (*IDS, "advantage"),
    "forking_tokens": IDS,
    "semantic_entropy": IDS,
    "differential_entropy": IDS,
    "advantage_modulation": (*IDS, "advantage"),
}
"""What each analysis reads off a log; `a|b` means either."""


def lacking(names: Collection[str], needs: Collection[str]) -> list[str]:
    """The needs that these columns do not meet."""
    return [need for need in needs if not set(names) & set(need.split("|"))]


def ruled_out(names: Collection[str]) -> dict[str, list[str]]:
    """Columns that are not there, each with the analyses that this rules out."""
    out: dict[str, list[str]] = {}
    for analysis, needs in NEEDS.items():
        for need in lacking(names, needs):
            out.setdefault(need, []).append(analysis)
    return out
