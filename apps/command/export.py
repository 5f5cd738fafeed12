"""`probe export`: results as a folder to share, laid out as a Hugging Face dataset with one table an analysis."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import analyses
from analyses.core.store.files import explained
from analyses.core.store.store import Store
from probe.errors import InputError

HEAD = """---
configs:
{configs}
---
# {title}

Results of [posttrain-probe]. Every row says what it is about: `run`, `checkpoint`, `step`, `prompts`, `key`.
Rows of several runs lie in one table: group by `run`, or they are pooled. An empty cell was not measured.

| table | rows | what it is |
|---|---|---|
{tables}

`results` lists what was computed with which options, `claims` what it says, with intervals. `records/` holds the
provenance of every result: inputs by hash, options, versions, code.
"""
CONFIG = "- config_name: {name}\n  data_files: data/{name}.parquet"


def export(store: Store, folder: Path, keys: Sequence[str] = ()) -> list[str]:
    """Write the tables of a store into a new folder; the problems on the way, a sentence each.

    Args:
        store: the results.
        folder: where to; it must not be there, or be empty.
        keys: of the results to be shared; all by default.

    Raises:
        InputError: the folder holds something, there is nothing to export, or a key names none.
        StoreError: the folder cannot be written.
    """
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} holds something already; give a new folder")
    wanted = {store.find(key)[1] for key in keys}
    records, problems = store.read_records()
    records = [r for r in records if not wanted or r["key"] in wanted]
    if not records:
        raise InputError(f"no results in {store.root}")
    names = [*sorted({str(r["analysis"]) for r in records}), "results", "claims"]
    rows: dict[str, int] = {}
    with explained(folder):
        (folder / "data").mkdir(parents=True)
        (folder / "records").mkdir()
        for record in records:
            path = folder / "records" / f"{record['analysis']}-{record['key']}.json"
            path.write_text(json.dumps(record, indent=1, sort_keys=True), encoding="utf-8")
        for name in names:
            found = store.query(f"SELECT * FROM {name}")
            problems += [p for p in found.attrs.pop("problems") if p not in problems]
            found = found[found["key"].isin(wanted)] if wanted else found
            found.to_parquet(folder / "data" / f"{name}.parquet", index=False)
            rows[name] = len(found)
        (folder / "README.md").write_text(_card(folder.name, rows), encoding="utf-8")
    return problems


def _card(title: str, rows: dict[str, int]) -> str:
    configs = "\n".join(CONFIG.format(name=name) for name in rows)
    tables = "\n".join(f"| {name} | {count} | {_what(name)} |" for name, count in rows.items())
    return HEAD.format(configs=configs, title=title, tables=tables)


def _what(name: str) -> str:
    own = {"results": "one row for each result", "claims": "one row for each claim"}
    if name in own:
        return own[name]
    return analyses.get(name).title if name in analyses.names() else "made by an analysis that is not known here"
