"""Numbers stay numbers: what is read off a model is finite at every real token, or an error says where it is not.

An overflow in half precision or a broken weight gives NaN or infinity. Further on these would be left out of a mean,
or compare as "not larger" and count as 0, so they are looked for once, where states and logits are read.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

import torch

from probe.errors import InputError
from probe.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from probe.handle import Handle
    from probe.interventions import Edit
    from probe.tokens import TokenBatch

Where: TypeAlias = Callable[[int], tuple[str, str, int | None]]
"""Row -> what was read there, of which item, at which of its positions (from 0)."""

OPEN_BELOW = ("logits", "attn_scores")
"""Kinds that may hold -inf: a token that cannot come, a key that is masked."""


class NotFiniteError(InputError):
    """A state or a logit that is NaN or infinite: what it is, the item and the position, and what may be done."""

    def __init__(self, what: str, item: str, position: int | None, advice: str, more: int = 0) -> None:
        self.what, self.item, self.position, self.advice, self.more = what, item, position, advice, more
        at = "" if position is None else f" at position {position}"
        others = f" (and in {more} more)" if more else ""
        super().__init__(
            f"{what} is not finite (NaN or infinite){at} of item {item!r}{others}: no number of it means anything. "
            f"{advice}"
        )


def advice(model: Handle, edited: bool) -> str:
    """What may have made a value of this model overflow."""
    told = ", or what is put in by an edit (a smaller dose?)" if edited else ""
    if model.dtype == torch.float16:
        return f"float16 ends at 65,504: load the model as bfloat16 or float32{told}"
    return f"Check the weights of this checkpoint{told}"


def label(model: Handle) -> str:
    """The model as errors call it."""
    return model.checkpoint.label if model.checkpoint else "the model"


def require(values: Mapping[Site, Tensor], batch: TokenBatch, model: Handle, edited: bool = False) -> None:
    """Refuse values at sites [item pos ...] that are not finite at a real token.

    Args:
        values: site -> what was read there [item pos ...].
        batch: the tokens.
        model: the handle, named in the error.
        edited: True where edits were open: the advice then names them.

    Raises:
        NotFiniteError: the earliest such site, its first item and position.
    """
    marks = {site: _marks(site, x.detach(), edited) & batch.mask.to(x.device) for site, x in sorted(values.items())}
    if not marks or not bool(torch.stack([m.any().to(batch.mask.device) for m in marks.values()]).any()):
        return
    site, mark = next((s, m.cpu()) for s, m in marks.items() if bool(m.any()))
    item = int(mark.any(1).nonzero()[0])
    position = int(mark[item].nonzero()[0]) - int(batch.offsets[item])
    more = int(mark.any(1).sum()) - 1
    raise NotFiniteError(f"{label(model)}: {site}", batch.items[item].id, position, advice(model, edited), more)


def _marks(site: Site, x: Tensor, edited: bool) -> Bool[Tensor, "item pos"]:
    """True where a value is not finite, over all dimensions but item and position."""
    worst = ~x.amax(-1).isfinite() if site.kind in OPEN_BELOW else ~x.isfinite().all(-1)
    if site.kind == "pattern" and not edited:
        worst |= x.sum(-1) == 0  # TransformerLens puts zeros where the softmax gave NaN
    for axis in reversed(range(1, worst.ndim)):
        worst = worst if site.dims[axis] == "pos" else worst.any(axis)
    return worst


def require_logits(logits: Float[Tensor, "row vocab"], where: Where, advice: str, first: int = 0) -> None:
    """Refuse logits that are NaN or infinite above, or a row in which no token can come.

    Args:
        logits: one row per position read.
        where: names a row, counted from `first`.
        advice: what may be done.
        first: number of the first row.

    Raises:
        NotFiniteError: the first such row.
    """
    if not len(logits):
        return
    bad = ~logits.amax(-1).isfinite()
    if bool(bad.any()):
        raise NotFiniteError(*where(first + int(bad.nonzero()[0])), advice)


def require_run(
    model: Handle, batch: TokenBatch, read: Mapping[Site, Tensor], out: Tensor | None, which: str, edited: bool
) -> None:
    """Refuse a run whose values at sites, or whose logits (`which`: all positions, or last), are not finite.

    Args:
        model: the handle, named in the error.
        batch: the tokens.
        read: site -> what was read there.
        out: the logits, None where none were asked for.
        which: `all` positions or the `last` prompt token.
        edited: True where edits were open: the advice then names them.
    """
    require(read, batch, model, edited)
    if out is not None and which == "all":
        require({Site("logits"): out}, batch, model, edited)
    elif out is not None:
        at, what = (batch.last_prompt - batch.offsets).tolist(), f"{label(model)}: logits"
        require_logits(out.detach(), lambda row: (what, batch.items[row].id, at[row]), advice(model, edited))


def require_stream(model: Handle, batch: TokenBatch, edits: Sequence[Edit]) -> None:
    """The run again, the whole residual stream read: an error names the first state that is not finite.

    Args:
        model: the handle, named in the error.
        batch: the tokens.
        edits: edits of the run.
    """
    from probe.backends.protocol import Tokens
    from probe.backends.visits import visitors

    tokens = Tokens(batch.ids, batch.mask, batch.position_ids)
    stream = [Site("embed"), *(s for kind in ("resid_pre", "resid_mid", "resid_post") for s in model.sites(kind))]
    visits = visitors(stream, edits, batch, model.site)
    visits.pop(Site("logits"), None)
    with torch.no_grad():
        model.backend.run(tokens, visits, None)
    require({site: visits[site].value(site).to(model.device) for site in stream}, batch, model, bool(edits))


@contextmanager
def as_named(names: Mapping[str, str]) -> Generator[None]:
    """Within the block an error calls items as the caller's file does."""
    try:
        yield
    except NotFiniteError as error:
        named = names.get(error.item, error.item)
        raise NotFiniteError(error.what, named, error.position, error.advice, error.more) from None


def by_row(what: str, rows: Sequence[str] | None = None) -> Where:
    """Rows without items: their number, or their names."""
    return lambda row: (what, f"row {row}" if rows is None else rows[row], None)
