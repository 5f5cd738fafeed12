"""Prompts: a table of items (prompt, answer, group), read from files or built in memory."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from probe import tables
from probe.errors import InputError
from probe.tokens import SPANS, Encoded, TokenBatch, plan, tokenize

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SCHEMAS", "SPANS", "Chat", "Encoded", "Item", "Prompts", "TokenBatch", "plan", "tokenize"]

SCHEMAS: dict[str, dict[str, str]] = {
    "default": {"id": "id", "prompt": "prompt", "answer": "answer", "group": "group"},
    "ttrl": {"id": "id", "prompt": "prompt", "answer": "answer", "group": "source"},
    "gsm8k": {"id": "#", "prompt": "question", "answer": r"answer ~ ####\s*(.+)$", "group": "=gsm8k"},
    "minerva_math": {"id": "idx", "prompt": "problem", "answer": r"solution ~ \boxed{}", "group": "type"},
    "svamp": {"id": "ID", "prompt": "{Body} {Question}", "answer": "{Answer:g}", "group": "Type"},
}
"""Column mappings of the usual benchmark files (`ttrl`: math500.json, amc.json, aime24.json).

A source is a column name, `#` (row number from 0), `=text` (a constant), a format string over columns
(`{Body} {Question}`), or `column ~ regex` (group 1 of the last match; `\\boxed{}` reads the balanced
braces of the last box).
"""


_ALWAYS = ("id", "prompt", "answer", "group", "answer_kind")
_SHOWN = (*_ALWAYS, "golds", "choices", "correct", "variant", "cluster", "seen")


@dataclass(frozen=True)
class Chat:
    """The conversation that an item's prompt ends: the turns before it, what else its own turn says, the tools.

    Attributes:
        before: earlier turns (`role`, `content` and what else a template reads), a system prompt included.
        last: fields of the last turn but its content, which is the item's `prompt`.
        tools: functions offered to the model, as chat templates take them.
    """

    before: tuple[Mapping[str, Any], ...] = ()
    last: Mapping[str, Any] = field(default_factory=lambda: {"role": "user"})
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Item:
    """One prompt with what is known of it. `answer_kind` says whose answer it is and is never pooled over.

    Attributes:
        id: names the item; another wording of a problem is an item of its own (`ID/VARIANT`).
        prompt: the question as text; of a conversation, the last turn's.
        answer: the text that is scored, an accepted one; "" where only an abstention is right.
        group: whatever is compared. No meaning is read from its name.
        meta: every other column (difficulty, source, confidence ...): covariates.
        also: other accepted answers; `golds` are all of them.
        choices: the options of a multiple-choice item, in order; `correct` is the right one's index.
        variant: name of this wording of the problem.
        cluster: what is resampled as one (template, document); by default the problem.
        seen: training may have shown the item; None where nobody said.
        chat: the conversation before the prompt, where there is one.
    """

    id: str
    prompt: str
    answer: str
    group: str = "all"
    answer_kind: str = "given"
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    also: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    correct: int | None = None
    variant: str = ""
    cluster: str | None = None
    seen: bool | None = None
    chat: Chat | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if self.correct is not None and not 0 <= self.correct < len(self.choices):
            raise InputError(f"item {self.id}: correct={self.correct}, but it has {len(self.choices)} choices")

    @property
    def key(self) -> tuple[str, str]:
        """What names the item: its id and the kind of its answer."""
        return (self.id, self.answer_kind)

    @property
    def golds(self) -> tuple[str, ...]:
        """All accepted answers, the scored one first; () where only an abstention is right."""
        return () if self.abstain else tuple(dict.fromkeys((self.answer, *self.also)))

    @property
    def abstain(self) -> bool:
        """True for an unanswerable item: its answer is empty and only an abstention is right."""
        return not self.answer.strip()

    @property
    def problem(self) -> str:
        """Id of the problem: the same for all its wordings."""
        return self.id.removesuffix(f"/{self.variant}") if self.variant else self.id

    @property
    def unit(self) -> str:
        """What is resampled as one: its cluster, else its problem."""
        return self.cluster or self.problem

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The prompt as the turns of a conversation, as chat templates take them."""
        chat = self.chat or Chat()
        return [*(dict(turn) for turn in chat.before), {**chat.last, "content": self.prompt}]


