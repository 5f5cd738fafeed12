"""Responses of a model to prompts, item by item, resumable: what was generated is on disk before it is graded.

Each (item, sample) has a random stream of its own in ``Model.generate``, so a run that was stopped and goes on
equals one that was not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import probe
from analyses.core.keys import digest, source_hash
from analyses.core.progress import progress
from probe.checkpoints.files import cache_folder
from probe.errors import InputError
from probe.items import Item

if TYPE_CHECKING:
    from probe import Model

LOT = 8
"""Batches' worth of items that are generated, joining each other, before they are kept: a run stopped loses no more."""


@dataclass(frozen=True)
class Decoding:
    """How responses are drawn; temperature 0 is greedy."""

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    n_samples: int = 1
    seed: int = 0
    stop: tuple[str, ...] = ()
    template: Literal["none", "chat"] = "none"


@dataclass(frozen=True)
class Response:
    """One generated text; `truncated` where it ended at the token limit, not at an end token or stop text."""

    text: str
    ids: tuple[int, ...]
    truncated: bool

    @property
    def n_tokens(self) -> int:
        """Tokens drawn, an end token included."""
        return len(self.ids)


def responses(
    model: Model,
    items: Sequence[tuple[str, str | Item]],
    how: Decoding,
    *,
    batch_size: int = 8,
    what: str = "generating",
) -> dict[str, list[Response]]:
    """``how.n_samples`` responses to each (name, text or item), by name; an item is asked with its conversation.

    Finished ones are kept under the cache folder, keyed by weights, decoding and the code that generates, and
    not generated again.

    Raises:
        InputError: a limit of new tokens that the context has no room for, or a prompt that leaves too little.
    """
    if how.max_new_tokens >= model.shape.n_ctx:
        room = f"the model's context is {model.shape.n_ctx} tokens, prompt included"
        raise InputError(f"max_new_tokens={how.max_new_tokens}, but {room}: lower it")
    kept = _Kept(model, how)
    questions = [asked_as(name, asked) for name, asked in items]
    wanted = [item for item in questions if not kept.has(item)]
    order = sorted(wanted, key=lambda item: len(item.prompt))  # of like length together: less padding
    lots = [order[i : i + LOT * batch_size] for i in range(0, len(order), LOT * batch_size)]
    for lot in progress(lots, what, total=len(lots)):
        kept.add(lot, _generated(model, lot, how, batch_size))
    return {item.id: kept.get(item) for item in questions}


def question(item: Item) -> str | Item:
    """What of an item is asked: its text, or with its conversation the item."""
    return item if item.chat else item.prompt


def asked_as(name: str, what: str | Item) -> Item:
    """The question alone, under a name; answers are left out of what is generated and of what is remembered."""
    if isinstance(what, str):
        return Item(name, what, "-")
    return Item(name, what.prompt, "-", chat=what.chat)


class _Kept:
    """Responses on disk: one JSON line per item, appended as soon as its batch is done."""

    def __init__(self, model: Model, how: Decoding) -> None:

        by = [f"{model.server.url}#{model.server.name}"] if model.server else []
        key = digest([model.fingerprint(), asdict(how), source_hash(Path(__file__)), *by])
        self.file = cache_folder() / "responses" / f"{key}.jsonl"
        self.known: dict[str, list[Response]] = {}
        if self.file.is_file():
            for line in self.file.read_text(encoding="utf-8").splitlines():
                self._read(line)

    def _read(self, line: str) -> None:
        try:
            row: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            return  # the last line of a run that was killed while writing; that item is generated again
        self.known[row["key"]] = [Response(r["text"], tuple(r["ids"]), r["truncated"]) for r in row["responses"]]

    @staticmethod
    def _key(item: Item) -> str:
        return digest([item.id, item.prompt, *([repr(item.chat)] if item.chat else [])])

    def has(self, item: Item) -> bool:
        return self._key(item) in self.known

    def get(self, item: Item) -> list[Response]:
        return self.known[self._key(item)]

    def add(self, batch: Sequence[Item], drawn: Sequence[list[Response]]) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as handle:
            for item, found in zip(batch, drawn, strict=True):
                key = self._key(item)
                self.known[key] = found
                handle.write(json.dumps({"key": key, "responses": [asdict(r) for r in found]}) + "\n")


def _generated(model: Model, batch: Sequence[Item], how: Decoding, batch_size: int) -> list[list[Response]]:
    """Responses to the items of one lot, in order."""

    asked = probe.Prompts(tuple(batch), "generation")
    options = {k: v for k, v in asdict(how).items() if k != "stop"}
    drawn = model.generate(asked, stop=how.stop, batch_size=batch_size, **options)
    found: dict[str, list[Response]] = {item.id: [] for item in batch}
    for one in drawn:
        found[one.item.id].append(Response(one.text, one.ids, one.finish == "length"))
    return [found[item.id] for item in batch]
