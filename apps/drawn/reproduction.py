"""How a view, or the result behind it, is made again: Python to paste, the command that computed it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pprint import pformat
from typing import Any

from analyses.core.analysis import get, names
from analyses.core.store.store import Store
from apps.catalog import Entry
from apps.drawn.pictures import Picture, value

SAVED = """
for name, (figure, rows) in views.items():
    figure.write_html(f"{name}.html")
    rows.to_csv(f"{name}.csv", index=False)"""


@dataclass(frozen=True)
class Map:
    """A map of page Circuit: its title, its name in ``apps.drawn.maps``, its axes, the part of a result it is of."""

    title: str
    name: str
    x: str
    y: str
    entry: Entry
    at: Mapping[str, Any]


def python_code(entry: Entry, where: Mapping[str, object], figure: str | None) -> str:
    """Python that shows the same view; runs as pasted where the package is installed."""
    lines = [*_head(entry.root), f"result = {_stored(entry, where)}", "print(result.summary())"]
    if figure:
        lines += [f"figure = result.figures()[{figure!r}]", f"figure.write_html({entry.analysis + '.html'!r})"]
    return "\n".join(lines)


def of_run(
    root: Path,
    results: Sequence[tuple[str, Entry]],
    logs: Mapping[str, str],
    staged: Mapping[str, Entry],
    panels: Sequence[str],
    groups: Sequence[str],
    colors: Mapping[str, str],
    look: tuple[Mapping[str, str], float, str] = ({}, 0.0, "step"),
) -> str:
    """Python that draws the curves of page Run.

    Args:
        root: where the results lie.
        results: (name of the run, result) in the order of the page.
        logs: name of the run -> its folder, where a curve is of the training log.
        staged: name of the run -> its over_memorization result.
        panels: curves shown.
        groups: groups of items shown; all if empty.
        colors: name of the run -> colour.
        look: (run -> what it is read as with others, smoothing, horizontal axis).
    """
    names, smoothing, x = look
    stored = [(run, e.analysis, e.key) for run, e in results]
    lines = [
        *_head(root, "from apps.drawn import curves, panels as draw", *(["from probe import RunLog"] if logs else [])),
        f"stored = {_literal(stored)}",
        "found = [",
        "    curves.over_steps(store.get(name, key).summary()).assign(analysis=name, run=run)",
        "    for run, name, key in stored",
        "]",
    ]
    if logs:
        lines += [
            f"logs = {_literal(dict(logs))}",
            "found += [",
            "    curves.logged(RunLog.read(folder)).assign(run=run)",
            "    for run, folder in logs.items()",
            "]",
        ]
    lines += [*_chosen(panels, groups, told=True), f"colors = {_literal(dict(colors))}"]
    if x != "step":
        lines.append("counts = {run: curves.axes(RunLog.read(folder)) for run, folder in logs.items()}")
        lines.append(f"rows = draw.along(rows, counts, {x!r})")
    elif names:
        lines.append(f"rows = draw.together(rows, {_literal(dict(names))})")
    how = "".join(f", {n}={v!r}" for n, v, default in (("x", x, "step"), ("smoothing", smoothing, 0)) if v != default)
    lines.append(f"views = draw.panels(rows, colors{how})")
    for run, entry in staged.items() if x == "step" else ():
        table = f"store.get({entry.analysis!r}, {entry.key!r}).table"
        lines.append(f"draw.staged(views, {run!r}, {table}, colors[{run!r}])")
    return "\n".join([*lines, SAVED])


def of_circuit(
    root: Path,
    results: Sequence[tuple[Entry, Mapping[str, object]]],
    panels: Sequence[str],
    groups: Sequence[str],
    shown: Map | None,
) -> str:
    """Python that draws the curves over layers and the map of page Circuit.

    Args:
        root: where the results lie.
        results: (result, the step read of it) of the curves, in the order of the page.
        panels: curves shown.
        groups: groups of items shown; all if empty.
        shown: the map, if there is one.
    """
    lines = _head(root, "from apps.drawn import curves, maps")
    lines.append("views = {}")
    if results:
        stored = [(e.analysis, e.key, dict(at)) for e, at in results]
        lines += [
            f"stored = {_literal(stored)}",
            "found = [",
            "    curves.over_layers(store.get(name, key).where(**at).summary())",
            "    for name, key, at in stored",
            "]",
            *_chosen(panels, groups),
            'views["layers"] = (curves.layers_figure(rows), rows)',
        ]
    if shown:
        axes = f"{shown.x!r}, {shown.y!r}"
        lines += [
            f"result = {_stored(shown.entry, shown.at)}",
            f"cells = maps.maps_of(result.summary(), {axes})[{shown.name!r}]",
            f'views["map"] = (maps.map_figure(cells, {axes}, {shown.title!r}), cells)',
        ]
    return "\n".join([*lines, SAVED])


def of_pictures(root: Path, shown: Sequence[tuple[Picture, Sequence[tuple[Entry, Mapping[str, Any]]]]]) -> str:
    """Python that draws page Pictures: (picture, the results it is drawn from) in the order of the page."""
    lines = [
        *_head(root, "from apps.drawn import pictures"),
        "known = {p.name: p for p in pictures.PICTURES}",
        "views = {}",
    ]
    for picture, of in shown:
        name = f"views[{picture.name!r}]"
        if picture.joined:
            given = ", ".join(f"{value(e, picture.joined)!r}: {_stored(e, at)}" for e, at in of)
            lines.append(f"{name} = pictures.joined(known[{picture.name!r}], {{{given}}})")
        else:
            lines.append(f"result = {_stored(*of[0])}")
            lines.append(f"{name} = (result.figures()[{picture.figure!r}], result.summary())")
    return "\n".join([*lines, SAVED])


def of_token(
    entry: Entry,
    column: str,
    where: Mapping[str, object],
    look: Mapping[str, object],
    about: tuple[Sequence[Entry], Mapping[str, object], Sequence[int]] | None,
) -> str:
    """Python that draws the strips of page Token.

    Args:
        entry: the result with the signal.
        column: the signal.
        where: item, kind of answer and layer.
        look: step, base and difference, as ``apps.drawn.strips.strips`` takes them.
        about: (results, item and position, steps) of a token chosen, if one is.
    """
    lines = [
        *_head(entry.root, "from apps.drawn import strips", "from apps.catalog import listing"),
        "found = listing(store)",
        f"where = {_literal(dict(where))}",
        f"views = strips.strips(found.find({entry.key!r}), {column!r}, where{_named(look)})",
    ]
    if about:
        entries, place, steps = about
        lines += [
            f"place = {_literal(dict(place))}",
            f"for key in {_literal([e.key for e in entries])}:",
            f"    views |= strips.of_token(found.find(key), place, {_literal(list(steps))})[2]",
        ]
    return "\n".join([*lines, SAVED])


def of_compare(
    sides: Sequence[tuple[Entry, Mapping[str, object]]],
    quantity: str | None,
    chosen: Mapping[str, Sequence[object]],
    value: Any | None,
) -> str:
    """Python that draws page Compare: estimates of both sides, their difference, statistics paired by item.

    Args:
        sides: (result, the step read of it) of A and of B.
        quantity: the quantity shown, if both have one in common.
        chosen: dim -> values shown.
        value: the number paired by item (`apps.drawn.comparison.Value`), if there is one.
    """
    lines = _head(sides[0][0].root, "from apps.drawn import comparison")
    lines += [f"{letter} = {_stored(*side)}" for letter, side in zip("ab", sides, strict=True)]
    lines += [f"chosen = {_literal(dict(chosen))}", "views = {}"]
    if quantity:
        lines += [
            f"both = comparison.sides(a.summary(), b.summary(), {quantity!r})",
            "views |= comparison.estimates(both, chosen)",
        ]
    if value:
        lines += [
            "rows = [comparison.only(side.table, chosen) for side in (a, b)]",
            f"value = comparison.{value!r}",
            "views |= comparison.by_item(*rows, value)",
        ]
    return "\n".join([*lines, SAVED])


def _head(root: Path, *imports: str) -> list[str]:
    return ["from analyses import Store", *imports, "", f"store = Store.at({Store(root).place!r})"]


def _chosen(panels: Sequence[str], groups: Sequence[str], *, told: bool = False) -> list[str]:
    joined = "curves.apart(curves.joined(found))" if told else "curves.joined(found)"
    return [
        f"panels = {_literal(list(panels))}",
        f"groups = {_literal(list(groups))}",
        f"rows = curves.chosen({joined}, panels, groups)",
    ]


def _stored(entry: Entry, at: Mapping[str, object]) -> str:
    part = f".where({_named(at)[2:]})" if at else ""
    return f"store.get({entry.analysis!r}, {entry.key!r}){part}"


def _named(values: Mapping[str, object]) -> str:
    """Further arguments of a call."""
    return "".join(f", {k}={_literal(v)}" for k, v in values.items())


def _literal(value: object) -> str:
    """A value as Python reads it: numbers of numpy as plain ones, texts with quotes and breaks escaped."""
    return pformat(_plain(value), width=88, sort_dicts=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_plain(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return value.item() if hasattr(value, "item") else value


def commands(entries: Iterable[Entry]) -> list[str]:
    """The commands that computed these results, each once; what was not computed from files is left out."""
    return list(dict.fromkeys(c for e in entries if (c := command(e))))


def command(entry: Entry) -> str | None:
    """The command that computes the result again; None where an input was not a file."""

    if entry.analysis not in names():
        return None
    inputs = dict(entry.record.get("inputs", {}))
    words = ["probe", "sweep" if entry.is_sweep else "run", entry.analysis]
    if entry.is_sweep:
        words += ["--checkpoints", entry.run]
    for given in get(entry.analysis).inputs:
        described = inputs.get(given.name)
        if described is None:
            continue
        value = described.get("path") or described.get("source") or described.get("key")
        if not value or value == "in memory":
            return None
        words += [f"--{given.name.replace('_', '-')}", str(value)]
    for name, value in entry.options.items():
        words += _flag(name, value)
    return " ".join(shlex.quote(w) for w in words)


def _flag(name: str, value: object) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", ",".join(map(str, value)) if isinstance(value, list) else str(value)]


def of_reading(entry: Entry, item: str, at: tuple[int, int]) -> str:
    """Python that gives what the model wrote of one item at two steps.

    Args:
        entry: a result with texts.
        item: the item.
        at: steps of A and of B.
    """
    lines = [
        *_head(entry.root),
        f"answers = store.get({entry.analysis!r}, {entry.key!r}).table",
        f"answers = answers[answers['item'] == {item!r}]",
        f"answers = answers[answers['step'].isin({list(at)!r})] if 'step' in answers else answers",
        "for answer in answers.to_dict('records'):",
        "    print(answer.get('step'), answer['correct'], answer['text'], sep='\\n')",
    ]
    return "\n".join(lines)