@dataclass(frozen=True)
class Prompts:
    """A table of items, unique by (id, answer_kind), with where it came from."""

    items: tuple[Item, ...]
    source: str = "memory"

    def __post_init__(self) -> None:
        if not self.items:
            raise InputError(f"no items in {self.source}; expected at least one prompt")
        _refuse("an empty prompt", (i.id for i in self.items if not i.prompt.strip()), self.source)
        seen: set[tuple[str, str]] = set()
        twice = [i.id for i in self.items if i.key in seen or seen.add(i.key)]
        _refuse("an (id, answer_kind) that is already taken", twice, self.source)

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def read(
        cls,
        path: str | Path,
        columns: Mapping[str, str] | str | None = None,
        answer_kind: str | None = None,
    ) -> Prompts:
        """The items of a file (JSONL, a JSON list, CSV, TSV, Parquet) or of a `datasets` dataset.

        Args:
            path: the file, or `hf:NAME[:CONFIG]:SPLIT` (`hf:openai/gsm8k:main:test`). Rows are
                `{"id", "prompt", "answer", "group"[, "answer_kind"]}`, or `"answers": {kind: text}` in place of
                `answer`; other columns go to `meta`.
            columns: field -> source, or the name of one of `SCHEMAS`; default: columns named as fields.
            answer_kind: kind of every answer whose row does not name one (default `given`).

        Raises:
            InputError: no such file, a malformed line (its number), a missing column, an empty prompt
                or answer (the ids), an (id, answer_kind) twice.
        """
        if str(path).startswith("hf:"):
            rows = tables.dataset_rows(str(path))
            return cls.of(rows, columns=columns, answer_kind=answer_kind, source=str(path))
        file = Path(path)
        if not file.is_file():
            raise InputError(f"no prompt file at {file}; expected JSONL, JSON, CSV or Parquet")
        return cls.of(tables.file_rows(file), columns=columns, answer_kind=answer_kind, source=str(file))

    @classmethod
    def of(
        cls,
        rows: Any,
        *,
        columns: Mapping[str, str] | str | None = None,
        answer_kind: str | None = None,
        source: str = "memory",
    ) -> Prompts:
        """The items of a table in memory; the other arguments and the errors are those of `read`.

        `rows`: a sequence of mappings, a pandas or polars frame, a pyarrow table, a `datasets` dataset.
        """
        mapping = _mapping(columns, source)
        listed = tables.memory_rows(rows, source)
        items = [item for n, row in enumerate(listed) for item in _items(row, n, mapping, answer_kind, source)]
        return cls(tuple(items), source)

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups, sorted."""
        return tuple(sorted({item.group for item in self.items}))

    def fingerprint(self) -> str:
        """Hex hash of everything in the items, in order; where they were read from is not part of it."""
        rows = [
            [*(getattr(i, name) for name in _SHOWN), repr(i.chat), sorted((k, repr(v)) for k, v in i.meta.items())]
            for i in self.items
        ]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:32]

    def limit(self, n: int) -> Prompts:
        """The first `n` items."""
        if n < 1:
            raise InputError(f"limit={n}; expected at least 1")
        return replace(self, items=self.items[:n])

    def where(
        self, *, group: str | Sequence[str] | None = None, answer_kind: str | Sequence[str] | None = None
    ) -> Prompts:
        """The items of the named groups and answer kinds."""
        groups = self.groups if group is None else _names(group)
        kinds = {i.answer_kind for i in self.items} if answer_kind is None else _names(answer_kind)
        kept = tuple(i for i in self.items if i.group in groups and i.answer_kind in kinds)
        if not kept:
            raise InputError(f"no items with group={group}, answer_kind={answer_kind}; groups: {self.groups}")
        return replace(self, items=kept)

    def subset(self, n: int, seed: int = 0) -> Prompts:
        """A random subset of `n` ids, groups in proportion (largest remainders), in the given order.

        All answer kinds of a chosen id are kept. The same seed gives the same subset.
        """
        group_of = {item.id: item.group for item in self.items}
        if not 1 <= n <= len(group_of):
            raise InputError(f"subset of {n} ids asked of {len(group_of)}; expected 1..{len(group_of)}")
        quota = _quota(list(group_of.values()), n)
        rng = random.Random(seed)
        chosen: set[str] = set()
        for group in sorted(quota):
            ids = [i for i, g in group_of.items() if g == group]
            chosen.update(rng.sample(ids, quota[group]))
        return replace(self, items=tuple(i for i in self.items if i.id in chosen))

    def frame(self) -> pd.DataFrame:
        """One row per item: its fields (golds and choices as lists) and the columns of `meta`."""
        import pandas as pd

        rows = [{**dict(i.meta), **{name: getattr(i, name) for name in _SHOWN}} for i in self.items]
        own = [n for n in _SHOWN if n in _ALWAYS or any(r[n] not in (None, "", (), (r["answer"],)) for r in rows)]
        return pd.DataFrame(rows)[[*own, *dict.fromkeys(k for r in rows for k in r if k not in _SHOWN)]]


def _refuse(what: str, ids: Iterable[str], source: str) -> None:
    bad = list(ids)
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise InputError(f"{source}: {what} in item(s) {', '.join(bad[:5])}{more}; correct or remove them")


def _names(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _quota(groups: list[str], n: int) -> dict[str, int]:
    """Ids per group, proportional, summing to n (largest remainders, ties by name)."""
    exact = {g: n * groups.count(g) / len(groups) for g in set(groups)}
    quota = {g: int(x) for g, x in exact.items()}
    by_remainder = sorted(exact, key=lambda g: (quota[g] - exact[g], g))
    for group in by_remainder[: n - sum(quota.values())]:
        quota[group] += 1
    return quota


def _mapping(columns: Mapping[str, str] | str | None, source: str) -> Mapping[str, str] | None:
    if not isinstance(columns, str):
        return columns
    if columns not in SCHEMAS:
        raise InputError(f"{source}: unknown schema {columns!r}; schemas are: {', '.join(SCHEMAS)}")
    return SCHEMAS[columns]


def _items(
    row: Mapping[str, Any], n: int, mapping: Mapping[str, str] | None, kind: str | None, source: str
) -> list[Item]:
    where = f"{source}, row {n + 1}"
    named = {k: k for k in ("id", "prompt", "answer", "group", "answer_kind") if k in row}
    columns = named | dict(mapping or {})
    given = {f: _value(s, row, n, where) for f, s in columns.items()}
    meta = {k: v for k, v in row.items() if k not in columns.values() and k != "answers"}
    for name in ("id", "prompt"):
        if name not in given:
            raise InputError(f"{where}: no {name!r}; columns are {sorted(row)}. {_hint(row)}")
    base = Item(given["id"], given["prompt"], given.get("answer", ""), given.get("group", "all"), meta=meta)
    answers = row.get("answers")
    if "answer" not in given and isinstance(answers, dict) and answers:
        texts = cast("dict[str, Any]", answers)
        return [replace(base, answer=str(text), answer_kind=str(k)) for k, text in texts.items()]
    if "answer" not in given:
        raise InputError(f"{where}: no 'answer' and no 'answers'; columns are {sorted(row)}. {_hint(row)}")
    return [replace(base, answer_kind=given.get("answer_kind", kind or "given"))]


def _hint(row: Mapping[str, Any]) -> str:
    """Which schema the columns look like."""
    named = {"gsm8k": {"question", "answer"}, "minerva_math": {"problem", "solution"}, "svamp": {"Body", "Question"}}
    fits = [name for name, need in named.items() if need <= set(row)]
    return f"It looks like columns={fits[0]!r}." if fits else f"Map them with columns=, or one of {list(SCHEMAS)}."


def _value(source: str, row: Mapping[str, Any], n: int, where: str) -> str:
    if source == "#":
        return str(n)
    if source.startswith("="):
        return source[1:]
    name, _, pattern = source.partition(" ~ ")
    if pattern:
        return _extract(pattern)(_text(row, name, where), where)
    if source in row:
        return _text(row, source, where)
    if "{" in source:
        try:
            return source.format_map(dict(row))
        except (KeyError, ValueError, IndexError) as error:
            raise InputError(f"{where}: cannot fill {source!r} from columns {sorted(row)}: {error}") from error
    raise InputError(f"{where}: no column {source!r}; columns are {sorted(row)}. {_hint(row)}")


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    if name not in row:
        raise InputError(f"{where}: no column {name!r}; columns are {sorted(row)}. {_hint(row)}")
    value = row[name]
    if isinstance(value, (dict, list)) or value is None or value != value:  # NaN: a missing cell
        raise InputError(f"{where}: column {name!r} is {value!r:.40}; expected text or a number")
    return str(value)


def _extract(pattern: str) -> Callable[[str, str], str]:
    def last_match(text: str, where: str) -> str:
        found = list(re.finditer(pattern, text, re.MULTILINE))
        if not found:
            raise InputError(f"{where}: nothing matches {pattern!r} in {text[-60:]!r}")
        return found[-1].group(1).strip()

    return _last_box if pattern == r"\boxed{}" else last_match


def _last_box(text: str, where: str) -> str:
    r"""Content of the last \boxed{...} by balanced braces (a regular expression cannot count them)."""
    start = text.rfind(r"\boxed{")
    depth = 0
    for end in range(start + 6, len(text)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start + 7 : end].strip()
    raise InputError(f"{where}: no complete \\boxed{{...}} in {text[-60:]!r}")
