"""How much of what tuning changed one added vector can do: the best one per layer, fitted to make base imitate tuned.

Definition: v is added to resid_post of one layer at every token of base, and fitted to lower KL(tuned, base + v) at the
    positions that predict the answer, over half of the items; on the other half share = 1 - sum KL(tuned, base + v)
    / sum KL(tuned, base): 1 where one vector is all that changed, 0 where it does nothing, below 0 where it harms; both
    halves in turn. Arms: fitted; mean_difference = mean h_tuned - h_base at those positions (what the fit starts from);
    random = a vector of the fitted one's length.
Units: share has none.
Source: arXiv 2505.18706, 2509.06608 (one trained vector per layer against full tuning).
Does not show: that tuning works by a vector: share says how much of the change of next-token distributions on this kind
    of item one imitates. The fit may stop short of the best vector (updates, rate).
Control: random vectors; a change that is a rotation of states, of which one vector can do little.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.figures import curve
from analyses.core.progress import progress
from analyses.core.result import Result
from analyses.core.stats import ratio_of_sums, widened
from analyses.core.work import Case, Work, passes
from probe import Edit
from probe.errors import InputError
from probe.lazily import torch

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from torch import Tensor

    from probe import Model, Prompts, TokenBatch

ARMS = ("fitted", "mean_difference", "random")
FEWEST = 8  # items
MOST = 0.5  # of the change: what "most of it" takes


def _work(case: Case) -> Work:
    """For every layer: the fit, a pass of both and base's gradient a step, and the scores of four arms, twice."""
    layers, steps = len(case.options["layers"]) or case.n_layers, int(case.options["updates"])
    fitted = passes(case, "none", times=2 * layers * (2 + 4 * steps + 8), models=1)
    return replace(fitted, unembedded=2 * layers * (4 * steps + 8) * case.padded)


