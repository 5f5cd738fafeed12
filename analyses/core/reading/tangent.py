"""How a quantity at every token moves along one direction in the space of weights, and what direction was taken.

The derivative is exact (automatic differentiation, twice backward), not a finite difference, and it is one number
per token: <grad f, direction> for each f of a batch at once, without a gradient per token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from probe.errors import InputError, ProbeError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from probe.model import Model
    from probe.tokens import TokenBatch

Saved: TypeAlias = Mapping[str, Any]
"""What an optimizer saved of a weight or a group of them."""

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

    delta = -lr [m / (1 - b1^n)] / [sqrt(v / (1 - b2^n)) + eps] - lr wd theta_before, in float32, with the learning rate
    that the update was made with (`probe.training.learning_rate`), v the largest so far under amsgrad, and no second
    decay where L2 is coupled (there it is in m and v already). `model` holds the checkpoint's weights (after the
    update).

    Raises:
        InputError: no `optimizer.pt`, not Adam's state, parameters that do not fit the model's, a learning rate or a
            kind of decay that nothing tells.
    """
    file = Path(folder) / "optimizer.pt"
    if not file.is_file():
        raise InputError(f"{folder}: no optimizer.pt; save optimizer state, or give adjacent checkpoints")
    saved: dict[str, Any] = torch.load(file, weights_only=True, map_location="cpu")
    names = _order(model)
    out: dict[str, Tensor] = {}
    weights = model.weights()
    for group, rate in zip(saved["param_groups"], _rates(file, saved), strict=True):
        decay = _decoupled_decay(file, group)
        for index in group["params"]:
            if index not in saved["state"] or index >= len(names):
                continue  # a frozen parameter has no state
            state, weight = saved["state"][index], weights[names[index]]
            _check_adam(file, state, group, names[index], weight)
            out[names[index]] = _adam(state, group, weight.detach(), rate, decay)
    if not out:
        raise InputError(f"{file}: no state of any parameter")
    tied = {id(p): n for n, p in weights.items() if n in out}
    return {n: out[tied[id(p)]] if id(p) in tied else torch.zeros_like(p) for n, p in weights.items()}


def _rates(file: Path, saved: Saved) -> list[float]:
    from probe.training.learning_rate import learning_rates_used

    steps = {int(float(s["step"])) for s in saved["state"].values() if "step" in s}
    if len(steps) != 1:
        raise InputError(f"{file}: parameters have made {sorted(steps)[:4] or 'no'} updates; expected one number")
    return learning_rates_used(file.parent, saved["param_groups"], steps.pop())[0]


def _decoupled_decay(file: Path, group: Saved) -> float:
    """The decay that is taken off the weights themselves (AdamW); 0 where it was part of the gradient (Adam).

    Raises:
        InputError: a decay of which nothing says which of the two it is.
    """
    from probe.training.learning_rate import training_arguments

    decay = float(group["weight_decay"])
    kind = group.get("decoupled_weight_decay")
    if decay == 0 or kind is not None:
        return decay if kind else 0.0
    named = str(training_arguments(file.parent).get("optim", ""))
    if named.startswith("adamw"):
        return decay
    raise InputError(
        f"{file}: weight_decay {decay:g}, and neither the optimizer's state nor training_args.bin says whether it was "
        "taken off the weights (AdamW) or added to the gradient (Adam); give adjacent checkpoints"
    )


def _check_adam(file: Path, state: Saved, group: Saved, name: str, weight: Tensor) -> None:
    """Raise unless this is the state of plain Adam or AdamW (RAdam, NAdam and others keep the same names)."""
    known = {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}
    if not {"exp_avg", "exp_avg_sq"} <= set(state) or state["exp_avg"].shape != weight.shape:
        raise InputError(
            f"{file}: the state of {name} {tuple(weight.shape)} is not Adam's ({', '.join(sorted(state))})"
        )
    largest = bool(group.get("amsgrad"))
    # Every optimizer of torch lists `foreach`; only Adam's list `amsgrad` too.
    if set(state) - known or ("foreach" in group and "amsgrad" not in group) or largest != ("max_exp_avg_sq" in state):
        odd = sorted(set(state) - known) or ["amsgrad"]
        raise InputError(f"{file}: the state of {name} is of another optimizer than Adam or AdamW ({', '.join(odd)})")


def _adam(state: Saved, group: Saved, after: Tensor, rate: float, decay: float) -> Tensor:
    n, (b1, b2) = float(state["step"]), group["betas"]
    second = state["max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"]
    m, v = state["exp_avg"] / (1 - b1**n), second / (1 - b2**n)
    step = -rate * m / (v.sqrt() + group["eps"])
    before = (after - step.to(after)) / (1 - rate * decay)
    return (after - before).detach()


def _order(model: Model) -> list[str]:
    """Trainable parameters as transformers' Trainer hands them to the optimizer: decayed ones first."""
    seen: dict[int, str] = {}
    for name, parameter in model.weights().items():
        seen.setdefault(id(parameter), name)
    names = list(seen.values())
    return [n for n in names if not NO_DECAY.search(n)] + [n for n in names if NO_DECAY.search(n)]
