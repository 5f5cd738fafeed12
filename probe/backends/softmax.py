"""Looking into attention where no module shows it: the softmax that a family's own attention calls.

Scores are what that softmax takes (masked, scaled, capped), the pattern is what it gives. Nothing is computed anew:
while an attention module runs, its calls of `softmax` pass through here, whatever function they stand in.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from probe.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from probe.backends.protocol import Visit

_SOFTMAX: frozenset[Any] = frozenset({nn.functional.softmax, torch.softmax, torch.Tensor.softmax})
_FUSED: frozenset[Any] = frozenset({nn.functional.scaled_dot_product_attention})


@dataclass(frozen=True)
class Door:
    """The softmax of one attention module.

    `path`: of the module; `n_heads`: its heads; `has_sink`: a sink stands beside the keys; `caller`: name of the
    function that calls the softmax.
    """

    path: str
    n_heads: int
    has_sink: bool = False
    caller: str = ""


def is_over_keys(x: Tensor, n_heads: int) -> bool:
    """Whether a softmax of this tensor is one over key positions, by its shape.

    [item head pos key_pos], with a sink one key more; some families join items and heads.
    """
    return n_heads > 0 and ((x.ndim == 4 and x.shape[1] == n_heads) or (x.ndim == 3 and x.shape[0] % n_heads == 0))


class Softmaxes(TorchFunctionMode):
    """While entered, `seen` gets what a softmax takes and who calls it; None for attention in one fused call."""

    def __init__(self, seen: Callable[[Tensor | None, str], None]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note softmaxes, change nothing."""
        del types
        if func in _SOFTMAX:
            self.seen(args[0] if args else kwargs["input"], _caller())
        elif func in _FUSED:
            self.seen(None, "")
        return func(*args, **(kwargs or {}))


def _caller() -> str:
    """Name of the nearest function on the stack that is not torch's."""
    frame = inspect.currentframe()
    inner = str(Path(torch.__file__).parent)
    while frame is not None and (frame.f_code.co_filename.startswith(inner) or frame.f_code.co_filename == __file__):
        frame = frame.f_back
    return frame.f_code.co_name if frame is not None else ""


class _Visited(TorchFunctionMode):
    """Hands the softmax over keys of one attention module to the visits of its scores and its pattern."""

    def __init__(self, door: Door, scores: Visit | None, pattern: Visit | None) -> None:
        super().__init__()
        self.door, self.scores, self.pattern = door, scores, pattern

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The softmax with its input and output visited; all else as it is."""
        del types
        kwargs = dict(kwargs or {})
        if func in _FUSED:
            raise InputError(
                "attn_scores and pattern exist only under the eager attention kernel; load with "
                "attn_implementation='eager'"
            )
        if func not in _SOFTMAX:
            return func(*args, **kwargs)
        x = args[0] if args else kwargs.pop("input")
        if not is_over_keys(x, self.door.n_heads):
            return func(x, *args[1:], **kwargs)
        x = self._through(self.scores, x)
        return self._through(self.pattern, func(x, *args[1:], **kwargs))

    def _through(self, visit: Visit | None, x: Tensor) -> Tensor:
        """What goes on; an attention sink's column beside the keys is not shown and stays as it is."""
        if visit is None:
            return x
        if x.ndim == 3:
            whole = self._through(visit, x.unflatten(0, (-1, self.door.n_heads)))
            return whole.flatten(0, 1)
        new = visit(x[..., :-1] if self.door.has_sink else x)
        if new is None:
            return x
        return torch.cat([new, x[..., -1:]], -1) if self.door.has_sink else new


@contextmanager
def opened(visits: Mapping[nn.Module, tuple[Door, Mapping[str, Visit]]]) -> Generator[None]:
    """Within the block, attention modules run with their scores and patterns visited.

    Args:
        visits: attention module -> how its softmax looks, and visits by kind (`attn_scores`, `pattern`).
    """
    with ExitStack() as stack:
        for module, (door, by_kind) in visits.items():
            stack.enter_context(_opened(module, door, by_kind.get("attn_scores"), by_kind.get("pattern")))
        yield


@contextmanager
def _opened(module: Any, door: Door, scores: Visit | None, pattern: Visit | None) -> Generator[None]:
    own = vars(module).get("forward")  # a module placed by a device map has its own
    plain = module.forward

    def forward(*args: object, **kwargs: object) -> Any:
        with _Visited(door, scores, pattern):
            return plain(*args, **kwargs)

    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own
