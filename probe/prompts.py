"""Prompts: a table of items (prompt, answer, group), read from files or built in memory."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from probe.errors import InputError
from probe.html import table
from probe.items import Chat, Item
from probe.readers import item_rows, tables
from probe.readers.columns import Source
from probe.readers.schemas import SCHEMAS
from probe.tokens import SPANS, Encoded, TokenBatch, plan, tokenize

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SCHEMAS", "SPANS", "Chat", "Encoded", "Item", "Prompts", "TokenBatch", "plan", "tokenize"]

_ALWAYS = ("id", "prompt", "answer", "group", "answer_kind")
_SHOWN = (*_ALWAYS, "golds", "choices", "correct", "variant", "cluster", "seen")


@dataclass(frozen=True, repr=False)
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
        _refuse("an (id, answer_kind) that is already taken (wordings need a column `variant`)", twice, self.source)

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return f"Prompts({len(self)} items of {', '.join(self.groups)[:80]}, from {self.source})"

    def _repr_html_(self) -> str:
        rows = [(i.id, i.group, i.answer_kind, i.prompt[:200], i.answer[:80]) for i in self.items[:10]]
        shown = f"{len(self)} items from {self.source}" + (", the first 10" if len(self) > 10 else "")
        return table(rows, ("id", "group", "answer_kind", "prompt", "answer"), shown)

    @classmethod
    def read(
        cls,
        path: str | Path,
        columns: Mapping[str, Source] | str | None = None,
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
        rows: object,
        *,
        columns: Mapping[str, Source] | str | None = None,
        answer_kind: str | None = None,
        source: str = "memory",
    ) -> Prompts:
        """The items of a table in memory; the other arguments and the errors are those of `read`.

        `rows`: a sequence of mappings, a pandas or polars frame, a pyarrow table, a `datasets` dataset.

        Args:
            rows: a sequence of mappings, a pandas or polars frame, a pyarrow table, a `datasets` dataset.
            columns: how its columns are called, or the name of a schema.
            answer_kind: kind of its answers.
            source: what it is called in errors.

        Examples:
            >>> rows = [{"id": "a", "prompt": "2 plus 2 ?", "answer": "4", "group": "sums"}]
            >>> [(item.id, item.answer, item.group) for item in Prompts.of(rows).items]
            [('a', '4', 'sums')]
        """
        return cls(item_rows.items(tables.memory_rows(rows, source), columns, answer_kind, source), source)

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

    def seen(self, *groups: str) -> Prompts:
        """The same items, those of the named groups marked as ones that training may have shown, the others as not.

        Raises:
            InputError: no such group.
        """
        unknown = [g for g in groups if g not in self.groups]
        if unknown:
            raise InputError(f"no group {unknown[0]!r} in {self.source}; groups: {', '.join(self.groups)}")
        return replace(self, items=tuple(replace(i, seen=i.group in groups) for i in self.items))

    def roles(self) -> pd.DataFrame:
        """What the items are to an analysis, for its table: `item`, `answer_kind` and what was said of any of them.

        `seen` (True, False or None), `variant` (wording), `cluster` (what is resampled as one). A left join on the
        first two columns adds them.
        """
        import pandas as pd

        said = {
            "seen": any(i.seen is not None for i in self.items),
            "variant": any(i.variant for i in self.items),
            "cluster": any(i.unit != i.id for i in self.items),
        }
        rows = [(i.id, i.answer_kind, i.seen, i.variant, i.unit) for i in self.items]
        frame = pd.DataFrame(rows, columns=["item", "answer_kind", "seen", "variant", "cluster"])
        return frame.astype({"seen": object}).drop(columns=[name for name, is_said in said.items() if not is_said])

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
        """A random subset of `n` problems, groups in proportion (largest remainders), in the given order.

        All wordings and answer kinds of a chosen problem are kept. The same seed gives the same subset.
        """
        group_of = {item.problem: item.group for item in self.items}
        if not 1 <= n <= len(group_of):
            raise InputError(f"subset of {n} ids asked of {len(group_of)}; expected 1..{len(group_of)}")
        quota = _quota(list(group_of.values()), n)
        rng = random.Random(seed)
        chosen: set[str] = set()
        for group in sorted(quota):
            ids = [i for i, g in group_of.items() if g == group]
            chosen.update(rng.sample(ids, quota[group]))
        return replace(self, items=tuple(i for i in self.items if i.problem in chosen))

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
