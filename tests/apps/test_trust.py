"""The tests that the docs' list of silent failures names are there."""

from __future__ import annotations

import re

from tests.conftest import ROOT


def test_every_guard_named_in_the_docs_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "trust" / "verdicts.md").read_text()))
    there = {
        name for file in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    assert len(named) >= 15
    assert named <= there, named - there
