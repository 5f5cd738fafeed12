"""Every causal family of transformers: one analysis of each kind gives numbers or says in words why it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from analyses.core.running.run import run
from probe import Model, Prompts
from probe.backends import NAMES
from probe.errors import ProbeError
from tests import tiny, zoo

LARGE = {"blt", "xlstm", "musicgen", "musicgen_melody", "moshi", "whisper", "reformer", "moss_transcribe_diarize"}
"""Families whose configurations have no small size, or that read other things than token ids."""
SINGLE = ("perplexity", "logit_lens", "attention_entropy")
PAIRS = ("cross_patching", "path_patching", "weight_drift", "weight_reset")


def causal() -> list[str]:
    """Model types that transformers reads as causal language models."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - LARGE)


def built(family: str, seed: int) -> Any:
    try:
        return zoo.model(family, seed=seed)
    except (
        ValueError,
        TypeError,
        AttributeError,
        RuntimeError,
        KeyError,
        ImportError,
        IndexError,
        AssertionError,
    ) as no:
        pytest.skip(f"no tiny {family} from sizes alone: {type(no).__name__}: {str(no)[:200]}")


def rows() -> Prompts:
    return Prompts.of(
        [
            {"id": f"q{i}", "prompt": f"what is {i} plus {7 - i} ?", "answer": f" ans {i + 1}",
             "group": "leak" if i % 2 else "stable"}
            for i in range(6)
        ]
    )  # fmt: skip


@pytest.mark.verify
@pytest.mark.parametrize("name", causal())
def test_no_family_ends_in_a_raw_error(name: str) -> None:
    plain = built(name, 0)
    loaded = [m for b in NAMES if (m := _or_words(lambda b=b: Model.wrap(plain, tiny.word_tokenizer(), backend=b)))]
    if not loaded:
        return
    model, other = loaded[0], Model.wrap(built(name, 1), tiny.word_tokenizer(), check=False)
    ids = torch.arange(3, 9)[None]
    with torch.no_grad():
        want = plain(input_ids=ids, use_cache=False).logits
        for handle in loaded:
            got = handle.backend.head(handle.backend.forward(_tokens(ids), {}))
            assert torch.allclose(got, want, atol=1e-4)
    for analysis in SINGLE:
        _or_words(lambda a=analysis: run(a, model=model, prompts=rows()))
    for analysis in PAIRS:
        given = {} if analysis == "weight_drift" else {"prompts": rows()}
        _or_words(lambda a=analysis, g=given: run(a, base=model, tuned=other, **g))
    _or_words(lambda: model.generate(["what is 3 plus 7 ?"], max_new_tokens=3))


def _or_words(call: Callable[[], Any]) -> Any:
    """What it gives, or None where it is refused in words."""
    try:
        return call()
    except ProbeError:
        return None


def _tokens(ids: torch.Tensor) -> Any:
    from probe.backends import Tokens

    return Tokens(ids, torch.ones_like(ids).bool(), torch.arange(ids.shape[1])[None])
