"""Steered completions of one prompt side by side, with placebos of equal size and their dose-response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import pandas as pd
import torch

from probe.batches import ANSWER
from probe.completions import marked
from probe.doses import strengths_of
from probe.html import lines, table_of_html
from probe.sites import Site

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from probe.batches import TokenBatch
    from probe.doses import Dose
    from probe.handle import Handle
    from probe.texts import Text
    from probe.tokens import Template


@dataclass(frozen=True)
class SteeredText:
    """One arm at one strength.

    `kl_nats`: KL(steered || unsteered) of the next token behind the prompt, at least 0. `logprob`: mean
    log-probability of the target's tokens in nats (at most 0); NaN without a target.
    """

    arm: str
    draw: int
    strength: float
    text: str
    kl_nats: float
    logprob: float


@dataclass(frozen=True, repr=False)
class Steered:
    """Completions of one prompt under an intervention and under its placebos, at every strength.

    That a text changes shows that the state matters, not that the direction means what it was fitted to: look whether
    the placebos change it as much.

    Attributes:
        prompt: what was continued.
        name: of the intervention.
        texts: one a strength, arm and draw; the unchanged one once, as arm "none".
        site: where it was steered.
        target: the text whose log-probability was measured, or "".
    """

    prompt: str
    name: str
    texts: tuple[SteeredText, ...]
    site: Site
    target: str = ""

    @property
    def unchanged(self) -> SteeredText:
        """What the model writes by itself."""
        return next(t for t in self.texts if t.arm == "none")

    @property
    def arms(self) -> list[str]:
        """The intervention, then its placebos."""
        return [a for a in dict.fromkeys(t.arm for t in self.texts) if a != "none"]

    def text(self, strength: float, arm: str | None = None) -> str:
        """The completion at a strength (of the intervention, or of a placebo's first draw)."""
        found = [t.text for t in self.texts if t.strength == strength and t.arm in (arm or self.name, "none")]
        if not found:
            known = sorted({t.strength for t in self.texts})
            raise ValueError(f"strength {strength}, arm {arm or self.name}; strengths: {known}, arms: {self.arms}")
        return found[0]

    def frame(self) -> pd.DataFrame:
        """One row an arm, draw and strength: arm, draw, strength, text, kl_nats, logprob, is_changed."""
        rows = [{**vars(t), "is_changed": t.text != self.unchanged.text} for t in self.texts]
        return pd.DataFrame(rows)

    def response(self) -> dict[str, list[tuple[float, float]]]:
        """Arm -> (strength, mean over draws of log-probability where there is a target, else of KL)."""
        quantity = "logprob" if self.target else "kl_nats"
        zero = self.unchanged
        found: dict[str, list[tuple[float, float]]] = {}
        for arm in self.arms:
            of = [t for t in self.texts if t.arm == arm]
            points = [(zero.strength, float(getattr(zero, quantity)))]
            for strength in sorted({t.strength for t in of}):
                values = [float(getattr(t, quantity)) for t in of if t.strength == strength]
                points.append((strength, sum(values) / len(values)))
            found[arm] = sorted(points)
        return found

    def __repr__(self) -> str:
        first = [t for t in self.texts if t.draw == 0]
        told = [f"  {t.strength:>6g} {t.arm:<12} {t.text!r}" for t in sorted(first, key=_order)]
        return "\n".join([f"Steered at {self.site}: {self.prompt!r}", *told])

    def _repr_html_(self) -> str:
        own = self.unchanged
        strengths = sorted({t.strength for t in self.texts})
        rows = [[f"{s:g}", *(self._shown(s, arm, own) for arm in self.arms)] for s in strengths]
        what = (
            f"mean log-probability of {self.target!r}, nats"
            if self.target
            else "KL from the unsteered next token, nats"
        )
        return table_of_html(rows, ["strength", *self.arms], f"Steered at {self.site}: {self.prompt}") + lines(
            self.response(), "strength", what
        )

    def _shown(self, strength: float, arm: str, own: SteeredText) -> str:
        if strength == own.strength:
            return escape(own.text)
        return marked(self.text(strength, arm), own.text)


def _order(t: SteeredText) -> tuple[float, str]:
    return (t.strength, t.arm)


@dataclass(frozen=True)
class How:
    """How completions are made: most new tokens, draws of each placebo, their seed, the target's batch if any."""

    max_new_tokens: int
    draws: int
    seed: int
    template: Template | None
    target: TokenBatch | None


def steered_texts(
    model: Handle, prompt: Text, dose: Dose, strengths: Sequence[float], batch: TokenBatch, how: How
) -> list[SteeredText]:
    """Completions at every strength under the intervention and each placebo, the unchanged one first.

    Args:
        model: the handle.
        prompt: the text.
        dose: a direction or neurons.
        strengths: how much of it.
        batch: the prompt as tokens.
        how: sampling, draws of placebos and seed.
    """
    base = _logp(model, batch)
    arms: list[tuple[str, int, Dose]] = [(dose.name, 0, dose)]
    for draw in range(how.draws):
        arms += [(name, draw, placebo) for name, placebo in dose.placebos(how.seed + draw).items()]
    found = [_one(model, prompt, ("none", 0, dose), dose.none, batch, base, how)]
    for strength in strengths_of(strengths, dose.none):
        if strength != dose.none:
            found += [_one(model, prompt, arm, strength, batch, base, how) for arm in arms]
    return found


def _one(
    model: Handle, prompt: Text, arm: tuple[str, int, Dose], strength: float, batch: TokenBatch, base: Tensor, how: How
) -> SteeredText:
    name, draw, dose = arm
    edits = [] if strength == dose.none else dose.edits(strength)
    (done,) = model.generate(prompt, edits=edits, max_new_tokens=how.max_new_tokens, template=how.template)
    with model.edited(*edits):
        here = _logp(model, batch)
        forced = float("nan") if how.target is None else _forced(model, how.target)
    kl = float(torch.where(here.isinf(), 0.0, here.exp() * (here - base)).sum().clamp(min=0))
    return SteeredText(name, draw, strength, done.text, kl, forced)


def _logp(model: Handle, batch: TokenBatch) -> Tensor:
    logits = model.run(batch, logits="last").logits
    assert logits is not None
    return logits[0].double().log_softmax(-1)


def _forced(model: Handle, batch: TokenBatch) -> float:
    """Mean log-probability of the answer's tokens."""
    logits = model.run(batch).logits
    assert logits is not None
    where = (batch.span[0] == ANSWER).nonzero().flatten()
    logp = logits[0].double().log_softmax(-1)
    return float(logp[where - 1].gather(-1, batch.ids[0, where, None].to(logp.device)).mean())
