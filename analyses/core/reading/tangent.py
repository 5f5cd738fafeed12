"""How a quantity at every token moves along one direction in the space of weights, and what direction was taken.

The derivative is exact (automatic differentiation, twice backward), not a finite difference, and it is one number
per token: <grad f, direction> for each f of a batch at once, without a gradient per token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from probe.errors import InputError, ProbeError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from probe.model import Model
    from probe.tokens import TokenBatch

Direction = Mapping[str, "Tensor"]

# transformers' own rule for parameters without weight decay, which decides their order in the optimizer's state.
NO_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)", re.IGNORECASE)


def difference(tuned: Model, base: Model) -> dict[str, Tensor]:
    """The weights of `tuned` minus those of `base`, by Hugging Face name."""
    ours, theirs = tuned.weights(), base.weights()
    if ours.keys() != theirs.keys():
        raise InputError("two models with different parameters have no difference of weights")
    return {name: (weight - theirs[name]).detach() for name, weight in ours.items()}


def along(
    model: Model, batch: TokenBatch, direction: Direction, f: Callable[[Tensor], Float[Tensor, " token"]]
) -> tuple[Float[Tensor, " token"], Float[Tensor, " token"]]:
    """f of the batch's logits [item pos vocab], and its derivative when the weights move along `direction`.

    Args:
        model: read, not changed.
        batch: the tokens.
        direction: change of each parameter, by name; missing ones do not move.
        f: any differentiable function of the logits with one number per token.

    Raises:
        ProbeError: a parameter of `direction` has no part in the logits, so its movement would be left out.
    """
    names, leaves = _leaves(model, direction)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # fused kernels go backward once only
        logits = model.run(batch, logits="all", grad=True).logits
        assert logits is not None
        value = f(logits)
        weight = torch.zeros_like(value, requires_grad=True)
        found: Any = torch.autograd.grad(value, leaves, weight, create_graph=True, allow_unused=True)
        gradients: list[Tensor | None] = list(found)
        idle = [n for n, g in zip(names, gradients, strict=True) if g is None and bool(direction[n].any())]
        if idle:
            raise ProbeError(f"parameters that moved but do not enter the logits: {idle[:3]}")
        pairs = [(g, direction[n]) for n, g in zip(names, gradients, strict=True) if g is not None]
        total = torch.stack([(g * d.to(g)).sum() for g, d in pairs]).sum()
        (derivative,) = torch.autograd.grad(total, weight)
    return value.detach(), derivative


def _leaves(model: Model, direction: Direction) -> tuple[list[str], list[Tensor]]:
    """Each parameter once: tied ones move together and have one gradient."""
    seen: dict[int, str] = {}
    for name, parameter in model.weights().items():
        if name in direction and id(parameter) not in seen:
            seen[id(parameter)] = name
    weights = model.weights()
    names = list(seen.values())
    return names, [weights[n] for n in names]


def optimizer_step(folder: str | Path, model: Model) -> dict[str, Tensor]:
    """The last update a checkpoint's Adam optimizer made, rebuilt from `optimizer.pt` beside its weights.

    delta = -lr [m / (1 - b1^n)] / [sqrt(v / (1 - b2^n)) + eps] - lr wd theta_before, in float32. `model` holds the
    checkpoint's weights (after the update).

    Raises:
        InputError: no `optimizer.pt`, not Adam's state, or parameters that do not fit the model's.
    """
    file = Path(folder) / "optimizer.pt"
    if not file.is_file():
        raise InputError(f"{folder}: no optimizer.pt; save optimizer state, or give adjacent checkpoints")
    saved: dict[str, Any] = torch.load(file, weights_only=True, map_location="cpu")
    names = _order(model)
    out: dict[str, Tensor] = {}
    weights = model.weights()
    for group in saved["param_groups"]:
        for index in group["params"]:
            if index not in saved["state"] or index >= len(names):
                continue  # a frozen parameter has no state
            state, weight = saved["state"][index], weights[names[index]]
            if "exp_avg_sq" not in state or state["exp_avg"].shape != weight.shape:
                raise InputError(f"{file}: state {index} is not Adam's for {names[index]} {tuple(weight.shape)}")
            out[names[index]] = _adam(state, group, weight.detach())
    if not out:
        raise InputError(f"{file}: no state of any parameter")
    tied = {id(p): n for n, p in weights.items() if n in out}
    return {n: out[tied[id(p)]] if id(p) in tied else torch.zeros_like(p) for n, p in weights.items()}


def _adam(state: Mapping[str, Any], group: Mapping[str, Any], after: Tensor) -> Tensor:
    n, (b1, b2) = float(state["step"]), group["betas"]
    m, v = state["exp_avg"] / (1 - b1**n), state["exp_avg_sq"] / (1 - b2**n)
    step = -group["lr"] * m / (v.sqrt() + group["eps"])
    shrink = 1 - group["lr"] * group["weight_decay"]
    before = (after - step.to(after)) / shrink
    return (after - before).detach()


def _order(model: Model) -> list[str]:
    """Trainable parameters as transformers' Trainer hands them to the optimizer: decayed ones first."""
    seen: dict[int, str] = {}
    for name, parameter in model.weights().items():
        seen.setdefault(id(parameter), name)
    names = list(seen.values())
    return [n for n in names if not NO_DECAY.search(n)] + [n for n in names if NO_DECAY.search(n)]
