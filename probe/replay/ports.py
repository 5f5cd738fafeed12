"""Changing what passes a site inside a plain Hugging Face block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakKeyDictionary

from torch import nn

from probe.backends.places import Place, places
from probe.sites import Site

if TYPE_CHECKING:
    from torch import Tensor

Change: TypeAlias = "Callable[[Tensor], Tensor | None]"
"""Gets the site's tensor [item pos ...] and returns the changed one, or None to leave it."""

INSIDE = ("q", "k", "v", "z", "attn_out", "mlp_pre", "mlp_up", "mlp_post", "mlp_out")
"""Kinds seen at a module inside a block (attn_scores and pattern are seen in the attention function)."""

_KNOWN: WeakKeyDictionary[nn.Module, dict[Site, Place]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Port:
    """A module of a block, and how a site's tensor lies in what it takes or gives."""

    module: nn.Module
    place: Place


def ports(hf_model: nn.Module, layer: int) -> dict[str, Port]:
    """The ports of one block by kind of site."""
    if hf_model not in _KNOWN:  # finding them runs a block; they do not change with the weights
        _KNOWN[hf_model] = places(hf_model)
    known = _KNOWN[hf_model]
    here = {kind: known.get(Site(kind, layer)) for kind in INSIDE}
    return {kind: Port(hf_model.get_submodule(p.path), p) for kind, p in here.items() if p is not None}


@contextmanager
def changed(found: Mapping[str, Port], changes: Mapping[str, Change]) -> Iterator[None]:
    """Within the block, each change is applied at its port."""
    with ExitStack() as stack:
        for kind, change in changes.items():
            stack.callback(_attach(found[kind], change).remove)
        yield


def _attach(port: Port, change: Change) -> Any:
    def apply(x: Tensor) -> Tensor | None:
        new = change(port.place.view(x))
        return None if new is None else port.place.write(new, x)

    def before(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        new = apply(args[0])
        return None if new is None else (new, *args[1:])

    def after(_module: nn.Module, _args: Any, out: Any) -> Any:
        new = apply(out[0] if isinstance(out, tuple) else out)
        if new is None:
            return None
        return (new, *out[1:]) if isinstance(out, tuple) else new

    if port.place.side == "in":
        return port.module.register_forward_pre_hook(before)
    return port.module.register_forward_hook(after)
