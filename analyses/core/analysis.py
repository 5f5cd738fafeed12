"""The registry: an analysis is one typed function in one file; everything around it is read off its signature.

Nothing here imports torch, so ``probe list``, ``--help`` and the dashboard work without it. Input annotations
(``Model``, ``Prompts`` ...) may therefore stay unimported at run time: they are matched by name.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, overload

import pandas as pd

from analyses.core import vocabulary
from analyses.core.homes import homes
from analyses.core.result import Result
from analyses.core.work import Case, Work
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

DOC_SECTIONS = ("Definition", "Units", "Source", "Does not show", "Control")
ByItem = Callable[[pd.DataFrame, Mapping[str, Any]], Result]
Check = Callable[[Any, Mapping[str, Any]], None]
Reads = Callable[[Mapping[str, Any]], tuple[str, ...]]


class Kind:
    """Stand-in for an input type while annotations are read."""


class Model(Kind): ...


class Prompts(Kind): ...


class Rollouts(Kind): ...


class RunLog(Kind): ...


class Table(Kind): ...


class Checkpoints(Kind): ...


STAND_INS: dict[str, Any] = {k.__name__: k for k in (Model, Prompts, Rollouts, RunLog, Table, Checkpoints)}


@dataclass(frozen=True)
class Input:
    """One positional parameter: ``kind`` names its type; ``upstream`` the analysis a Result must come from."""

    name: str
    kind: str
    optional: bool = False
    upstream: str | None = None


@dataclass(frozen=True)
class Option:
    """One keyword-only parameter with its annotation, default and help line (see `analyses.core.vocabulary`)."""

    name: str
    annotation: Any
    default: Any
    help: str

    @property
    def choices(self) -> tuple[Any, ...]:
        """Values of a Literal option, else ()."""
        return typing.get_args(self.annotation) if typing.get_origin(self.annotation) is Literal else ()


@dataclass(frozen=True)
class Analysis:
    """A registered analysis; calling it runs the function as it is, without store or provenance.

    `work` says what one item takes (see `analyses.core.work`); without it the signature does. `takes_turns`:
    the checkpoints of a pair may be in memory one after the other (`probe.turns`). `by_item`: each row belongs to one
    item whatever the others are; from the rows of all items and the options, it makes the result of all of them.
    `check`: what must hold of all prompts, under the options, before anything is computed for some of them.
    `renamed`: former names of options and the names they have now; a former one is answered with the new one.
    `reads`: what its passes over the prompts read under these options (kinds, sites, `last_state`), so that others can
    be answered from them.
    """

    name: str
    function: Callable[..., Result]
    inputs: tuple[Input, ...]
    options: tuple[Option, ...]
    work: Callable[[Case], Work] | None = None
    takes_turns: bool = False
    by_item: ByItem | None = None
    check: Check | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    reads: Reads | None = None

    def __call__(self, *args: object, **kwargs: object) -> Result:
        return self.function(*args, **kwargs)

    @property
    def arity(self) -> Literal["checkpoint", "pair", "result"]:
        """How a series is swept: one checkpoint, a pair of them, or results that already carry ``step``."""
        models = sum(i.kind == "Model" for i in self.inputs)
        return "checkpoint" if models == 1 else "pair" if models == 2 else "result"

    @property
    def title(self) -> str:
        """First line of the module docstring."""
        return self.doc.partition("\n")[0].strip()

    @property
    def doc(self) -> str:
        """The module docstring."""
        return inspect.getdoc(inspect.getmodule(self.function)) or ""

    @property
    def sections(self) -> dict[str, str]:
        """Sections of the module docstring (Definition, Units, Source, Does not show, Control)."""
        return docstring_sections(self.doc, DOC_SECTIONS)

    def option(self, name: str) -> Option:
        """The option called ``name``; an unknown one is an InputError naming the nearest."""
        for option in self.options:
            if option.name == name:
                return option
        if name in self.renamed:
            raise InputError(f"{self.name}: the option {name!r} is called {self.renamed[name]!r} now")
        raise InputError(unknown(f"option of {self.name}", name, [o.name for o in self.options]))

    def figures(self, result: Result) -> dict[str, Figure]:
        """Plotly figures by name; {} for an analysis that draws none."""
        draw = getattr(inspect.getmodule(self.function), "figures", None)
        return draw(result) if draw else {}


@overload
def analysis(function: Callable[..., Result]) -> Analysis: ...
@overload
def analysis(
    *,
    work: Callable[[Case], Work] | None = None,
    takes_turns: bool = False,
    by_item: ByItem | None = None,
    check: Check | None = None,
    renamed: Mapping[str, str] = ...,
    reads: Reads | None = None,
) -> Callable[[Callable[..., Result]], Analysis]: ...
def analysis(function: Callable[..., Result] | None = None, **declared: object) -> Any:
    """Register ``function`` under its own name (one analysis per file, file named alike).

    Args:
        function: the analysis.
        declared: what the signature does not say, as `@analysis(work=...)`: see `Analysis`. `work`: what one item
            takes. `takes_turns`: it does all it does with base before it turns to tuned, or spills what it needs of
            base. `by_item`: the result from the rows of all items, where each row needs its own item alone. `check`:
            raises InputError on prompts of which some cannot be computed. `renamed`: former name -> option. `reads`:
            what its passes over the prompts read, where they are under no edit.

    Raises:
        TypeError: an input without a known type, an option without annotation or default, or one that shares its name
            with others and not its type (`analyses.core.vocabulary`).
    """
    return _registered(function) if function is not None else lambda f: replace(_registered(f), **declared)


def _registered(function: Callable[..., Result]) -> Analysis:
    hints = typing.get_type_hints(function, localns=STAND_INS, include_extras=True)
    helps = argument_help(inspect.getdoc(function) or "")
    inputs: list[Input] = []
    options: list[Option] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            if parameter.default is inspect.Parameter.empty:
                raise TypeError(f"{function.__name__}: option {name!r} needs a default")
            text = vocabulary.told(function.__name__, name, hints[name], helps.get(name, ""))
            options.append(Option(name, hints[name], parameter.default, text))
        else:
            inputs.append(_input(function.__name__, name, hints.get(name)))
    return Analysis(function.__name__, function, tuple(inputs), tuple(options))


def _input(owner: str, name: str, hint: object) -> Input:
    members = [hint]
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        members = list(typing.get_args(hint))
    optional = type(None) in members
    (kind,) = [m for m in members if m is not type(None)]
    upstream = None
    if typing.get_origin(kind) is Annotated:
        kind, upstream = typing.get_args(kind)[:2]
    if kind is not Result and not (inspect.isclass(kind) and issubclass(kind, Kind)):
        raise TypeError(f"{owner}: input {name!r} must be one of {[*STAND_INS, 'Result']}, got {hint!r}")
    return Input(name, kind.__name__, optional, upstream)


def names() -> list[str]:
    """Names of all analyses: the files of the groups."""
    return list(homes())


@cache
def get(name: str) -> Analysis:
    """The analysis called ``name``.

    Raises:
        InputError: no such analysis (the nearest names are given).
    """
    if name not in homes():
        raise InputError(unknown("analysis", name, names()))
    found = getattr(importlib.import_module(homes()[name]), name, None)
    if not isinstance(found, Analysis):
        raise TypeError(f"{homes()[name]} must define a function {name!r} decorated with @analysis")
    return found


def unknown(what: str, given: str, known: Iterable[str]) -> str:
    """Message for a name that does not exist, with the nearest that do."""
    known = sorted(known)
    near = difflib.get_close_matches(given, known, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"no {what} called {given!r}.{hint} Known: {', '.join(known) or 'none'}."


def docstring_sections(doc: str, headings: Iterable[str]) -> dict[str, str]:
    """Text under each ``Heading:`` of a Google-style docstring."""
    pattern = re.compile(rf"^({'|'.join(headings)}):[ \t]*", re.MULTILINE)
    pieces = pattern.split(doc)
    return {h: inspect.cleandoc(t).strip() for h, t in zip(pieces[1::2], pieces[2::2], strict=True)}


def argument_help(doc: str) -> dict[str, str]:
    r"""One help line per argument of a Google-style ``Args:`` section.

    >>> argument_help("A sum.\n\nArgs:\n    a: one number.")
    {'a': 'one number.'}
    """
    text = docstring_sections(doc, ("Args", "Returns", "Raises")).get("Args", "")
    found: dict[str, list[str]] = {}
    current = ""
    for line in text.splitlines():
        head = re.match(r"(\w+): *(.*)", line)
        if head and not line.startswith(" "):
            current = head[1]
            found[current] = [head[2]]
        elif current:
            found[current].append(line.strip())
    return {name: " ".join(lines).strip() for name, lines in found.items()}


def checked_options(of: Analysis, given: Mapping[str, object]) -> dict[str, object]:
    """All options of ``of`` with defaults filled in.

    Raises:
        InputError: an unknown option, a value outside a Literal's choices, or a text for a list.
    """
    for name, value in given.items():
        option = of.option(name)
        if option.choices and value not in option.choices:
            raise InputError(f"{of.name}: {name}={value!r} is not one of {list(option.choices)}")
        if typing.get_origin(option.annotation) is tuple and isinstance(value, str):
            raise InputError(f"{of.name}: {name}={value!r} is one text; a list is expected, such as [{value!r}]")
    return {o.name: _plain(given.get(o.name, o.default)) for o in of.options}


def _plain(value: Any) -> Any:
    """Numbers of numpy, as tables and results give them, are those of Python: a record is JSON."""
    if isinstance(value, list | tuple):
        return type(value)(_plain(v) for v in value)
    return value.item() if type(value).__module__ == "numpy" and not value.shape else value