@analysis(renamed={"steps": "updates"}, work=_work)
def tuning_vector(
    base: Model,
    tuned: Model,
    prompts: Prompts,
    *,
    layers: tuple[int, ...] = (),
    updates: int = 60,
    rate: float = 0.03,
    template: Literal["none", "chat"] = "none",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Share of the change of answer distributions that one added vector per layer recovers, on items not fitted.

    Rows, one per item, layer and arm: item, group, answer_kind, layer, arm, kl_nats (of base with the vector),
    kl_base_nats (of base), each summed over the answer's tokens, n_tokens. Arrays over [layer, arm]: share with
    interval over items.

    Args:
        layers: the vector is added after them.
        rate: in units of the mean norm of states divided by the root of d_model.
        seed: halves and random vectors.
    """
    warnings = reading.pair_warnings(base, tuned)
    moved = not warnings or bool(base.open_edits or tuned.open_edits)
    chosen = list(layers) or list(range(base.shape.n_layers))
    bad = [layer for layer in chosen if not 0 <= layer < base.shape.n_layers]
    if bad or updates < 0:
        there = f"layers 0 to {base.shape.n_layers - 1}"
        raise InputError(f"layers={chosen}, updates={updates}; expected {there}, and 0 or more updates")
    if len(prompts.items) < 4:
        raise InputError(f"{len(prompts.items)} items: at least 4 are needed, in two halves")
    batches = base.batches(prompts, batch_size=batch_size, template=template)
    first = _halves(prompts, seed)
    rows: list[dict[str, object]] = []
    for layer in progress(chosen, "tuning vectors", total=len(chosen)):
        for half in (True, False):
            fit = _Fit(base, tuned, layer, batches, first, half)
            rows += fit.rows(updates, rate, seed) if moved else fit.rows_of_nothing()
    table = pd.DataFrame(rows).sort_values(["item", "answer_kind", "layer", "arm"], kind="stable")
    data = _shares(table)
    return Result.of(table, data, claims=[_claim(data, len(chosen))], warnings=warnings)


def _halves(prompts: Prompts, seed: int) -> dict[str, bool]:
    """A random half of the items, each group halved."""
    ids = sorted({i.id for i in prompts.items})
    rng = np.random.default_rng(seed)
    groups = {i.id: i.group for i in prompts.items}
    out: dict[str, bool] = {}
    for name in sorted(set(groups.values())):
        own = rng.permutation([i for i in ids if groups[i] == name])
        out |= {str(i): n % 2 == 0 for n, i in enumerate(own)}
    return out


class _Fit:
    """One layer's vector, fitted on one half of the items and scored on the other."""

    def __init__(
        self, base: Model, tuned: Model, layer: int, batches: list[TokenBatch], first: dict[str, bool], half: bool
    ) -> None:
        self.base, self.tuned, self.layer, self.batches = base, tuned, layer, batches
        self.first, self.half = first, half
        self.site = f"resid_post.{layer}"

    def _tokens(self, batch: TokenBatch, fitted: bool) -> Any:
        """Answer tokens of the items that are fitted to, or of those that are not."""
        own = torch.tensor([self.first[i.id] == self.half for i in batch.items], device=batch.ids.device)
        tokens = reading.scored(batch)
        return tokens.where(tokens.in_span("rationale", "answer") & (own[tokens.item] == fitted))

    def kl(self, batch: TokenBatch, vector: Tensor | None, fitted: bool, grad: bool = False) -> tuple[Tensor, Any]:
        """KL(tuned, base + vector) at each of those tokens, and the tokens."""
        tokens = self._tokens(batch, fitted)
        edits = [] if vector is None else [Edit(self.base.site(self.site), lambda x: x + vector.to(x))]
        ours = self.base.run(batch, edits=edits, logits="all", grad=grad).logits
        theirs = self.tuned.run(batch, logits="all").logits
        q, p = (tokens.rows(z).float().log_softmax(-1) for z in (ours, theirs))
        return (p.exp() * (p - q)).sum(-1), tokens

    def mean_difference(self) -> tuple[Tensor, float]:
        """Mean h_tuned - h_base at the fitted items' answer positions, and the mean norm of base's states there."""
        total, size, count = torch.zeros(self.base.shape.d_model, device=self.base.device), 0.0, 0
        for batch in self.batches:
            tokens = self._tokens(batch, True)
            states = (m.run(batch, read=[self.site], logits="none")[self.site] for m in (self.base, self.tuned))
            a, b = (tokens.rows(h).float() for h in states)
            total, size, count = total + (b - a).sum(0), size + float(a.norm(dim=-1).sum()), count + len(a)
        return total / max(count, 1), size / max(count, 1)

    def fitted(self, start: Tensor, size: float, steps: int, rate: float) -> Tensor:
        """The vector after so many steps of Adam, all batches in each."""
        vector = start.clone().requires_grad_()
        optimiser = torch.optim.Adam([vector], lr=rate * size / len(vector) ** 0.5)
        best, least = start, float("inf")
        for _ in range(steps + 1):
            optimiser.zero_grad()
            total, count = 0.0, 0
            for batch in self.batches:
                kl, _ = self.kl(batch, vector, True, grad=True)
                if len(kl):
                    (gradient,) = torch.autograd.grad(kl.sum(), vector)
                    vector.grad = gradient if vector.grad is None else vector.grad + gradient
                    total, count = total + float(kl.detach().sum()), count + len(kl)
            if total < least:
                best, least = vector.detach().clone(), total
            if vector.grad is None:
                break
            vector.grad /= max(count, 1)
            optimiser.step()
        return best

    def rows(self, steps: int, rate: float, seed: int) -> list[dict[str, Any]]:
        """Scores of the held-out items under each arm."""
        start, size = self.mean_difference()
        best = self.fitted(start, size, steps, rate)
        noise = torch.randn(len(best), generator=torch.Generator().manual_seed(seed * 1000 + self.layer)).to(best)
        arms = {"fitted": best, "mean_difference": start, "random": noise / noise.norm() * best.norm()}
        return [row for batch in self.batches for row in self._scored(batch, arms)]

    def rows_of_nothing(self) -> list[dict[str, object]]:
        """The same of two equal checkpoints: nothing to recover."""
        return [row for batch in self.batches for row in self._scored(batch, dict.fromkeys(ARMS))]

    def _scored(self, batch: TokenBatch, arms: dict[str, Tensor | None]) -> list[dict[str, Any]]:
        plain, tokens = self.kl(batch, None, False)
        rows: list[dict[str, object]] = []
        for arm, vector in arms.items():
            kl = plain if vector is None else self.kl(batch, vector, False)[0]
            for number, item in enumerate(batch.items):
                own = tokens.item == number
                if bool(own.any()):
                    named = {"item": item.id, "group": item.group, "answer_kind": item.answer_kind, "layer": self.layer}
                    scores = {"kl_nats": float(kl[own].sum()), "kl_base_nats": float(plain[own].sum())}
                    rows.append({**named, "arm": arm, **scores, "n_tokens": int(own.sum())})
        return rows


def _shares(table: pd.DataFrame) -> xr.Dataset:
    layers = sorted(table["layer"].unique())
    data = xr.Dataset(coords={"layer": layers, "arm": np.asarray(ARMS, object)})
    rows = table.assign(key=table["item"] + "\x1f" + table["answer_kind"])
    grids = [rows.pivot(index="key", columns=["layer", "arm"], values=v) for v in ("kl_nats", "kl_base_nats")]
    columns = pd.MultiIndex.from_product([layers, ARMS])
    top, bottom = (g.reindex(columns=columns).to_numpy(float) for g in grids)
    moved = bottom.sum(0) > 0
    left = ratio_of_sums(top, np.where(moved, bottom, np.nan))
    shape, dims = (len(layers), len(ARMS)), ("layer", "arm")
    label = {"units": "1", "long_name": "share of the change that one vector recovers"}
    data["share"] = (dims, (1 - left.value).reshape(shape), label)
    data["share_ci_low"], data["share_ci_high"] = ((dims, (1 - x).reshape(shape)) for x in (left.ci_high, left.ci_low))
    data["share_n"] = (dims, np.where(moved, left.n, 0).reshape(shape))
    return data


def _claim(data: xr.Dataset, count: int) -> Claim:
    what = "one added vector recovers most of the change"
    cell = data.sel(arm="fitted")
    n = int(cell["share_n"].max())
    if n == 0:
        return Claim("vector", NONE, "that anything changed", n=n)
    if n < FEWEST:
        return Claim("vector", UNJUDGED, what, why=f"{n} items are too few", needs=f"at least {FEWEST} items", n=n)
    best = int(cell["share"].argmax("layer"))
    bounds = (float(cell[f"share{part}"][best]) for part in ("", "_ci_low", "_ci_high"))
    value, low, high = widened(*bounds, n=n, looks=count)
    layer = int(cell["layer"][best])
    said: Fields = {
        "effect": value, "low": min(low, value), "high": max(high, value), "n": n, "is_change": False,
        "family": f"{count} layers", "place": f"layer {layer}", "control": "half of the change; items not fitted",
        "estimand": "1 - KL with the vector / KL without", "caveat": "the fit may stop short of the best vector",
    }  # fmt: skip
    if low > MOST:
        return Claim("vector", FOUND, f"{what}, added after layer {layer}", **said)
    return Claim("vector", NONE, f"that {what}", **said)


def figures(result: Result) -> dict[str, Figure]:
    """Share recovered over layers, one line an arm."""
    rows = result.summary()
    facet = "step" if "step" in rows else None
    title = "Share of the change that one added vector recovers (items not fitted)"
    return {"share": curve(rows, x="layer", color="arm", facet=facet, title=title, reference=0)}
