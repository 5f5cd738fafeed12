"""Entropies, divergences and token readouts from logits, streamed so that no vocabulary-sized array is kept.

All in nats and float32 with natural logarithms. Sums over the vocabulary are plain `.sum(-1)`: an `einsum` over
32k float32 entries loses 1e-4. Divergences are summed as differences of log-probabilities, never as differences
of entropies, so that small ones keep their digits and equal inputs give exactly 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.errors import InputError
from probe.finite import Where, by_row, require_logits

ROWS_AT_ONCE = 64  # 32-128 rows keep the matrix product efficient; 8 is about twice as slow
NEAR = 1e-4  # Jensen-Shannon divergence below which KL is summed again, more slowly, to keep its digits
LOG_ZERO = -1e4  # stands for log 0 where two of them are subtracted; exp of it is 0 in float32
ELEMENTS_AT_ONCE = 1 << 18
OVERFLOWN = "The states are finite, their readout is not: check the head, or load the model in a wider dtype"

Unembed: TypeAlias = Callable[[Float[Tensor, "row d_model"]], Float[Tensor, "row vocab"]]


@dataclass(frozen=True)
class Readout:
    """What a row of residuals says about the next token; every field has one entry per row.

    Attributes:
        logprob_nats: log-probability of each target, shape of the targets.
        rank: number of tokens with a strictly larger logit (0 = top; ties take the better rank).
        entropy_nats: of the whole distribution, padded ids included.
        top_ids: the k most likely ids, best first.
        top_logprob_nats: their log-probabilities.
        padded_mass: probability on ids the tokenizer does not have (0 where `n_tokens` was not given).
    """

    logprob_nats: Float[Tensor, "row ..."]
    rank: Int[Tensor, "row ..."]
    entropy_nats: Float[Tensor, " row"]
    top_ids: Int[Tensor, "row k"]
    top_logprob_nats: Float[Tensor, "row k"]
    padded_mass: Float[Tensor, " row"]


@dataclass(frozen=True)
class Divergences:
    """How far apart two distributions p, q are, one entry per row; 0 where they are equal."""

    jsd_nats: Float[Tensor, "*row"]
    kl_pq_nats: Float[Tensor, "*row"]
    kl_qp_nats: Float[Tensor, "*row"]
    total_variation: Float[Tensor, "*row"]


def log_softmax(logits: Float[Tensor, "*row vocab"]) -> Float[Tensor, "*row vocab"]:
    """Log-probabilities in float32, whatever the dtype of the logits."""
    return torch.log_softmax(logits.float(), dim=-1)


def entropy_nats(log_p: Float[Tensor, "*row vocab"]) -> Float[Tensor, "*row"]:
    """Shannon entropy H(p) of log-probabilities, in [0, ln V]; tokens of probability 0 add nothing."""
    return -(log_p.exp() * log_p.clamp(min=LOG_ZERO)).sum(-1)


def kl_nats(log_p: Float[Tensor, "*row vocab"], log_q: Float[Tensor, "*row vocab"]) -> Float[Tensor, "*row"]:
    """Kullback-Leibler divergence KL(p || q) >= 0; exactly 0 for equal inputs, +inf where only q is 0.

    Summed as (q - p) - p log(q/p): q - p adds nothing in total but makes every term second order and >= 0.
    """
    p, q = log_p.exp(), log_q.exp()
    return _sum_at_least_zero(torch.where(p > 0, (q - p) - p * _log_ratio(p, q, log_p, log_q), q))


def _log_ratio(p: Tensor, q: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    """log(q / p); of near numbers from the numbers themselves, so that it fits their difference to the last digit.

    With the logarithms given, a divergence of 5e-7 nats in float32 is 2 % off and one of 5e-9 is rounding; so, 1e-4.
    """
    x = (q - p).div_((p + q).clamp_(min=torch.finfo(p.dtype).tiny))
    far = log_q - log_p.clamp(min=LOG_ZERO)
    return torch.where(x.abs() < 0.5, x.log1p() - x.neg().log1p_(), far)


def jsd_nats(log_p: Float[Tensor, "*row vocab"], log_q: Float[Tensor, "*row vocab"]) -> Float[Tensor, "*row"]:
    """Jensen-Shannon divergence in [0, ln 2]; symmetric; exactly 0 for equal inputs (not its square root)."""
    return _sum_at_least_zero(_jsd_terms(log_p.exp(), log_q.exp()))


def _jsd_terms(p: Tensor, q: Tensor) -> Tensor:
    """[p log(p/m) + q log(q/m)] / 2 with m = (p + q) / 2, through x = (q - p) / (p + q).

    p/m = 1 - x and q/m = 1 + x, so log1p keeps the digits of a small x and x = 0 gives exactly 0. At x = +-1 one
    factor is 0 and its logarithm infinite: the clamp makes their product 0.
    """
    x = (q - p).div_((p + q).clamp_(min=torch.finfo(p.dtype).tiny))
    x.clamp_(min=-1 + torch.finfo(p.dtype).eps, max=1 - torch.finfo(p.dtype).eps)
    terms = torch.log1p(x).mul_(q)
    return terms.addcmul_(x.neg_().log1p_(), p).mul_(0.5)


def _sum_at_least_zero(terms: Tensor) -> Tensor:
    """Sum over the vocabulary; rounding of a zero divergence must not make it negative."""
    return terms.sum(-1).clamp_(min=0.0)


def divergences(
    first: Float[Tensor, "row vocab"], second: Float[Tensor, "row vocab"], where: Where | None = None
) -> Divergences:
    """All divergences of two arrays of logits (log-probabilities are logits too), a few rows at a time.

    Rows that are not finite are refused, as `where` names them. From the logits to the sums, the temporaries of a
    block of `ELEMENTS_AT_ONCE` stay in cache.
    """
    second = second.to(first.device)  # the two models of a pair may lie on two devices
    for logits in (first, second):
        require_logits(logits, where or by_row("logits"), OVERFLOWN)
    size = max(1, ELEMENTS_AT_ONCE // first.shape[-1])
    blocks = [_divergences(first[c], second[c]) for c in row_chunks(len(first), size)]
    if not blocks:
        blocks = [_divergences(first, second)]
    return Divergences(*(torch.cat(column) for column in zip(*blocks, strict=True)))


def _divergences(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    log_p, log_q = (x.log_softmax(-1) for x in (first, second))
    p, q = log_p.exp(), log_q.exp()  # not softmax: a small divergence needs p and its logarithm to agree
    gap = log_q.clamp(min=LOG_ZERO).sub_(log_p.clamp(min=LOG_ZERO))
    excess = q - p
    tv = excess.abs().sum(-1).mul_(0.5)
    kl_pq = _sum_at_least_zero(torch.addcmul(excess, p, gap, value=-1))
    kl_qp = _sum_at_least_zero(gap.mul_(q).sub_(excess))
    for kl, here, there in ((kl_pq, p, log_q), (kl_qp, q, log_p)):
        if len(p) and torch.isneginf(there.amin()):  # only a logit of -inf makes a divergence infinite
            kl.masked_fill_(((here > 0) & torch.isneginf(there)).any(-1), torch.inf)
    jsd = _sum_at_least_zero(_jsd_terms(p, q))
    near = (jsd < NEAR) & kl_pq.isfinite() & kl_qp.isfinite()
    if near.any():
        pair = log_p[near], log_q[near]
        kl_pq[near], kl_qp[near] = kl_nats(*pair), kl_nats(*pair[::-1])
    return jsd, kl_pq, kl_qp, tv


def row_chunks(n_rows: int, size: int = ROWS_AT_ONCE) -> Iterator[slice]:
    """Slices that cover the rows once, in order."""
    return (slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size))


def streamed(
    rows: Float[Tensor, "row d_model"],
    unembed: Unembed,
    targets: Int[Tensor, "row ..."],
    *,
    k: int = 5,
    n_tokens: int | None = None,
    rows_at_once: int = ROWS_AT_ONCE,
    where: Where | None = None,
) -> Readout:
    """Log-prob and rank of targets, entropy and top-k of every row, holding one chunk of logits at a time.

    Args:
        rows: residuals, each read at position p to predict token p + 1; stack layers and items as you like.
        unembed: rows to logits (final norm, bias and softcap are its business), e.g. `model.unembed`.
        targets: id(s) to score, one or several per row.
        k: how many of the most likely tokens to keep (0 for none).
        n_tokens: size of the tokenizer, where the model's vocabulary is wider; ids beyond it are summed.
        rows_at_once: rows per chunk; memory is about 3 x rows_at_once x vocab x 4 bytes.
        where: what, of which item and position a row is, for errors.

    Raises:
        InputError: rows and targets differ in number, or the logits of a row are not finite.
    """
    if len(rows) != len(targets):
        raise InputError(f"{len(rows)} rows but {len(targets)} targets: give the target(s) of every row")
    several = targets if targets.ndim == 2 else targets[:, None]
    named = where or by_row("logits")
    parts: list[tuple[Tensor, ...]] = []
    for chunk in row_chunks(len(rows), rows_at_once):
        logits = unembed(rows[chunk]).float()
        require_logits(logits, named, OVERFLOWN, chunk.start)
        parts.append(_read(logits, several[chunk], k, n_tokens))
    if not parts:
        parts = [_read(unembed(rows[:1].new_zeros(1, rows.shape[-1])).float()[:0], several, k, n_tokens)]
    joined = [torch.cat(column) for column in zip(*parts, strict=True)]
    shape = targets.shape
    return Readout(joined[0].reshape(shape), joined[1].reshape(shape), *joined[2:])


def _read(logits: Tensor, targets: Tensor, k: int, n_tokens: int | None) -> tuple[Tensor, ...]:
    """The fields of Readout for one chunk of logits [row, vocab] and targets [row, target]."""
    own = logits.gather(-1, targets.to(logits.device))
    rank = torch.stack([(logits > own[:, i : i + 1]).sum(-1) for i in range(own.shape[1])], dim=-1)
    top, top_ids = logits.topk(k, dim=-1)
    peak = logits.amax(-1, keepdim=True)
    shifted = logits - peak
    p = shifted.exp()
    mass = p.sum(-1, keepdim=True)
    log_mass = mass.log()
    padded = p[:, n_tokens:].sum(-1) / mass.squeeze(-1) if n_tokens else torch.zeros(len(p), device=p.device)
    entropy = log_mass.squeeze(-1) - p.mul_(shifted.clamp_(min=LOG_ZERO)).sum(-1) / mass.squeeze(-1)
    log_z = peak + log_mass
    return own - log_z, rank, entropy, top_ids, top - log_z, padded
