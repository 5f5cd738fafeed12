"""Proofs run when a model loads: what is read is what plain transformers computes, and edits land."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from probe import families
from probe.backends.observed import why_broken
from probe.causes import likely
from probe.checkpoints.quantised import quantisation_of
from probe.errors import InputError, ProbeError
from probe.interventions import Edit
from probe.prompts import Item
from probe.sites import INSIDE_ATTENTION, READ_ONLY, Site
from probe.tokens import SPANS, Encoded, TokenBatch, plan

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor
    from transformers import PreTrainedModel

    from probe.handle import Handle

_LENGTHS = (6, 3)
_ROWS = 64
_WRITERS = ("attn_out", "mixer_out", "mlp_out")
_RESIDUAL = ("resid_pre", "resid_mid", "resid_post", *_WRITERS)


@dataclass(frozen=True)
class Proof:
    """One thing measured at load: `value` must be at most `bound` (or at least, for `*_changes`)."""

    name: str
    value: float
    bound: float
    holds: bool


@dataclass(frozen=True)
class Reference:
    """Plain Hugging Face logits of a few short texts, each alone and unpadded.

    `leak`: how much the first text's logits change where its end is left out (0 in a causal model).
    """

    ids: tuple[tuple[int, ...], ...]
    logits: tuple[Float[Tensor, "pos vocab"], ...]
    leak: float = 0.0

    @property
    def scale(self) -> float:
        """Largest absolute logit."""
        return max(float(x.abs().max()) for x in self.logits)


def refer(hf_model: PreTrainedModel) -> Reference:
    """Logits of a model that no backend has touched yet."""
    vocab = int(families.text_config(hf_model.config).vocab_size)
    rng = torch.Generator().manual_seed(0)
    ids = [torch.randint(vocab, (1, n), generator=rng) for n in _LENGTHS]
    with torch.no_grad():
        logits = [hf_model(input_ids=x.to(hf_model.device), use_cache=False).logits[0].float() for x in ids]
        start = hf_model(input_ids=ids[0][:, : _LENGTHS[1]].to(hf_model.device), use_cache=False).logits[0].float()
    if not all(bool(x.isfinite().any(-1).all() and not x.isnan().any()) for x in logits):
        raise InputError(why_broken(hf_model))
    whole = logits[0][: _LENGTHS[1]]
    apart = torch.where(start == whole, 0.0, (start - whole).abs())  # tokens that cannot come are -inf in both
    leak = float(apart.nan_to_num(nan=float("inf")).max())
    return Reference(tuple(tuple(x[0].tolist()) for x in ids), tuple(logits), leak)


def prove(model: Handle) -> list[Proof]:
    """Every proof, each holding.

    - `causal`: what comes later changes no logit;
    - `logits`: equal to plain Hugging Face's (float32: < 1e-4), alone and padded on either side;
    - `logits_opened`: the same where attention is looked into (another road through the weights);
    - `neighbours`: a text's logits do not depend on the positions of the others of its batch;
    - `residual`: resid_pre + attn_out + mlp_out = resid_post in every block, and mid where it exists;
    - `unembed`: the lens of the last resid_post is the logits;
    - `<site>_changes`: an edit at that site changes the logits, for every site;
    - `<site>_lands`: after an edit in the residual stream the identities still hold (a write that
      reaches one branch of two breaks them).

    Raises:
        ProbeError: the first proof that fails, by name, with its value.
    """
    return [*prove_closed(model), *prove_opened(model)]


def prove_closed(model: Handle) -> list[Proof]:
    """Every proof of the road on which nothing inside attention is visited; `Model.load` runs these."""
    reads = [*prove_logits(model), _prove_neighbours(model), *_prove_residual(model)]
    return [*reads, *_prove_changes(model, _outside(model), []), *_prove_landings(model, [])]


def prove_opened(model: Handle) -> list[Proof]:
    """Every proof of the road on which attention is looked into; a model loaded owes them until it first is."""
    opened = model.sites("pattern")[:1]
    everywhere = [s for s in model.sites() if s.kind not in READ_ONLY]
    reads = prove_logits_opened(model)
    return [*reads, *_prove_changes(model, everywhere, opened), *_prove_landings(model, opened)]


def _prove_neighbours(model: Handle) -> Proof:
    """A text's logits do not depend on how far the positions of another text of its batch reach."""
    from probe.backends import Tokens

    batch = _batch(_reference(model)).to(model.device)
    reach = (model.turn or min(model.shape.n_ctx, 1 << 20)) - batch.ids.shape[1]
    far = batch.position_ids.clone()
    far[0] += max(0, reach)
    places = (batch.position_ids, far)
    with torch.no_grad():
        near, moved = (model.backend.run(Tokens(batch.ids, batch.mask, at), {}, "all") for at in places)
    assert near is not None
    assert moved is not None
    rows = batch.mask[1].to(near.device)
    return _hold(model, "neighbours", float((near[1] - moved[1]).float().abs()[rows].max()), _bound(model))


