"""Rows as items: fields found by name, by a mapping or by the form of the usual training files."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

from probe.errors import InputError
from probe.items import Chat, Item
from probe.readers import conversations, forms
from probe.readers.columns import MISSING, Row, Source, is_missing, letter, parsed_list, plain, text, value_of
from probe.readers.schemas import SCHEMAS, hint
from probe.readers.tables import Line

Fields: TypeAlias = dict[str, Any]
"""Fields of an item by name."""

FIELDS = (
    "id", "prompt", "answer", "answers", "group", "answer_kind", "choices", "correct", "variant", "cluster", "seen",
    "abstain", "answerable", "tools", "system",
)  # fmt: skip
"""What a column may say of an item; every other column is kept as a covariate."""


def items(
    rows: Iterable[Row], columns: Mapping[str, Source] | str | None, answer_kind: str | None, source: str
) -> tuple[Item, ...]:
    """The items of a table, in its order.

    Raises:
        InputError: with the row's number: a missing column, a field that cannot be what it should be.
    """
    mapping = _mapping(columns, source)
    found: list[Item] = []
    equal = Counter[str]()
    for n, row in enumerate(rows):
        given = {str(k): plain(v) for k, v in row.items()}
        where = f"{source}, line {row.number}" if isinstance(row, Line) else f"{source}, row {n + 1}"
        one = _Row(given, where, _fields(given, n, mapping, where))
        made = one.items(answer_kind)
        if one.is_nameless:  # equal rows without an id are told apart by a count
            equal[made[0].id] += 1
            count = equal[made[0].id]
            made = [replace(i, id=f"{i.id}-{count}") for i in made] if count > 1 else made
        found += made
    return tuple(found)


def _mapping(columns: Mapping[str, Source] | str | None, source: str) -> Mapping[str, Source] | None:
    if not isinstance(columns, str):
        unknown = sorted(set(columns or {}) - set(FIELDS))
        if unknown:
            raise InputError(f"{source}: columns name no fields {unknown}; fields are: {', '.join(FIELDS)}")
        return columns
    if columns not in SCHEMAS:
        raise InputError(f"{source}: unknown schema {columns!r}; schemas are: {', '.join(SCHEMAS)}")
    return SCHEMAS[columns]


def _fields(row: Row, n: int, mapping: Mapping[str, Source] | None, where: str) -> Fields:
    """What the row says of each field; absent and empty cells are left out."""
    sources: dict[str, Source] = {f: f for f in FIELDS if f in row} | dict(mapping or {})
    found: Fields = {}
    for field, source in sources.items():
        value = source if isinstance(source, str) and source.startswith("@") else value_of(source, row, n, where)
        if value is MISSING:
            raise InputError(f"{where}: no column {source!r}; columns are {sorted(row)}. {hint(row)}")
        found[field] = value
    found = found if mapping and "prompt" in mapping else forms.completed(row, found, where)
    used = {s for s in sources.values() if isinstance(s, str)} | {"answers", *found.get("taken", ())}
    return {**found, "taken": used}


@dataclass(frozen=True)
class _Row:
    """One row with its fields on the way to items."""

    row: Row
    where: str
    fields: Mapping[str, Any]

    @property
    def is_nameless(self) -> bool:
        """True for a row without an id: its content's hash stands in."""
        return not self._text("id")

    def items(self, answer_kind: str | None) -> list[Item]:
        """One item, or one per kind of answer."""
        if "prompt" not in self.fields:
            raise InputError(f"{self.where}: no 'prompt'; columns are {sorted(self.row)}. {hint(self.row)}")
        prompt, chat = self._prompt()
        choices, correct = self._choices()
        variant = self._text("variant")
        base = Item(
            self._id(variant), prompt, "", self._text("group") or "all", meta=self._meta(), choices=choices,
            correct=correct, variant=variant, cluster=self._text("cluster") or None, seen=self._flag("seen"), chat=chat,
        )  # fmt: skip
        kinds = self._answers(choices, correct)
        given = self._text("answer_kind") or answer_kind or "given"
        return [replace(base, answer=g[0] if g else "", also=g[1:], answer_kind=k or given) for k, g in kinds.items()]

    def _empty(self, name: str) -> bool:
        return name not in self.fields or is_missing(self.fields[name])

    def _text(self, name: str) -> str:
        """A name (group, kind ...) as text; "" where the cell is empty."""
        if self._empty(name):
            return ""
        value = self.fields[name]
        if isinstance(value, list | dict):
            raise InputError(f"{self.where}: {name} is {str(value)[:60]!r}; expected text or a number")
        if "\0" in (given := text(value)):
            raise InputError(f"{self.where}: {name} {given!r} holds a NUL character; remove it")
        return _encodable(given, name, self.where)

    def _id(self, variant: str) -> str:
        given = self._text("id")
        if variant and not given:
            raise InputError(f"{self.where}: a variant without an id; wordings of one problem share its id")
        if not given:
            content = json.dumps(self.row, sort_keys=True, default=str)
            return hashlib.sha256(content.encode()).hexdigest()[:12]
        return f"{given}/{variant}" if variant else given

    def _prompt(self) -> tuple[str, Chat | None]:
        value = self.fields.get("prompt")
        if conversations.is_conversation(value):
            turns = conversations.turns(value, self.where)
            said, chat = conversations.asked(turns, self.fields.get("tools"), self.fields.get("turn", {}), self.where)
        else:
            said, chat = self._scalar("prompt", value), None
            tools = self.fields.get("tools")
            if tools or self.fields.get("turn"):
                one = [{"role": "user", "content": said}]
                said, chat = conversations.asked(one, tools, self.fields.get("turn", {}), self.where)
        system = self._text("system")
        if system:
            chat = chat or Chat()
            chat = replace(chat, before=({"role": "system", "content": system}, *chat.before))
        return _encodable(said, "prompt", self.where), chat

    def _scalar(self, name: str, value: object) -> str:
        if isinstance(value, dict | list | bytes) or is_missing(value):
            shown = repr(value)[:60]
            raise InputError(f"{self.where}: column {name!r} is {shown}; expected text or a number")
        return _encodable(text(value), name, self.where)

    def _flag(self, name: str) -> bool | None:
        """True, False, or None where the cell is empty."""
        said = self._text(name).strip().lower()
        if said not in _FLAGS:
            raise InputError(f"{self.where}: {name} is {said!r}; expected true or false")
        return _FLAGS[said]

    def _choices(self) -> tuple[tuple[str, ...], int | None]:
        value = parsed_list(self.fields.get("choices"))
        if is_missing(value):
            return (), None
        labels: list[str] = []
        if isinstance(value, dict) and "text" in value:  # ARC: {"text": [...], "label": [...]}
            of = cast("Fields", value)
            value, labels = of["text"], [text(v) for v in of.get("label", [])]
        if not isinstance(value, list) or len(cast("list[Any]", value)) < 2:
            raise InputError(f"{self.where}: choices are {str(value)[:60]!r}; expected a list of two or more")
        choices = tuple(self._scalar("choices", v) for v in cast("list[Any]", value))
        name = "answer" if self._empty("correct") else "correct"
        if self._empty(name):
            raise InputError(f"{self.where}: choices without the right one; give `correct` or `answer`")
        return choices, _index(self.fields[name], choices, labels, name == "correct", self.where)

    def _answers(self, choices: tuple[str, ...], correct: int | None) -> dict[str, tuple[str, ...]]:
        """Accepted answers by kind ("" for the kind of the row)."""
        if self._flag("abstain") or self._flag("answerable") is False:
            return {"": ()}
        value = self.fields.get("answer", MISSING)
        several = self.fields.get("answers")
        if correct is not None and value in (MISSING, "@choice", "@letter"):
            return {"": (letter(correct) if value == "@letter" else choices[correct],)}
        if correct is not None and self._empty("correct"):  # the answer said which option is right
            return {"": (choices[correct],)}
        if value is not MISSING:
            return {"": self._golds("answer", value)}
        if isinstance(several, dict) and several and not _is_spanned(cast("Fields", several)):
            of = cast("Fields", several)  # a table of structs has every kind in every row, empty ones as well
            return {k: self._golds("answers", v) for k, v in of.items() if not is_missing(v) or len(of) == 1}
        if several is not None:
            return {"": self._golds("answers", several)}
        raise InputError(
            f"{self.where}: no 'answer' and no 'answers'; columns are {sorted(self.row)}. {hint(self.row)}"
        )

    def _golds(self, name: str, value: object) -> tuple[str, ...]:
        """Accepted answers of a cell: a scalar, a list, or the forms of SQuAD and TriviaQA; () where there is none."""
        if isinstance(value, dict):
            of = cast("Fields", value)
            if not ("text" in of or "value" in of):
                raise InputError(
                    f"{self.where}: {name} is {str(of)[:60]!r}; expected text, a number or a list of these"
                )
            value = of["text"] if "text" in of else [of["value"], *of.get("aliases", [])]
        listed = cast("list[Any]", value) if isinstance(value, list) else [value]
        golds = tuple(dict.fromkeys(self._scalar(name, v) for v in listed))
        return () if golds == ("",) or not any(g.strip() for g in golds) else tuple(g for g in golds if g.strip())

    def _meta(self) -> dict[str, object]:
        return {k: v for k, v in self.row.items() if k not in self.fields["taken"]}


