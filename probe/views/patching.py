"""Patching of one pair of texts: how much of the clean answer a value brings back into the corrupt run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd
import torch

from probe import interventions
from probe.errors import InputError
from probe.grids import Cell, Row, alone
from probe.items import Item
from probe.prompts import Prompts
from probe.replay import Clean, clean_metric, logit_difference, replay
from probe.sites import GLOBAL_KINDS, KINDS, Site
from probe.token_text import token_texts, visible
from probe.tokens import tokenize

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float
    from torch import Tensor

    from probe.batches import TokenBatch
    from probe.handle import Handle
    from probe.interventions import Edit


@dataclass(frozen=True, repr=False)
class Patched:
    """Effects of putting single values of the clean run into the corrupt one (denoising, arXiv 2404.15255).

    An effect is (patched - corrupt) / (clean - corrupt) of the difference of two logits: 0 changes nothing, 1 gives
    all of it back; below 0 and above 1 are possible. It says that the value suffices in this one pair, not that the
    model uses it elsewhere.

    Attributes:
        tokens: texts of the clean tokens, and `corrupt_tokens` of the corrupt ones, [pos].
        answers: the two next tokens whose logits are compared.
        clean, corrupt: the logit difference of the unpatched runs.
        effects: kind of site -> [layer pos], or [layer head] where the sites are heads (all positions at once). NaN:
            a layer without such a site.
    """

    tokens: tuple[str, ...]
    corrupt_tokens: tuple[str, ...]
    answers: tuple[str, str]
    clean: float
    corrupt: float
    effects: dict[str, Float[Tensor, "layer place"]] = field(default_factory=dict[str, "Tensor"])

    def __getitem__(self, kind: str) -> Tensor:
        return self.effects[kind]

    def places(self, kind: str) -> list[str]:
        """Names along the second axis: token texts, or heads."""
        if _by_head(kind):
            return [f"H{head}" for head in range(self.effects[kind].shape[1])]
        pairs = zip(self.tokens, self.corrupt_tokens, strict=True)
        return [visible(a) if a == b else f"{visible(a)}/{visible(b)}" for a, b in pairs]

    def frame(self) -> pd.DataFrame:
        """One row a cell: kind, layer, `pos` or `head`, place (its name), effect."""
        rows: list[dict[str, object]] = [
            {"kind": kind, "layer": layer, "head" if _by_head(kind) else "pos": n, "place": place, "effect": value}
            for kind, values in self.effects.items()
            for layer, row in enumerate(values.tolist())
            for n, (place, value) in enumerate(zip(self.places(kind), row, strict=True))
        ]
        return pd.DataFrame(rows)

    def top(self, n: int = 5) -> list[tuple[str, str, float]]:
        """The cells of largest absolute effect: site, place, effect."""
        cells = [
            (f"{kind}.{layer}", place, value)
            for kind, values in self.effects.items()
            for layer, row in enumerate(values.tolist())
            for place, value in zip(self.places(kind), row, strict=True)
            if value == value
        ]
        return sorted(cells, key=lambda c: -abs(c[2]))[:n]

    @property
    def title(self) -> str:
        """What is measured, in words."""
        right, wrong = map(visible, self.answers)
        return f"logit({right}) - logit({wrong}): clean {self.clean:.2f}, corrupt {self.corrupt:.2f}"

    def __repr__(self) -> str:
        lines = [f"  {site:<14} {place:<16} {value:+.2f}" for site, place, value in self.top(8)]
        return "\n".join([f"Patched: {self.title}; largest effects", *lines])

    def _repr_html_(self) -> str:
        return "".join(self._grid(kind) for kind in self.effects)

    def _grid(self, kind: str) -> str:
        rows = [
            Row(f"{kind}.{layer}", [Cell(f"{v:.2f}", v, f"{kind}.{layer}: {v:+.3f}") for v in row])
            for layer, row in reversed(list(enumerate(self.effects[kind].tolist())))
        ]
        return alone(rows, self.places(kind), f"{kind}: {self.title}; colour: effect, -1 to 1, where all is given back")


def _by_head(kind: str) -> bool:
    return any(name in ("head", "kv_head") for name in KINDS[kind])


def patched(
    model: Handle, clean: TokenBatch, corrupt: TokenBatch, kinds: Sequence[str], answers: tuple[str, str] | None
) -> Patched:
    """The effects of every site of these kinds, at every position (heads: at all positions at once).

    Args:
        model: the handle.
        clean: the text patched from.
        corrupt: the text patched into.
        kinds: kinds of sites.
        answers: (right, wrong) next words, None for the likeliest of either text.

    Raises:
        InputError: texts of unequal length in tokens, no difference to give back, an unknown kind.
    """
    texts = [token_texts(model.tokenizer, batch.ids[0].tolist()) for batch in (clean, corrupt)]
    _check_lengths(texts)
    runs = {"clean": Clean(model, clean), "corrupt": Clean(model, corrupt)}
    target, foil = _ids(model, clean, answers) if answers else _tops(model, runs)
    metric = logit_difference(corrupt, torch.tensor([target]), torch.tensor([foil]))
    high, low = (float(clean_metric(run, metric)[0]) for run in runs.values())
    if not abs(high - low) > 1e-4:
        raise InputError(
            f"both texts give the same logit difference ({high:.4f} and {low:.4f}): there is nothing to give back; "
            "give texts that differ in the answer, or other answers=(right, wrong)"
        )
    effects: dict[str, Tensor] = {}
    for kind in kinds:
        cells = _cells(model, runs["clean"], _kind(model, kind))
        values = replay(runs["corrupt"], [edit for _, _, edit in cells], metric)[:, 0]
        places = 1 + max(place for _, place, _ in cells)
        effects[kind] = torch.full((model.shape.n_layers, places), float("nan"))
        effects[kind][[n for n, _, _ in cells], [p for _, p, _ in cells]] = (values - low) / (high - low)
    named = token_texts(model.tokenizer, [target, foil])
    return Patched(tuple(texts[0]), tuple(texts[1]), (named[0], named[1]), high, low, effects)


def _kind(model: Handle, kind: str) -> str:
    if kind not in KINDS or kind in GLOBAL_KINDS or not model.sites(kind):
        known = sorted({s.kind for s in model.sites()} - set(GLOBAL_KINDS), key=list(KINDS).index)
        raise InputError(f"sites={kind!r} is no kind of site of this model's blocks; expected of: {', '.join(known)}")
    return kind


def _cells(model: Handle, source: Clean, kind: str) -> list[tuple[int, int, Edit]]:
    """Layer, place and edit of every cell."""
    found: list[tuple[int, int, Edit]] = []
    for site in model.sites(kind):
        value = source.value(site)
        if _by_head(kind):
            heads = [Site(kind, site.layer, head) for head in range(value.shape[site.head_dim])]
            edits = [interventions.patch(h, source.value(h)) for h in heads]
        else:
            edits = [interventions.patch(site, value, [pos]) for pos in range(source.batch.ids.shape[1])]
        found += [(int(site.layer or 0), place, edit) for place, edit in enumerate(edits)]
    return found


def _check_lengths(texts: Sequence[Sequence[str]]) -> None:
    if len(texts[0]) != len(texts[1]):
        raise InputError(
            f"clean has {len(texts[0])} tokens ({'|'.join(texts[0])}), corrupt {len(texts[1])} ({'|'.join(texts[1])}); "
            "expected two texts of equal length, so that a position means the same in both"
        )


def _tops(model: Handle, runs: dict[str, Clean]) -> tuple[int, int]:
    """What either text is continued with."""
    ids = [int(run.value(Site("logits"))[0, -1].argmax()) for run in runs.values()]
    if ids[0] == ids[1]:
        (token,) = token_texts(model.tokenizer, ids[:1])
        raise InputError(f"both texts are continued with {token!r}; say what to compare: answers=(' Mary', ' John')")
    return ids[0], ids[1]


def _ids(model: Handle, batch: TokenBatch, answers: tuple[str, str]) -> tuple[int, int]:
    """First token of each answer as the text's tokenizer meets it behind the text."""
    if isinstance(answers, str) or len(answers) != 2:
        raise InputError(f"answers={answers!r}; expected two texts, (right, wrong), as (' Mary', ' John')")
    found = [_first(model, batch, answer) for answer in answers]
    if found[0] == found[1]:
        (token,) = token_texts(model.tokenizer, found[:1])
        raise InputError(f"answers {answers[0]!r} and {answers[1]!r} both begin with the token {token!r}")
    return found[0], found[1]


def _first(model: Handle, batch: TokenBatch, answer: str) -> int:
    item, ids = batch.items[0], batch.ids[0].tolist()
    template = "chat" if item.chat is not None else "none"
    (whole,) = tokenize(
        model.tokenizer,
        Prompts((Item("0", item.prompt, answer, chat=item.chat),)),
        template=template,
        bos=model.framing.bos,
        template_options=model.framing.template_options,
        max_length=model.shape.n_ctx + len(ids),
    )
    if list(whole.ids[: len(ids)]) != ids or len(whole.ids) <= len(ids):
        raise InputError(
            f"answer {answer!r}: behind this text the tokenizer joins the two into other tokens; end the text where a "
            "token ends (often: no space at its end, one at the answer's beginning)"
        )
    return whole.ids[len(ids)]
