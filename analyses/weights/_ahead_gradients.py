"""Heads that predict tokens further ahead, fitted to a policy's states, and the gradient of their loss by the policy.

A head for the token `ahead` after the next one maps the last residual state h to logits W_U N(h M), with the policy's
own final norm N and unembedding W_U, as multi-token modules share them; M [d, d] starts at 1 and is fitted to the
log's tokens with the policy held fixed, stopped where a fifth of them, kept out, is predicted best. Items are halved:
what is differentiated on one half was fitted on the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.core.progress import progress
from analyses.weights._item_gradients import Gradients, Leaves
from analyses.weights._log_gradients import of_log, responses
from probe.errors import InputError
from probe.lazily import torch

if TYPE_CHECKING:
    from torch import Tensor

    from analyses.core.reading.teacher_forced import Scored
    from probe import Model, Rollouts, TokenBatch

MOST = 2048  # tokens a head is fitted to
RATE = 3e-3
EVERY = 5  # steps between looks at what is kept out


@dataclass(frozen=True)
class Heads:
    """One head a half of the items, and how they do on the half they were not fitted to.

    Attributes:
        of_item: the head for each item, fitted without it.
        nll_nats: mean negative log-likelihood of the heads on items they have not seen.
        frequency_nats: that of the frequencies of tokens in the other half: what knows no state.
    """

    of_item: dict[str, Tensor]
    nll_nats: float
    frequency_nats: float


def logits_ahead(policy: Model, states: Tensor, head: Tensor) -> Tensor:
    """Logits of the token further ahead, differentiable by states, head, final norm and unembedding."""
    return policy.backend.head(policy.backend.final_norm((states.float() @ head).to(policy.dtype))).float()


def pairs(states: Tensor, targets: Tensor, column: Tensor, ahead: int) -> tuple[Tensor, Tensor, Tensor]:
    """States, ids of the token `ahead` after the one each predicts, and its place; gaps of a mask make no pair."""
    end = max(len(targets) - ahead, 0)
    kept = (column[ahead:] - column[:end] == ahead).nonzero()[:, 0]
    return states[kept], targets[kept + ahead], kept


def fitted(policy: Model, log: Rollouts, ahead: int, steps: int, seed: int) -> Heads:
    """Heads fitted to a log.

    Raises:
        InputError: fewer than two items with a token that far ahead.
    """
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for item, (_, states, targets, column) in responses(policy, log, lambda b, t: states_of(policy, b, t)):
        x, y, _ = pairs(states.detach(), targets, column, ahead)
        if len(y):
            found.setdefault(item, []).append((x, y))
    items = sorted(found)
    if len(items) < 2:
        raise InputError(f"ahead={ahead}: fewer than two items of {log.source} have a token that far ahead")
    is_first = np.zeros(len(items), bool)
    is_first[np.random.default_rng(seed).permutation(len(items))[: len(items) // 2]] = True
    halves = [[k for k, f in zip(items, is_first, strict=True) if f == side] for side in (True, False)]
    data = [_joined([p for i in half for p in found[i]]) for half in halves]
    of_item: dict[str, Tensor] = {}
    scored: list[tuple[float, float, int]] = []
    for number, half in enumerate(halves):
        seen, new = data[1 - number], data[number]
        head = _fit(policy, *seen, steps, seed)
        of_item |= dict.fromkeys(half, head)
        scored.append((_nll(policy, *new, head), _frequency(policy, seen[1], new[1]), len(new[1])))
    total = sum(n for _, _, n in scored)
    own, by_frequency = (sum(s[k] * s[2] for s in scored) / total for k in (0, 1))
    return Heads(of_item, float(own), float(by_frequency))


def _joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def states_of(policy: Model, batch: TokenBatch, tokens: Scored, *, grad: bool = False) -> tuple[Tensor, ...]:
    """Last residual states where the tokens are predicted, their ids and columns."""
    last = str(policy.last_state)
    trace = policy.run(batch, read=[last], logits="none", grad=grad)
    return tokens.rows(trace[last]), tokens.target.to(policy.device), tokens.column.to(policy.device)


def of_heads(
    policy: Model, log: Rollouts, leaves: Leaves, dims: int, seed: int, heads: Heads, ahead: int, *, is_policy: bool
) -> tuple[Gradients, np.ndarray]:
    """The gradient of every response's mean log-likelihood of tokens further ahead, and the item of each.

    Args:
        policy: read, not changed.
        log: with ids (and advantages).
        leaves: with respect to what; the heads stay as they are.
        dims: of the sketch, as in `collected`.
        seed: of the sketch.
        heads: fitted to the log.
        ahead: tokens beyond the next.
        is_policy: times the response's advantage (a policy loss), instead of the likelihood alone.
    """
    advantages = log.advantages()["advantage"].to_numpy(float)
    items = log.index["item"].astype(str).to_numpy()

    def objective(row: int, states: Tensor, targets: Tensor, column: Tensor) -> Tensor:
        x, y, _ = pairs(states, targets, column, ahead)
        if not len(y):
            return states.sum() * 0.0  # nothing that far ahead: no pull
        logp = logits_ahead(policy, x, heads.of_item[items[row]]).log_softmax(-1).gather(-1, y[:, None])
        return (advantages[row] if is_policy else 1.0) * logp.mean()

    return of_log(policy, log, leaves, dims, seed, objective, lambda b, t: states_of(policy, b, t, grad=True))


def _fit(policy: Model, states: Tensor, targets: Tensor, steps: int, seed: int) -> Tensor:
    """M by Adam on at most `MOST` tokens, from 1; of all steps the one that predicts a fifth of them kept out best."""
    stream = torch.Generator().manual_seed(seed)
    at = torch.randperm(len(targets), generator=stream)[:MOST].to(targets.device)
    x, y, out = states[at].float(), targets[at], len(at) // 5
    one = torch.eye(x.shape[1], device=x.device)
    move = torch.zeros_like(one, requires_grad=True)
    optimizer = torch.optim.Adam([move], RATE)
    best, least = one, _nll(policy, x[:out], y[:out], one) if out else np.inf
    for step in progress(range(steps), "fitting a head", total=steps):
        loss = torch.nn.functional.cross_entropy(logits_ahead(policy, x[out:], one + move), y[out:])
        (move.grad,) = torch.autograd.grad(loss, [move])
        optimizer.step()
        if out and step % EVERY == EVERY - 1 and (now := _nll(policy, x[:out], y[:out], (one + move).detach())) < least:
            best, least = (one + move).detach(), now
    return best if out else (one + move).detach()


def _nll(policy: Model, states: Tensor, targets: Tensor, head: Tensor) -> float:
    with torch.no_grad():
        total = [
            torch.nn.functional.cross_entropy(logits_ahead(policy, x, head), y, reduction="sum")
            for x, y in zip(states.split(256), targets.split(256), strict=True)
        ]
    return float(sum(float(t) for t in total) / len(targets))


def _frequency(policy: Model, seen: Tensor, new: Tensor) -> float:
    """NLL of new tokens by how often each was seen, half a count added to every one."""
    counts = torch.bincount(seen, minlength=policy.shape.d_vocab).double() + 0.5
    return -float((counts / counts.sum()).log()[new].mean())


def notes(heads: Heads, ahead: int) -> list[Any]:
    """Whether the heads know anything about the states they read."""
    if heads.nll_nats < heads.frequency_nats:
        return []
    return [
        f"heads {ahead} further ahead predict new items at {heads.nll_nats:.3g} nats a token, frequencies alone at "
        f"{heads.frequency_nats:.3g}: their gradient says little of what a trained head would"
    ]