_FLAGS = {"": None, "true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _is_spanned(of: Mapping[str, object]) -> bool:
    """SQuAD's answers: lists of texts and where they start."""
    return isinstance(of.get("text"), list)


def _index(value: object, choices: tuple[str, ...], labels: list[str], is_index: bool, where: str) -> int:
    """Which option is right: by its label, its text, its letter or its index from 0.

    Raises:
        InputError: none is, or index and text name different options (`correct` is read as an index).
    """
    said = text(value).strip() if not isinstance(value, bool | list | dict) else ""
    if said in labels:
        return labels.index(said)
    number = int(said) if said.isdecimal() and int(said) < len(choices) else None
    same = [n for n, choice in enumerate(choices) if choice.strip() == said]
    if number is not None and (is_index or not same or same == [number]):
        return number
    if number is not None and isinstance(value, int):
        raise InputError(f"{where}: {said} is an option's text and another one's index; give its index as `correct`")
    if len(same) == 1:
        return same[0]
    bare = said.strip("().")
    if len(bare) == 1 and 0 <= ord(bare.upper()) - ord("A") < len(choices):
        return ord(bare.upper()) - ord("A")
    raise InputError(f"{where}: {said[:40]!r} names none of the {len(choices)} choices (index from 0, letter or text)")


def _encodable(given: str, name: str, where: str) -> str:
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: {name} holds half of a character (a lone surrogate, {given[error.start]!r}), as of a text cut "
            "inside an emoji; correct or remove it"
        ) from error
    return given
