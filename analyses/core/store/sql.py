"""SQL over a store: a view for each analysis that a query names, and the views `results` and `claims`.

Every view begins with what its rows are about: `run`, `checkpoint`, `step`, `prompts`, `key`. Rows of several runs lie
in one view, so a query that does not group by `run` pools them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from analyses.core import claim
from analyses.core.lazily import duckdb
from analyses.core.lazily import pandas as pd
from analyses.core.store.files import TABLE, Stored, StoreError, is_here
from analyses.core.store.naming import checkpoint_names, prompts_of, run_names, run_of
from probe.errors import InputError

if TYPE_CHECKING:
    from analyses.core.store.store import Store

ABOUT = ("run", "checkpoint", "step", "prompts", "key")
OVERVIEWS = ("results", "claims")
LISTING = re.compile(r"\b(show|information_schema|duckdb_views|duckdb_tables|pragma)\b", re.IGNORECASE)
Record = Mapping[str, Any]


def query(store: Store, sql: str) -> pd.DataFrame:
    """Rows of a query; what had to be left out is in `attrs["problems"]`, a sentence each.

    Raises:
        InputError: the SQL is wrong (the views that exist are listed), or it selects nothing.
    """
    records, problems = store.read_records()
    known = sorted({str(r["analysis"]) for r in records})
    with duckdb.connect() as connection:
        if not is_here(store.root):
            connection.register_filesystem(cast(Any, store.root).fs)
        try:
            problems += _make(connection, store, records, named_in(sql, known))
            found: Any = connection.sql(sql)
            if found is None:
                raise InputError(f"the query {sql[:60]!r} selects nothing; expected SELECT ... FROM a view")
            rows: pd.DataFrame = found.df()
        except duckdb.Error as error:
            views = ", ".join([*known, *OVERVIEWS]) if known else "none"
            raise InputError(f"{error}\nViews in {store.root}: {views}.") from error
    rows.attrs["problems"] = problems
    return rows


def named_in(sql: str, known: Iterable[str]) -> list[str]:
    """The views that a query may read: those whose name is a word of it; all, where it asks which there are."""
    words = {word.lower() for word in re.findall(r"\w+", sql)}
    every = [*known, *OVERVIEWS]
    return every if LISTING.search(sql) else [name for name in every if name in words]


def _make(connection: Any, store: Store, records: Sequence[Record], names: Sequence[str]) -> list[str]:
    """Views of these names over the whole results; what is damaged is left out, and said."""
    problems = list[str]()
    runs = {path: name for name, path in run_names(sorted({run_of(r) for r in records} - {""})).items()}
    for name in names:
        if name in OVERVIEWS:
            rows = _overview(store, records, runs) if name == "results" else _claims(records, runs)
            connection.register(f"_{name}", rows)
            connection.execute(f"CREATE VIEW {name} AS SELECT * FROM _{name}")
            continue
        whole = list[Record]()
        for record in (r for r in records if r["analysis"] == name):
            try:
                len(Stored(store.folder(name, str(record["key"])) / TABLE))
                whole.append(record)
            except StoreError as error:
                problems.append(str(error))
        if whole:
            _view(connection, store, name, whole, runs)
    return problems


def _view(connection: Any, store: Store, name: str, records: Sequence[Record], runs: Mapping[str, str]) -> None:
    """All tables of an analysis one below the other; a column of theirs with a name of ours is `own_...`."""
    files = ", ".join(_literal(store.folder(name, str(r["key"])) / TABLE) for r in records)
    connection.register(f"_of_{name}", pd.DataFrame([_about(r, runs) for r in records]))
    steps = [row for r in records for row in _steps(r)]
    connection.register(f"_at_{name}", pd.DataFrame(steps, columns=["key", "step", "checkpoint"]))
    read = f"read_parquet([{files}], union_by_name=true, filename=true)"
    columns = [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {read}").fetchall()]
    taken = [c for c in columns if c in ABOUT and c != "step"]
    own = "".join(f", t.{c} AS own_{c}" for c in taken)
    has_step = "step" in columns
    step = f"CAST({'coalesce(t.step, o.step)' if has_step else 'o.step'} AS BIGINT)"
    left_out = ", ".join(["filename", *taken, *(["step"] if has_step else [])])
    connection.execute(
        f"CREATE VIEW {name} AS SELECT o.run, coalesce(a.checkpoint, o.checkpoint) AS checkpoint, {step} AS step, "
        f"o.prompts, o.key, t.* EXCLUDE ({left_out}){own} FROM {read} t "
        f"JOIN _of_{name} o ON o.key = parse_dirpath(t.filename).regexp_extract('[0-9a-f]{{16}}$') "
        f"LEFT JOIN _at_{name} a ON a.key = o.key AND a.step = {step}"
    )


def _literal(path: Path) -> str:
    # The folder is a name, not a pattern: a character of a pattern stands for itself within brackets.
    named = re.sub(r"[\[*?]", lambda sign: f"[{sign[0]}]", str(path))
    return "'" + named.replace("'", "''") + "'"


def _about(record: Record, runs: Mapping[str, str]) -> dict[str, Any]:
    """What all rows of a result have in common; step and checkpoint where it is of one."""
    named = checkpoint_names(record)
    step, checkpoint = named[-1] if named and not record.get("members") else (None, None)
    return {
        "run": runs.get(run_of(record)),
        "checkpoint": checkpoint,
        "step": step,
        "prompts": prompts_of(record) or None,
        "key": str(record["key"]),
    }


def _steps(record: Record) -> Iterator[tuple[str, int | None, str]]:
    if record.get("members"):
        yield from ((str(record["key"]), step, checkpoint) for step, checkpoint in checkpoint_names(record))


def _overview(store: Store, records: Sequence[Record], runs: Mapping[str, str]) -> pd.DataFrame:
    rows = [
        {
            **{name: value for name, value in _about(r, runs).items() if name in ("run", "prompts", "key")},
            "analysis": r["analysis"],
            "kind": r.get("kind"),
            "steps": len(r.get("members") or ()) or None,
            "items": items_of(r),
            "options": json.dumps(r.get("options", {}), sort_keys=True),
            "claim": claim.text(claim.from_json(c) for c in r.get("claims", [])[:1]),
            "started": r.get("started"),
            "seconds": r.get("seconds"),
            "folder": str(store.folder(str(r["analysis"]), str(r["key"]))),
        }
        for r in records
    ]
    return pd.DataFrame(rows)


def items_of(record: Record) -> int | None:
    """How many items were read; None where nothing was counted."""
    counts = [d["n"] for d in record.get("inputs", {}).values() if isinstance(d, dict) and d.get("n")]
    return int(counts[0]) if counts else None


def _claims(records: Sequence[Record], runs: Mapping[str, str]) -> pd.DataFrame:
    rows = [
        {
            "run": runs.get(run_of(r)),
            "analysis": r["analysis"],
            "prompts": prompts_of(r) or None,
            "key": str(r["key"]),
            **claim.row(claim.from_json(c)),
        }
        for r in records
        for c in r.get("claims", [])
    ]
    return pd.DataFrame(rows, columns=None if rows else ["run", "analysis", "prompts", "key", "sentence"])
