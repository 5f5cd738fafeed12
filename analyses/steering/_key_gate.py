"""A gate on keys: a linear probe fitted on some items, its threshold set on others, its neurons ranked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from analyses.steering._arms import direction, stream
from analyses.steering._neurons import highest
from probe.errors import InputError
from probe.lazily import sklearn

if TYPE_CHECKING:
    from probe import Model, Prompts, TokenBatch

RIDGE = 1.0  # per fitted item, on standardised keys: shrinks enough where there are more keys than items


@dataclass(frozen=True)
class KeyGate:
    """A linear score of keys, standardised on the items it was fitted on."""

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray

    def score(self, keys: np.ndarray) -> np.ndarray:
        """s(x) of each row of keys."""
        return (keys - self.mean) / self.scale @ self.weights


def keys_at(model: Model, batches: Sequence[TokenBatch], layer: int) -> dict[str, np.ndarray]:
    """Keys at each id's last prompt token (the prompt is the same for all kinds of answer)."""
    found: dict[str, np.ndarray] = {}
    for batch in batches:
        values = model.run(batch, [f"mlp_post.{layer}"], logits="none")[f"mlp_post.{layer}"]
        last = values[torch.arange(len(batch)), batch.last_prompt.to(values.device)].double().cpu().numpy()
        found |= {item.id: last[row] for row, item in enumerate(batch.items)}
    return found


def parts(prompts: Prompts, groups: Sequence[str], seed: int) -> dict[str, str]:
    """What each id is for: `fit` and `measure` for targets; `fit`, `calibrate` and `measure` for controls."""
    found: dict[str, str] = {}
    for group in prompts.groups:
        ids = list(dict.fromkeys(i.id for i in prompts.items if i.group == group))
        uses = ("fit", "measure") if group in groups else ("fit", "calibrate", "measure")
        if len(ids) < len(uses):
            raise InputError(f"an empty split: group {group!r} has {len(ids)} item(s), needed for {', '.join(uses)}")
        order = torch.randperm(len(ids), generator=stream(seed, "audit", group)).tolist()
        found |= {ids[i]: uses[place % len(uses)] for place, i in enumerate(order)}
    return found


def labelled(
    keys: dict[str, np.ndarray], part: dict[str, str], prompts: Prompts, groups: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Keys of the items to fit on, and which of them are targets."""
    group = {item.id: item.group for item in prompts.items}
    names = sorted(name for name, use in part.items() if use == "fit")
    return np.stack([keys[name] for name in names]), np.array([group[name] in groups for name in names])


def fitted(x: np.ndarray, is_target: np.ndarray) -> KeyGate:
    """The ridge probe; both classes weigh the same."""
    scale = x.std(0)
    scale[scale == 0] = 1.0
    weight = np.where(is_target, 1 / is_target.sum(), 1 / (~is_target).sum())
    ridge = sklearn.linear_model.Ridge(alpha=RIDGE * len(x), solver="cholesky")
    ridge.fit((x - x.mean(0)) / scale, np.where(is_target, 1.0, -1.0), sample_weight=weight / weight.mean())
    return KeyGate(x.mean(0), scale, np.asarray(ridge.coef_, float))


def threshold_of(
    gate: KeyGate, keys: dict[str, np.ndarray], part: dict[str, str], quantile: float, given: float | None
) -> tuple[float, list[str]]:
    if given is not None:
        return given, []
    scores = gate.score(np.stack([keys[n] for n in sorted(keys) if part[n] == "calibrate"]))
    n = len(scores)
    note = f"only {n} control items set the threshold, their largest score: expect 1 in {n + 1} others to exceed it"
    return tau_of(scores, quantile), [note] if n * (1 - quantile) < 1 else []


def tau_of(scores: np.ndarray, quantile: float) -> float:
    """The smallest score that at least this share of the control scores does not exceed.

    Of n control scores a new one exceeds the largest with probability 1 / (n + 1).
    """
    return float(np.quantile(scores, quantile, method="higher"))


def ranked(gate: KeyGate, x: np.ndarray, is_target: np.ndarray, top_n: int) -> Tensor:
    """Mask of the neurons that carry most of the probe's difference between the groups it was fitted on."""
    carried = gate.weights * (x[is_target].mean(0) - x[~is_target].mean(0)) / gate.scale
    return highest(torch.from_numpy(carried), top_n)


def random_gate(gate: KeyGate, seed: int, draw: int) -> KeyGate:
    drawn = direction(len(gate.weights), seed, "gate", draw).double().numpy()
    return KeyGate(gate.mean, gate.scale, drawn * np.linalg.norm(gate.weights))
