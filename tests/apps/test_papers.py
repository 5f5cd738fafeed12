"""The table of the source papers: its commands are those of the command line, its numbers are what they give."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from types import ModuleType
from typing import Any

import click
import pytest

from analyses.core import analysis as registry
from apps.command.options import analysis_command
from tests.conftest import ROOT


def hook() -> ModuleType:
    """The hook that makes the page."""
    spec = importlib.util.spec_from_file_location("papers", ROOT / "docs" / "papers.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["papers"] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


PAPERS = hook()
KEPT: dict[str, Any] = json.loads(PAPERS.NUMBERS.read_text())
COMMANDS = sorted({(s.row, command) for s in PAPERS.systems() for command in (s.command, s.null_command) if command})


def test_every_row_is_one_system_and_says_all_that_is_asked() -> None:
    there = PAPERS.systems()
    assert len(PAPERS.ROWS) == 57 and [s.row for s in there] == PAPERS.ROWS
    for s in there:
        assert s.name and s.measures and s.differs and s.command and s.number, s.row
        assert not s.arxiv or re.fullmatch(r"\d{4}\.\d{5}", s.arxiv), s.row
        for file in (word for word in PAPERS.words(s.command) if "/" in word):
            assert file.startswith("runs/lab-short/") or (ROOT / file).exists(), f"{s.row}: {file} is not there"


@pytest.mark.parametrize(("row", "command"), COMMANDS)
def test_commands_are_those_of_the_command_line(row: str, command: str) -> None:
    """Every analysis, flag and value is one that the command takes, and nothing that it needs is missing."""
    verb, name, *words = PAPERS.words(command)
    assert verb in ("run", "sweep") and name in registry.names(), row
    found = analysis_command(registry.get(name), verb)
    found.make_context(name, list(words), parent=click.Context(click.Group("probe")))


def test_kept_numbers_are_those_of_the_table() -> None:
    """Whoever changes a command or a cell runs it again."""
    for s in PAPERS.systems():
        said = {name: {"command": command, "cell": cell} for name, (command, cell) in s.asked.items()}
        kept = {name: {k: entry[k] for k in ("command", "cell")} for name, entry in KEPT.get(s.row, {}).items()}
        assert kept == said, f"python docs/papers.py {s.row}"
    assert set(KEPT) <= {s.row for s in PAPERS.systems()}


def test_the_page_shows_every_system_its_number_and_its_command() -> None:
    shown = PAPERS.shown()
    for s in PAPERS.systems():
        assert f"| {s.row} |" in shown and f"$ {s.command}" in shown
        assert not s.number or f"`{s.number}`" in shown
    missing = [row for row in PAPERS.ROWS if row not in {s.row for s in PAPERS.systems()}]
    assert all(f" {row}" in shown.partition("Not in the table yet")[2] for row in missing)


def agree(systems: list[Any]) -> None:
    """Running the commands gives the kept numbers, up to the digits of another machine."""
    for row, found in PAPERS.measured(systems).items():
        for name, entry in found.items():
            for key in ("value", "ci_low", "ci_high", "n"):
                kept = KEPT[row][name][key]
                close = kept if kept is None else pytest.approx(kept, rel=1e-3, abs=1e-6)
                assert entry[key] == close, (row, name, key)


def test_commands_over_the_files_beside_the_page_give_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    agree([s for s in PAPERS.systems() if "runs/" not in s.command + s.null_command])


@pytest.mark.verify
@pytest.mark.lab
def test_commands_over_the_lab_give_their_numbers(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digits of a lab trained on another machine differ: the commands run and name one cell each."""
    monkeypatch.chdir(ROOT)
    on_lab = [s for s in PAPERS.systems() if "runs/" in s.command + s.null_command]
    found = PAPERS.measured(on_lab)
    assert set(found) == {s.row for s in on_lab if s.asked}
