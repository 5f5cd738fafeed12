"""Plain measurements of a lab model: accuracy by greedy decoding, forced answers, and NLL by part of the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from experiments.lab import tokenizer as words
from experiments.lab.world import STYLE_WORDS, Problem

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from transformers import PreTrainedModel


class Decoded(NamedTuple):
    """A response: its text, its final number (None if it is not well formed), and whether it answered at once."""

    text: str
    answer: int | None
    direct: bool


def parse(text: str) -> Decoded:
    """Read a response. Well formed is `ans Z`, or `think ... ; ans Z`, with nothing after Z."""
    tokens = text.split()
    well_formed = len(tokens) >= 2 and tokens[-2] == "ans" and tokens[-1].isdigit() and tokens.count("ans") == 1
    direct = bool(tokens) and tokens[0] == "ans"
    well_formed = well_formed and (len(tokens) == 2 if direct else tokens[0] == "think")
    return Decoded(text, int(tokens[-1]) if well_formed else None, direct)


def left_padded(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    batch = words.build()(list(texts), padding=True, return_tensors="pt")
    return batch["input_ids"], batch["attention_mask"]


def greedy(model: PreTrainedModel, problems: Sequence[Problem], suffix: str = "") -> list[Decoded]:
    """Greedy responses of the model in the mode it chooses itself (or after a forced `suffix`)."""
    import torch

    ids, mask = left_padded([f"{p.prompt} {suffix}".strip() for p in problems])
    with torch.no_grad():
        out = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=44, do_sample=False, eos_token_id=1, pad_token_id=0
        )
    texts = words.build().batch_decode(out[:, ids.shape[1] :], skip_special_tokens=False)
    return [parse(f"{suffix} {text.split('<eos>')[0]}".strip() if "<eos>" in text else "") for text in texts]


def forced_direct(model: PreTrainedModel, problems: Sequence[Problem]) -> list[int | None]:
    """The number the model puts first right after a forced `ans` (None if its first choice is not a number)."""
    import torch

    ids, mask = left_padded([f"{p.prompt} ans" for p in problems])
    with torch.no_grad():
        top = model(input_ids=ids, attention_mask=mask, position_ids=positions(mask)).logits[:, -1].argmax(-1)
    tokens = words.build().convert_ids_to_tokens(top.tolist())
    return [int(token) if token.isdigit() else None for token in tokens]


def positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(-1) - 1).clamp(min=0)


class Parts(NamedTuple):
    """Per item: summed NLL in nats and number of tokens of each part of `prompt + response + <eos>`."""

    prompt: np.ndarray
    n_prompt: np.ndarray
    mode: np.ndarray
    body: np.ndarray
    n_body: np.ndarray
    style: np.ndarray
    n_style: np.ndarray
    number: np.ndarray


def nll_parts(model: PreTrainedModel, problems: Sequence[Problem], responses: Sequence[str]) -> Parts:
    """Teacher-forced NLL: prompt (its first token is never scored), mode token, rest of the response without the end
    token, of that the style tokens, and the final number."""
    import numpy as np
    import torch
    from torch.nn.functional import cross_entropy

    from experiments.lab.training import collate, encode

    rows = encode([(p.prompt, r) for p, r in zip(problems, responses, strict=True)], response_only=True)
    batch = collate([{**row} for row in rows])
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    nll = cross_entropy(logits.transpose(1, 2), batch["input_ids"][:, 1:], reduction="none").double().numpy()
    style_ids = words.build().convert_tokens_to_ids(sorted(STYLE_WORDS))
    out = []
    for row, values in zip(rows, nll, strict=True):
        n_prompt = row["labels"].count(-100)
        ids, end = np.array(row["input_ids"]), len(row["input_ids"]) - 1
        body = slice(n_prompt, end - 1)
        is_style = np.isin(ids[n_prompt + 1 : end], style_ids)
        rest = values[body]
        out.append(
            (
                values[: n_prompt - 1].sum(),
                n_prompt - 1,
                values[n_prompt - 1],
                rest.sum(),
                len(rest),
                rest[is_style].sum(),
                int(is_style.sum()),
                values[end - 2],
            )
        )
    return Parts(*(np.array(column) for column in zip(*out, strict=True)))
