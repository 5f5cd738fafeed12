"""Which tokens' states stand for an item: names that options and the reader share. Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

Pooling: TypeAlias = Literal[
    "last_prompt", "mean_prompt", "mean", "answer_first", "answer", "answer_last", "rationale"
]  # fmt: skip
"""`last_prompt`: the last prompt token. `mean_prompt`, `mean`: over the prompt's, all tokens. `answer_first`,
`answer_last`: the state that predicts the first, last token of the answer; `answer`, `rationale`: the mean over states
that predict its tokens."""

OF_PROMPT = ("last_prompt", "mean_prompt")
"""Poolings that are the same whatever the answer is."""


def pooled_sites(_: Mapping[str, Any]) -> tuple[str, ...]:
    """What `pooled_states` reads: the embedding and what every block leaves."""
    return "resid_pre.0", "resid_post"
