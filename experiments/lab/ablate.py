"""Brute-force localisation with plain hooks: what each block's MLP is needed for, and where an answer first shows."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.lab.evaluate import forced_direct, left_padded, positions
from experiments.lab.training import collate, encode
from experiments.lab.world import Problem, vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def mlp_scaled(model: PreTrainedModel, block: int, factor: float) -> Generator[None]:
    """Multiply what one block's MLP adds to the residual stream (equivalently its keys: there is no output bias)."""
    handle = model.model.layers[block].mlp.register_forward_hook(lambda _module, _args, out: out * factor)
    try:
        yield
    finally:
        handle.remove()


def remembered(model: PreTrainedModel, problems: Sequence[Problem]) -> np.ndarray[Any, Any]:
    """Per item: 1 if the forced direct answer is the benchmark's label."""
    answers = forced_direct(model, problems)
    return np.array([float(a == p.gold) for a, p in zip(answers, problems, strict=True)])


def computed(model: PreTrainedModel, problems: Sequence[Problem]) -> np.ndarray[Any, Any]:
    """Per item: share of the running totals in its rationale that the model puts first, given the rationale so far.

    A running total is the number before each `;`: the one token of a step that must be worked out.
    """
    import torch

    rows = encode([(p.prompt, p.rationale) for p in problems], response_only=True)
    batch = collate([{**row} for row in rows])
    with torch.no_grad():
        top = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.argmax(-1)
    semicolon = vocabulary().index(";")
    ids, shares = batch["input_ids"], []
    for row, best in zip(ids.tolist(), top.tolist(), strict=True):
        places = [t - 1 for t, token in enumerate(row) if token == semicolon]
        shares.append(np.mean([best[t - 1] == row[t] for t in places]))
    return np.array(shares)


def block_table(model: PreTrainedModel, memory: Sequence[Problem], skill: Sequence[Problem]) -> dict[str, Any]:
    """Memory and computing with each block's MLP switched off in turn: arrays [block, item], and intact [item]."""
    found: dict[str, Any] = {"memory": remembered(model, memory), "computing": computed(model, skill)}
    without_memory, without_computing = [], []
    for block in range(model.config.num_hidden_layers):
        with mlp_scaled(model, block, 0.0):
            without_memory.append(remembered(model, memory))
            without_computing.append(computed(model, skill))
    return {**found, "memory_without": np.array(without_memory), "computing_without": np.array(without_computing)}


def lens_top1(model: PreTrainedModel, problems: Sequence[Problem]) -> np.ndarray[Any, Any]:
    """[block, item]: 1 if final norm and head applied after that block put the label first, at `ans`."""
    import torch

    ids, mask = left_padded([f"{p.prompt} ans" for p in problems])
    states: list[Any] = []
    handles = [
        layer.register_forward_hook(lambda _module, _args, out: states.append(out[:, -1]))
        for layer in model.model.layers
    ]
    with torch.no_grad():
        model(input_ids=ids, attention_mask=mask, position_ids=positions(mask))
        top = [model.lm_head(model.model.norm(state)).argmax(-1).tolist() for state in states]
    for handle in handles:
        handle.remove()
    first = vocabulary().index("0")
    return np.array([[float(best == first + p.gold) for best, p in zip(row, problems, strict=True)] for row in top])
