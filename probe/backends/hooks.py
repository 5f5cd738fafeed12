"""One way to attach to a site: a visit at one side of a module, for a backend's pass and for replay's alike."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from probe.backends.place import Place
from probe.backends.visits import Visitor
from probe.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from probe.backends.place import Map
    from probe.backends.protocol import Visit
    from probe.interventions import Edit
    from probe.sites import Site

ARGUMENT = "hidden_states"
"""Name under which transformers passes what a module works on, where it passes it by name."""


@dataclass(frozen=True, eq=False)
class Port:
    """A module, and how a site's tensor lies in what it takes or gives."""

    module: nn.Module
    place: Place


@contextmanager
def attached(visits: Mapping[Port, Visit], n_items: int = 1) -> Generator[None]:
    """Within the block each visit is called at its port, on a pass of `n_items` items."""
    with ExitStack() as stack:
        for port, visit in visits.items():
            stack.callback(attach(port, visit, n_items).remove)
        yield


def attach(port: Port, visit: Visit, n_items: int = 1) -> Any:
    """A visit at a port; the handle's `remove` takes it away."""
    place = port.place

    def through(x: Tensor) -> Tensor:
        new = visit(place.view(x, n_items))
        return x if new is None else place.write(new, x)

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return _replaced(args, place.index, through(args[place.index])), kwargs
        return args, {**kwargs, ARGUMENT: through(kwargs[ARGUMENT])}

    def after(_module: nn.Module, _args: Any, out: Any) -> Any:
        return _replaced(out, place.index, through(out[place.index])) if isinstance(out, tuple) else through(out)

    if place.side == "in":
        return port.module.register_forward_pre_hook(before, with_kwargs=True)
    return port.module.register_forward_hook(after)


def _replaced(values: tuple[Any, ...], index: int, new: object) -> tuple[Any, ...]:
    return (*values[:index], new, *values[index + 1 :])


@contextmanager
def edited_module(plain: Any, of: Map, edits: Sequence[Edit], resolve: Callable[[Site | str], Site]) -> Generator[Any]:
    """Within the block the plain module's own calls (`generate` too) run under the edits, at every token.

    Raises:
        InputError: an edit of chosen positions, or at a site that is no side of a module.
    """
    visits: dict[Site, Visitor] = {}
    for edit in edits:
        site = resolve(edit.site).whole
        if site not in of.places or not edit.reaches_generated:
            raise InputError(
                f"edit at {edit.site}, positions={edit.positions!r}, phase={edit.phase!r}: Hugging Face's own calls "
                "are edited at every token of a site that is a side of a module; use model.run or model.generate"
            )
        visits.setdefault(site, Visitor(site, keep=False)).edits.append((edit, None))
    ports = {Port(plain.get_submodule(of.places[s].path), of.places[s]): visit for s, visit in visits.items()}
    with attached(ports):
        yield plain