def prove_logits(model: Handle) -> list[Proof]:
    """Logits equal plain Hugging Face's: alone, left-padded, right-padded; through `unembed`."""
    reference = _reference(model)
    bound = _bound(model, reference)
    out = [_hold(model, "causal", reference.leak, bound)]
    for name, batch in _arrangements(reference):
        got = model.run(batch).logits
        assert got is not None
        worst = max(_distance(got[i][batch.mask[i]], reference, batch.items[i]) for i in range(len(batch)))
        out.append(_hold(model, f"logits_{name}", worst, bound))
    batch = _batch(reference)
    final = [s for s in model.sites("resid_post") if s.layer == model.shape.n_layers - 1]
    trace = model.run(batch, final)
    assert trace.logits is not None
    for site in final:
        lens = model.unembed(trace[site])
        out.append(_hold(model, "unembed", _worst(lens - trace.logits, batch), bound))
    last = model.run(batch, logits="last").logits
    rows = trace.logits[torch.arange(len(batch)), batch.last_prompt]
    assert last is not None
    out.append(_hold(model, "logits_last", float((last - rows).abs().max()), bound))
    return out


def prove_logits_opened(model: Handle) -> list[Proof]:
    """Logits where attention is looked into equal those where it is not."""
    batch = _batch(_reference(model))
    opened, closed = (model.run(batch, sites).logits for sites in (model.sites("pattern")[:1], []))
    assert opened is not None
    assert closed is not None
    return [_hold(model, "logits_opened", _worst(opened - closed, batch), _bound(model, _reference(model)))]


def _prove_residual(model: Handle) -> list[Proof]:
    batch = _batch(_reference(model))
    sites = [s for kind in _RESIDUAL for s in model.sites(kind)]
    trace = model.run(batch, sites, logits="none")
    worst = max(_residual_errors(model, trace.activations, batch), default=0.0)
    return [_hold(model, "residual", worst, _bound(model))]


def _residual_errors(model: Handle, at: dict[Site, Tensor], batch: TokenBatch, first: int = 0) -> Iterator[float]:
    """Largest deviation of each residual identity from block `first` on, relative to the stream (at least 1)."""

    def error(got: Tensor, want: Tensor) -> float:
        scale = max(1.0, float(want.abs().max()))
        return _worst(got - want, batch) / scale

    for layer in range(first, model.shape.n_layers):
        pre, mid, post = (at.get(Site(k, layer)) for k in ("resid_pre", "resid_mid", "resid_post"))
        parts = {k: at[Site(k, layer)] for k in _WRITERS if Site(k, layer) in at}
        if pre is None or post is None:
            continue
        half = mid if "mlp_out" not in parts else None  # where the MLP is summed from several modules
        if parts:
            yield error(sum(parts.values(), pre), post if half is None else half)
        if mid is not None and half is None:
            yield error(mid + parts["mlp_out"], post)
            yield error(post - parts["mlp_out"], mid)
        following = at.get(Site("resid_pre", layer + 1))
        if following is not None:
            yield error(following, post)


def _outside(model: Handle) -> list[Site]:
    """Sites that can be edited without a look into attention."""
    return [s for s in model.sites() if s.kind not in (*READ_ONLY, *INSIDE_ATTENTION)]


def _prove_landings(model: Handle, road: list[Site]) -> list[Proof]:
    """Edits of the residual stream while the sites of `road` are read."""
    bound = _bound(model)
    return [_hold(model, f"{s}_lands", _landing_error(model, s, road), bound) for s in _first_of_each(model)]


def _first_of_each(model: Handle) -> list[Site]:
    """Each kind of site in the residual stream, once for every sort of block (blocks may differ)."""
    kinds = {n: frozenset(s.kind for s in model.sites() if s.layer == n) for n in range(model.shape.n_layers)}
    first = {sort: min(n for n, k in kinds.items() if k == sort) for sort in kinds.values()}
    return [Site(kind, n) for sort, n in first.items() for kind in _RESIDUAL if kind in sort]


def _prove_changes(model: Handle, sites: list[Site], read: list[Site]) -> Iterator[Proof]:
    """Many sites at once: row i of a batch of copies is edited at site i alone."""
    least = 1e-7 * max(1.0, _reference(model).scale)
    for start in range(0, len(sites), _ROWS):
        chunk = sites[start : start + _ROWS]
        batch = _copies(_reference(model), len(chunk) + 1)
        logits = model.run(batch, read, [_edit(s, i, batch) for i, s in enumerate(chunk)]).logits
        assert logits is not None
        for i, site in enumerate(chunk):
            change = float((logits[i] - logits[-1]).abs().max().float().nan_to_num(nan=0.0))
            yield _hold(model, f"{site}_changes", change, least, False)


