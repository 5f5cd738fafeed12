"""Where prompt and answer do not meet between two tokens: counted over a run's items, said in its result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SHOWN = 3
SAID = {
    "straddle": "{n} of {of} items: the answer's first token begins with the prompt's last characters (such as {ids}); "
    "it counts as the answer's",
    "other_ids": "{n} of {of} items: prompt and answer tokenised apart give other ids than their joint text, which is "
    "what training and generation meet (such as {ids}); --boundary joint scores that",
    "other_text": "{n} of {of} items: tokenised apart they spell another text than prompt + answer (such as {ids})",
}


def facts(met: Mapping[tuple[str, str], Iterable[str]], keys: Sequence[tuple[str, str]]) -> dict[str, object]:
    """Of the items named by `keys`, how many were met in which way; {} where every seam is clean."""
    of: dict[tuple[str, str], set[str]] = {}
    for (name, kind), kinds in met.items():  # behind a NUL an analysis numbers the forms of one item (its choices)
        of.setdefault((name.partition("\0")[0], kind), set()).update(kinds)
    given = [key for key in keys if key in of]
    found = {said: [name for name, kind in given if said in of[name, kind]] for said in SAID}
    counted = {kind: {"n": len(ids), "such_as": ids[:SHOWN]} for kind, ids in found.items() if ids}
    return {"items": len(given), **counted} if counted else {}


def together(parts: Iterable[Mapping[str, Any]], items: int) -> dict[str, object]:
    """Facts of a whole of `items` items from those of its parts."""
    listed = [p for p in parts if p]
    found: dict[str, object] = {}
    for kind in SAID:
        of = [p[kind] for p in listed if kind in p]
        if of:
            found[kind] = {"n": sum(o["n"] for o in of), "such_as": [i for o in of for i in o["such_as"]][:SHOWN]}
    return {"items": items, **found} if found else {}


def said(of: Mapping[str, Any]) -> list[str]:
    """The facts in words."""
    return [
        text.format(n=of[kind]["n"], of=of["items"], ids=", ".join(of[kind]["such_as"]))
        for kind, text in SAID.items()
        if kind in of
    ]
