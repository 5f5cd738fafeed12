"""A study as a file: the words of its command in TOML, written by `--save`, read again, and kept beside the results."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from analyses.core.analysis import unknown
from analyses.core.keys import digest
from analyses.core.running.study.study import Study
from analyses.core.store.files import explained, replaced
from analyses.core.store.store import Store
from probe.errors import InputError

HEAD = "# A study of posttrain-probe: run it with `probe study FILE`. Paths are read from the folder it is run in.\n"
LEFT_OUT = ("quick", "dry_run")
WORDS = (
    "runs", "prompts", "columns", "answers", "groups", "seen", "questions", "quick", "group_by", "own", "template",
    "boundary", "batch_size", "grade", "pattern", "max_new_tokens", "stop", "backend", "dtype", "device", "revision",
    "allow_pickle", "trust_remote_code", "bos", "template_options", "engine", "workers", "address", "base_model",
    "config_folder", "results", "report",
)  # fmt: skip


def studies(runs: Sequence[str], given: Mapping[str, object]) -> list[dict[str, Any]]:
    """The studies that a command asks for: those of a TOML file, or the one of the folders it names.

    What the command says beside a file goes before what the file says.

    Raises:
        InputError: a file beside folders, one that is not TOML, or a word that a study does not have.
    """
    files = [run for run in runs if run.endswith(".toml")]
    if not files:
        return [{"runs": list(runs), **given}]
    if len(runs) > 1:
        raise InputError(f"{files[0]} is a study by itself; give it alone, or name folders")
    return [{**one, **given} for one in read(Path(files[0]))]


def read(path: Path) -> list[dict[str, Any]]:
    """The studies of a file: one, or several under `[[study]]` with what is above them shared by all.

    Raises:
        InputError: no such file, not TOML, an unknown word, or a study without runs.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"no study at {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from error
    several = found.pop("study", [{}])
    if not isinstance(several, list) or not all(isinstance(one, dict) for one in several):
        raise InputError(f"{path}: expected [[study]] tables")
    made = [{**found, **one} for one in several]
    for one in made:
        for word in one:
            if word not in WORDS:
                raise InputError(f"{path}: {unknown('word of a study', word, WORDS)}")
        if not one.get("runs") or not isinstance(one["runs"], list):
            raise InputError(f'{path}: a study needs runs = ["FOLDER", ...]')
    return made


def write(path: Path, found: Sequence[Mapping[str, object]]) -> None:
    """The studies as a file that `read` reads back.

    Raises:
        StoreError: the file cannot be written.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text(found), encoding="utf-8")


def text(found: Sequence[Mapping[str, object]]) -> str:
    """The same as TOML."""
    if len(found) == 1:
        return HEAD + "\n".join(_lines(found[0])) + "\n"
    return HEAD + "".join("\n[[study]]\n" + "\n".join(_lines(one)) + "\n" for one in found)


def _lines(one: Mapping[str, object]) -> Iterator[str]:
    for name, value in one.items():
        if name not in LEFT_OUT:
            yield f"{name} = {_toml(value)}"


def _toml(value: object) -> str:
    """JSON's strings, numbers, booleans and lists are TOML's; a table is written inline."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def keep(store: Store, asked_for: Mapping[str, object], done: Study) -> None:
    """Keep what was asked, as a file, with the keys of what it made, in the store."""
    made = {a.run.name: {name: r.key for name, r in a.results.items()} for a in done.answers}
    words = text([asked_for])
    record = {"file": words, "results": made, "refused": {a.run.name: a.refused for a in done.answers}}
    replaced(store.root / ".studies" / f"{digest(words)}.json", json.dumps(record, indent=1))
