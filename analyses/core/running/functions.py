"""Analyses as functions, `analyses.logit_lens(model, prompts, top_k=5)`: `run` under the analysis's own signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from inspect import Parameter
from typing import Any

from analyses.core.analysis import Analysis, argument_help, get
from analyses.core.result import Result
from analyses.core.running.inputs import Loading
from analyses.core.running.run import run
from analyses.core.store import Store
from probe.errors import InputError

_AROUND: dict[str, tuple[Any, str]] = {
    "store": (Store | None, "where results live; None computes without saving."),
    "loading": (Loading | None, "backend, dtype and device of models given as paths."),
    "limit": (int | None, "use only the first items of the prompts."),
}
"""What `run` takes beside inputs and options: annotation and help."""


@cache
def function_of(name: str) -> Callable[..., Result]:
    """The function of an analysis: inputs by position or name, options by name, results as `analyses.run` gives them.

    Raises:
        InputError: no such analysis.
    """
    of = get(name)
    inputs = [i.name for i in of.inputs]

    def call(*args: Any, **kwargs: Any) -> Result:
        by_position = dict(zip(inputs, args, strict=False))
        twice = sorted(set(by_position) & set(kwargs))
        if twice or len(args) > len(inputs):
            wrong = f"{twice[0]} twice" if twice else f"{len(args)} values by position"
            raise InputError(f"{name} was given {wrong}; expected {name}({', '.join(inputs)}) and options by name")
        return run(name, **by_position, **kwargs)

    call.__name__ = call.__qualname__ = name
    call.__module__ = "analyses"
    call.__doc__ = _doc(of)
    call.__annotations__ = {}
    call.__signature__ = _signature(of)  # type: ignore[attr-defined]
    return call


def _sources(of: Analysis) -> list[str]:
    """Inputs of the earlier results it reads: given these, such a result is computed."""
    own = {i.name for i in of.inputs}
    names = (i.name for u in of.inputs if u.upstream for i in get(u.upstream).inputs)
    return [name for name in dict.fromkeys(names) if name not in own]


def _signature(of: Analysis) -> inspect.Signature:
    empty = Parameter.empty
    inputs = [
        Parameter(i.name, Parameter.POSITIONAL_OR_KEYWORD, default=None if i.optional or i.upstream else empty,
                  annotation=i.kind) for i in of.inputs
    ]  # fmt: skip
    needed = sorted(inputs, key=lambda p: p.default is not empty)
    keyed = [Parameter(name, Parameter.KEYWORD_ONLY, default=None) for name in _sources(of)]
    keyed += [Parameter(o.name, Parameter.KEYWORD_ONLY, default=o.default, annotation=o.annotation) for o in of.options]
    keyed += [
        Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=hint) for name, (hint, _) in _AROUND.items()
    ]
    return inspect.Signature([*needed, *keyed], return_annotation=Result)


def _doc(of: Analysis) -> str:
    """What `help` says: what it measures, every input and option, what it does not show."""
    told = argument_help(inspect.getdoc(of.function) or "")
    inputs = {i.name: told.get(i.name) or _input_help(i.kind, i.upstream, i.optional) for i in of.inputs}
    sources = dict.fromkeys(_sources(of), "what the earlier result is computed from, where it is not given.")
    options = {o.name: o.help for o in of.options}
    around = {name: text for name, (_, text) in _AROUND.items()}
    lines = [f"    {name}: {text}" for name, text in {**inputs, **sources, **options, **around}.items()]
    sections = [f"{head}: {text}" for head, text in of.sections.items()]
    return "\n\n".join([of.title, *sections, "Args:\n" + "\n".join(lines)])


def _input_help(kind: str, upstream: str | None, optional: bool) -> str:
    what = f"a result of {upstream}, or its key" if upstream else _KINDS[kind]
    return f"{what}{' (may be left out)' if optional else ''}."


_KINDS = {
    "Model": "a checkpoint: folder, Checkpoint or Model",
    "Prompts": "prompts: a file or Prompts",
    "Rollouts": "rollouts: a file or Rollouts",
    "RunLog": "a run log: a file or RunLog",
    "Table": "a table: a file or a pandas frame",
    "Checkpoints": "checkpoints of one run: a folder or a list",
}
