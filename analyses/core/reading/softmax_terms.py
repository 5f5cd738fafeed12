"""How the entropy of a softmax moves: exact decompositions, first orders, and what each leaves out.

Symbols: p = softmax(z) at one state, l = log p, H = -sum p l; dz a change of the logits, q the distribution after
it. Discriminator S_k = p_k (l_k + H); baseline B = sum_k p_k S_k. Everything in nats, natural logarithms. Functions
take log-probabilities [..., vocab] in any float dtype and keep it: give float64 where steps are small, since a
change of entropy is a difference of nearly equal sums. A probability of 0 (logit -inf) adds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

LOG_ZERO = -1e4  # stands for log 0: its exponential is 0, and 0 times it is 0


def log_probs(logits: Float[Tensor, "*row vocab"]) -> Float[Tensor, "*row vocab"]:
    """Log-probabilities in float64, where differences of entropies keep their digits."""
    return torch.log_softmax(logits.double(), dim=-1).clamp_(min=LOG_ZERO)


def entropy(logp: Float[Tensor, "*row vocab"]) -> Float[Tensor, "*row"]:
    """H(p) >= 0."""
    return -(logp.exp() * logp.clamp(min=LOG_ZERO)).sum(-1)


def discriminator(logp: Float[Tensor, "*row vocab"]) -> Float[Tensor, "*row vocab"]:
    """S_k = p_k (l_k + H): raising logit k alone by e changes H by -e S_k + O(e^2).

    Positive exactly where p_k > e^-H; sums to 0 over the vocabulary (arXiv 2602.03392).
    """
    return logp.exp() * (logp.clamp(min=LOG_ZERO) + entropy(logp)[..., None])


def baseline(logp: Float[Tensor, "*row vocab"]) -> Float[Tensor, "*row"]:
    """B = sum_k p_k S_k = H sum p^2 + sum p^2 l = Cov_p(p, l) >= 0; 0 exactly where p is uniform on its support."""
    return (logp.exp() * discriminator(logp)).sum(-1)


def covariance(
    logp: Float[Tensor, "*row vocab"], f: Float[Tensor, "*row vocab"], g: Float[Tensor, "*row vocab"]
) -> Float[Tensor, "*row"]:
    """Cov_p(f, g), both centred under p first: the difference of raw moments cancels badly.

    Args:
        logp: log-probabilities in nats.
        f: one quantity of each token of the vocabulary.
        g: the other.
    """
    p = logp.exp()
    return (p * (f - (p * f).sum(-1, keepdim=True)) * (g - (p * g).sum(-1, keepdim=True))).sum(-1)


def first_order(logp: Float[Tensor, "*row vocab"], dz: Float[Tensor, "*row vocab"]) -> Float[Tensor, "*row"]:
    """-Cov_p(log p, dz): the change of entropy to first order in dz; adding a constant to dz changes nothing."""
    return -covariance(logp, logp.clamp(min=LOG_ZERO), dz)


@dataclass(frozen=True)
class Change:
    """What takes H(p) to H(q), one number per row; `exact = cross_entropy_term - kl` at any step size.

    Attributes:
        exact: H(q) - H(p).
        first_order: -Cov_p(log p, log q - log p).
        cross_entropy_term: CE(q, p) - H(p) = -sum (q - p) log p; tends to `first_order` for small steps.
        kl: KL(q || p) >= 0; tends to `half_variance`.
        half_variance: Var_p(log q - log p) / 2.
        kl_forward: KL(p || q) >= 0, minus the mean of log q - log p under p.
    """

    exact: Float[Tensor, "*row"]
    first_order: Float[Tensor, "*row"]
    cross_entropy_term: Float[Tensor, "*row"]
    kl: Float[Tensor, "*row"]
    half_variance: Float[Tensor, "*row"]
    kl_forward: Float[Tensor, "*row"]


def change(logp: Float[Tensor, "*row vocab"], logq: Float[Tensor, "*row vocab"]) -> Change:
    """The change of entropy from p to q with its parts.

    Where q rules out a token (logit of -inf) that p allows, no step in logits leads there: first_order and
    half_variance are NaN and kl_forward is inf. Where q allows one that p rules out, cross_entropy_term and kl are inf.
    """
    p, q = logp.exp(), logq.exp()
    closed, opened = ((q == 0) & (logq < LOG_ZERO) & (p > 0)).any(-1), ((logp < LOG_ZERO) & (q > 0)).any(-1)
    logp, logq = logp.clamp(min=LOG_ZERO), logq.clamp(min=LOG_ZERO)
    gap = logq - logp
    inf, nan = float("inf"), float("nan")
    return Change(
        exact=entropy(logq) - entropy(logp),
        first_order=first_order(logp, gap).masked_fill(closed, nan),
        cross_entropy_term=(-((q - p) * logp).sum(-1)).masked_fill(opened, inf),
        kl=(q * gap).sum(-1).masked_fill(opened, inf),
        half_variance=(covariance(logp, gap, gap) / 2).masked_fill(closed, nan),
        kl_forward=(-(p * gap).sum(-1)).masked_fill(closed, inf),
    )


def sampled_change(
    logp: Float[Tensor, "*row vocab"], token: Int[Tensor, "*row"], alpha: Float[Tensor, "*row"] | float
) -> Float[Tensor, "*row"]:
    """-alpha (S_k - B): first order of one policy-gradient step dz = alpha (e_k - p) on a sampled token k.

    alpha = step size x ratio x advantage. Zero in expectation over k ~ p. Without B the answer is wrong by orders
    of magnitude on rare tokens, however small the step.

    Args:
        logp: log-probabilities in nats.
        token: id that was sampled.
        alpha: step size x ratio x advantage.
    """
    s = discriminator(logp).gather(-1, token[..., None])[..., 0]
    return -alpha * (s - baseline(logp))


def visitation(
    dlogp: Float[Tensor, " pos"], kl_forward: Float[Tensor, " pos"], entropies: Float[Tensor, " pos"]
) -> Float[Tensor, " pos"]:
    """One response's sample of the change of sequence entropy that comes from visiting other states, per token.

    (log q - log p of the token, centred by its mean -KL(p || q)) x (entropies of the later states). Its mean over
    responses sampled from p is sum over states of P(visit) Cov_p(dz, entropy still to come): what fixed prefixes
    miss. Valid for responses sampled from p at temperature 1 without truncation of its distribution.

    Args:
        dlogp: log q - log p of each token, nats.
        kl_forward: KL(p || q) at each token, nats.
        entropies: entropy at each token, nats.
    """
    later = entropies.flip(-1).cumsum(-1).flip(-1) - entropies
    return (dlogp + kl_forward) * later