def _copies(reference: Reference, n: int) -> TokenBatch:
    longest = _encoded(reference)[:1]
    return plan(longest * n, n, "left")[0]


def _edit(site: Site, row: int, batch: TokenBatch) -> Edit:
    only = torch.zeros_like(batch.mask)
    only[row] = True
    return Edit(site, _nudge, only)


def _landing_error(model: Handle, site: Site, read: list[Site]) -> float:
    """How far the residual identities after an edited site are from holding."""
    batch = _batch(_reference(model))
    sites = [s for kind in _RESIDUAL for s in model.sites(kind)]
    at = model.run(batch, [*sites, *read], [Edit(site, _nudge)], logits="none").activations
    layer = site.layer
    if site.kind == "resid_pre":
        return max(_residual_errors(model, at, batch, int(layer or 0)), default=0.0)
    if site.kind not in _RESIDUAL[:3]:
        return max(_residual_errors(model, at, batch), default=0.0)
    # The edited value itself no longer follows from what came before it: what led there is taken as what it now is.
    parts = {k: at[Site(k, layer)] for k in _WRITERS if Site(k, layer) in at}
    last = "mlp_out" if site.kind == "resid_post" and "mlp_out" in parts else next(iter(parts), None)
    mid = at.get(Site("resid_mid", layer))
    if site.kind == "resid_post" and mid is not None and "mlp_out" not in parts:
        last = None  # nothing that is read leads from the middle to the end
    if last is not None:
        others = [v for k, v in parts.items() if k not in (last, "mlp_out" if site.kind == "resid_mid" else last)]
        entering = at[Site("resid_pre", layer)]
        if site.kind == "resid_post" and last == "mlp_out" and mid is not None:
            entering, others = mid, []
        at[Site(last, layer)] = at[site] - sum(others, entering)
    return max(_residual_errors(model, at, batch), default=0.0)


def _nudge(x: Tensor) -> Tensor:
    """The tensor plus fixed noise of its own size (a constant would vanish in a softmax or a norm)."""
    # Masked scores are very low; some families scale them once more after the mask.
    finite = x.masked_fill(x < torch.finfo(x.dtype).min / 256, 0.0)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x)
    return x + noise * (finite.float().std() + 0.1).to(x.dtype)


def _arrangements(reference: Reference) -> Iterator[tuple[str, TokenBatch]]:
    encoded = _encoded(reference)
    for one in encoded:
        yield "alone", plan([one], 1)[0]
    yield "left_padded", plan(encoded, len(encoded), "left")[0]
    yield "right_padded", plan(encoded, len(encoded), "right")[0]


def _batch(reference: Reference) -> TokenBatch:
    return plan(_encoded(reference), len(reference.ids), "left")[0]


def _encoded(reference: Reference) -> list[Encoded]:
    prompt = SPANS.index("prompt")
    return [Encoded(Item(str(i), "-", "-"), ids, (prompt,) * len(ids)) for i, ids in enumerate(reference.ids)]


def _distance(got: Tensor, reference: Reference, item: Item) -> float:
    return float((got.float() - reference.logits[int(item.id)].to(got.device)).abs().max())


def _worst(x: Tensor, batch: TokenBatch) -> float:
    """Largest absolute value at real tokens; NaN counts as infinite."""
    values = x[batch.mask.to(x.device)].float().abs()
    return float(values.nan_to_num(nan=float("inf")).max())


def _reference(model: Handle) -> Reference:
    if model.reference is None:
        raise ProbeError("this model was loaded with check=False: there is no plain Hugging Face run to compare with")
    return model.reference


def _bound(model: Handle, reference: Reference | None = None) -> float:
    """1e-4 in float32; kernels in half precision or fewer bits differ by rounding, relative to the largest logit."""
    if model.dtype in (torch.float32, torch.float64) and quantisation_of(model.backend.plain) is None:
        return 1e-4
    return 0.05 * max(1.0, reference.scale if reference else 1.0)


def _hold(model: Handle, name: str, value: float, bound: float, at_most: bool = True) -> Proof:
    holds = value <= bound if at_most else value > bound
    if not holds:
        relation = "at most" if at_most else "more than"
        raise ProbeError(
            f"proof {name!r} failed for {model.shape.family} on {model.backend_name}: {value:.3g}, expected {relation} "
            f"{bound:.3g}. No number of this model would be right. {likely(model, name, value)}"
        )
    return Proof(name, value, bound, holds)
