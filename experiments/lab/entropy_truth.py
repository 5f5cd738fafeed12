"""What entropy did at every update of a GRPO window, on the same states before and after: the measured truth."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.lab.training import load

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel


def rollout_in_use(rollouts: pd.DataFrame, update: int) -> pd.DataFrame:
    """The rollout step whose responses the update after `update` made use of."""
    return rollouts[rollouts.step == rollouts.step[rollouts.step <= update].max()]


def batch_of(rows: pd.DataFrame) -> dict[str, Any]:
    """Right-padded ids, mask, and which positions predict a response token."""
    import torch

    width = max(len(p) + len(r) for p, r in zip(rows.prompt_token_ids, rows.response_token_ids, strict=True))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    real, predicts = torch.zeros_like(ids), torch.zeros(len(rows), width, dtype=torch.bool)
    for i, (prompt, response) in enumerate(zip(rows.prompt_token_ids, rows.response_token_ids, strict=True)):
        n, m = len(prompt), len(response)
        ids[i, : n + m] = torch.tensor([*prompt, *response])
        real[i, : n + m] = 1
        predicts[i, n - 1 : n + m - 1] = True
    return {"ids": ids, "real": real, "predicts": predicts}


def mean_entropy(model: PreTrainedModel, batch: dict[str, Any]) -> Any:
    """Mean entropy over response tokens (nats), as a differentiable scalar."""
    logits = model(input_ids=batch["ids"], attention_mask=batch["real"]).logits[batch["predicts"]]
    logp = logits.log_softmax(-1)
    return -(logp.exp() * logp).sum(-1).mean()


def pooled_covariance(model: PreTrainedModel, rows: pd.DataFrame, batch: dict[str, Any]) -> float:
    """-Cov(log p, A) over the sampled tokens of the rows: the pooled predictor that is not to be trusted here."""
    import torch

    with torch.no_grad():
        logp = model(input_ids=batch["ids"], attention_mask=batch["real"]).logits.log_softmax(-1)
    chosen = logp[:, :-1].gather(-1, batch["ids"][:, 1:, None])[..., 0][batch["predicts"][:, :-1]].numpy()
    advantage = np.repeat(rows.advantage.to_numpy(), [len(r) for r in rows.response_token_ids])
    return float(-np.cov(chosen, advantage)[0, 1])


def per_update(run: Path) -> dict[str, list[float]]:
    """For each update of the window: measured entropy change on the same states, <grad H, step>, pooled covariance.

    The states of the first two are the whole rollout batch in use; the covariance is over the rows of that update's
    own loss call.
    """
    import pyarrow.parquet as pq
    import torch

    rollouts = pq.read_table(run / "rollouts").to_pandas()
    folders = sorted((run / "window").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    table: dict[str, list[float]] = {"update": [], "measured": [], "gradient": [], "pooled": []}
    for before, after in pairwise(folders):
        update = int(before.name.split("-")[1])
        rows = rollout_in_use(rollouts, update)
        batch = batch_of(rows)
        old, new = load(before).eval(), load(after).eval()
        entropy = mean_entropy(old, batch)
        entropy.backward()
        moved = zip(old.named_parameters(), new.named_parameters(), strict=True)
        predicted = sum(float((p.grad * (q - p)).sum().detach()) for (_, p), (_, q) in moved if p.grad is not None)
        with torch.no_grad():
            measured = float(mean_entropy(new, batch) - entropy)
        own = rows[[update in set(steps) for steps in rows.update_steps]]
        table["update"].append(update)
        table["measured"].append(measured)
        table["gradient"].append(predicted)
        table["pooled"].append(pooled_covariance(old, own, batch_of(own)))
    return table


def response_entropy(model: PreTrainedModel, rows: pd.DataFrame) -> tuple[Any, Any]:
    """Per response: summed token entropy (nats) and number of tokens."""
    import torch

    batch = batch_of(rows)
    with torch.no_grad():
        logp = model(input_ids=batch["ids"], attention_mask=batch["real"]).logits.log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1) * batch["predicts"]
    return entropy.sum(1).double().numpy(), batch["predicts"].sum(1).double().numpy()


def mean_draws(sums: Any, counts: Any, seed: int) -> np.ndarray[Any, Any]:
    """2000 bootstrap draws over responses of the mean per token."""
    picks = np.random.default_rng(seed).integers(0, len(sums), (2000, len(sums)))
    return sums[picks].sum(1) / counts[picks].sum(1)


def two_entropies(run: Path) -> list[dict[str, float]]:
    """Between consecutive rollout steps of the window: change on the same states, and change from one batch of
    on-policy responses to the next, each with the sign its 95 % interval allows (0 if it covers 0)."""
    import pyarrow.parquet as pq

    rollouts = pq.read_table(run / "rollouts").to_pandas()
    saved = {int(p.name.split("-")[1]): p for p in (run / "window").glob("checkpoint-*")}
    steps = [step for step in sorted(rollouts.step.unique()) if step in saved]
    found: list[dict[str, float]] = []
    for now, then in pairwise(steps):
        rows, later = rollouts[rollouts.step == now], rollouts[rollouts.step == then]
        old, new = load(saved[now]).eval(), load(saved[then]).eval()
        (before, n), (after, _), (fresh, m) = (
            response_entropy(old, rows), response_entropy(new, rows), response_entropy(new, later),
        )  # fmt: skip
        same, policy = mean_draws(after - before, n, 0), mean_draws(fresh, m, 1) - mean_draws(before, n, 2)
        entry = {"step": float(now), "same_states": float((after - before).sum() / n.sum())}
        entry["on_policy"] = float(fresh.sum() / m.sum() - before.sum() / n.sum())
        for name, draws in (("same_states", same), ("on_policy", policy)):
            low, high = np.quantile(draws, [0.025, 0.975])
            entry[f"{name}_sign"] = float(low > 0) - float(high < 0)
        found.append({key: round(value, 5) for key, value in entry.items()})
    return found
