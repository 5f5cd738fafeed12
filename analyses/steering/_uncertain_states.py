"""States with an entropy, and the directions in activation space that go with it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from analyses.core.progress import progress
from analyses.core.reading.readouts import entropy_nats, log_softmax
from analyses.core.reading.rollout_tokens import readable
from analyses.core.reading.votes import clusters
from probe.errors import InputError
from probe.prompts import SPANS, Encoded, Item, plan
from probe.replay import Metric

if TYPE_CHECKING:
    from probe import Model, Rollouts, Site, TokenBatch


@dataclass(frozen=True)
class UncertainStates:
    """What was read at the last token of each prompt.

    Attributes:
        z: activations.
        h: entropy in nats of what was done (or comes) next.
        episode: label of the episode of each state (optimizer step of a log, group of a prompt file).
    """

    z: Float[Tensor, "state d_model"]
    h: Float[Tensor, " state"]
    episode: tuple[str, ...]


def east(states: UncertainStates, *, is_centred: bool, by_episode: bool = False) -> Float[Tensor, " d_model"]:
    """Entropy-weighted mean of activations, sum h z / sum h, centred within each episode or not.

    Centred, an episode of constant h adds nothing. Multiplying h by a constant changes nothing.
    """
    z, h = states.z.double(), states.h.double()
    if is_centred:
        labels = states.episode if by_episode else ("",) * len(h)
        for label in set(labels):
            rows = torch.tensor([e == label for e in labels], device=z.device)
            z = torch.where(rows[:, None], z - z[rows].mean(0), z)
    total = h.sum()
    return ((h[:, None] * z).sum(0) / total if total > 0 else z[0] * 0).to(states.z)


def difference(states: UncertainStates, targets: Sequence[str]) -> Float[Tensor, " d_model"]:
    """Mean activation of the states of the target groups minus that of all others (plain activation addition)."""
    is_target = torch.tensor([e in targets for e in states.episode], device=states.z.device)
    if not bool(is_target.any()) or bool(is_target.all()):
        raise InputError(
            f"vector=difference needs targets that name some of the groups {sorted(set(states.episode))}, not all; "
            f"given {list(targets)}"
        )
    return states.z[is_target].mean(0) - states.z[~is_target].mean(0)


def states_of_prompts(model: Model, batches: Sequence[TokenBatch], site: Site) -> UncertainStates:
    """The prompts' last tokens with the model's own next-token entropy; one state per id, episodes are groups."""
    found: dict[str, tuple[Tensor, Tensor, str]] = {}
    for batch in progress(batches, "reading states", total=len(batches)):
        trace = model.run(batch, [site], logits="last")
        assert trace.logits is not None
        h = entropy_nats(log_softmax(trace.logits))
        z = trace[site][torch.arange(len(batch)), batch.last_prompt]
        for row, item in enumerate(batch.items):
            found[item.id] = (z[row].float(), h[row], item.group)
    rows = [found[name] for name in sorted(found)]
    return UncertainStates(
        torch.stack([r[0] for r in rows]), torch.stack([r[1] for r in rows]), tuple(r[2] for r in rows)
    )


def states_of_log(
    model: Model, rollouts: Rollouts, site: Site, pattern: str | None, batch_size: int
) -> UncertainStates:
    """The sampling groups of a log: the prompt's last token, the entropy over the answers sampled there.

    An answer is the group of the pattern's last match in a response (the whole text without a pattern); responses
    without a match are each an answer of its own.
    """
    if pattern is not None and re.compile(pattern).groups < 1:
        raise InputError(f"pattern {pattern!r} has no group (...) that holds the answer")
    prompts: dict[tuple[int, str], list[int]] = {}
    answers: dict[tuple[int, str], list[str | None]] = {}
    log = readable(rollouts, model)
    for rows, table in log.windows(["prompt_token_ids", "response_token_ids"]):
        columns = (table.column(name).to_pylist() for name in ("prompt_token_ids", "response_token_ids"))
        for step, uid, prompt, response in zip(rows["step"], rows["group_uid"], *columns, strict=True):
            key = (int(step), str(uid))
            prompts[key] = prompt
            answers.setdefault(key, []).append(_answer(model.tokenizer, response, pattern))
    beyond = [k for k, ids in prompts.items() if max(ids) >= model.shape.d_vocab]
    if beyond:
        raise InputError(f"{log.source}: prompt ids of {beyond[:3]} are not in this model's vocabulary; wrong model?")
    keys = sorted(prompts)
    z = _last_tokens(model, [prompts[k] for k in keys], site, batch_size)
    h = torch.tensor([plugin_entropy(answers[k]) for k in keys], device=z.device)
    return UncertainStates(z, h, tuple(f"step {step}" for step, _ in keys))


def _answer(tokenizer: Any, ids: Sequence[int], pattern: str | None) -> str | None:
    text = tokenizer.decode(ids, skip_special_tokens=True).strip()
    if pattern is None:
        return text
    found = list(re.finditer(pattern, text))
    return found[-1].group(1).strip() if found else None


def plugin_entropy(answers: Sequence[str | None]) -> float:
    """Entropy in nats of the observed shares of distinct answers (biased low for few samples), in [0, ln n]."""
    shares = [count / len(answers) for count in Counter(clusters(answers)).values()]
    return abs(-sum(p * math.log(p) for p in shares))


def _last_tokens(
    model: Model, prompts: Sequence[Sequence[int]], site: Site, batch_size: int
) -> Float[Tensor, "state d"]:
    span = SPANS.index("prompt")
    encoded = [Encoded(Item(str(n), "-", "-"), tuple(ids), (span,) * len(ids)) for n, ids in enumerate(prompts)]
    rows: dict[int, Tensor] = {}
    for batch in plan(encoded, batch_size, "left", model.pad_id, model.turn):
        values = model.run(batch, [site], logits="none")[site]
        last = values[torch.arange(len(batch)), batch.last_prompt].float()
        rows |= {int(item.id): last[n] for n, item in enumerate(batch.items)}
    return torch.stack([rows[n] for n in range(len(prompts))])


def last_token_entropy(batch: TokenBatch) -> Metric:
    """Entropy in nats of the next-token distribution at each item's last prompt token."""
    rows = torch.zeros_like(batch.mask)
    rows[torch.arange(len(rows), device=rows.device), batch.last_prompt] = True
    return Metric("entropy", "nats", rows, lambda logits, _item, _pos: entropy_nats(log_softmax(logits)))
