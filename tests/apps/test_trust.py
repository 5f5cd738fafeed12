"""The tests that the page on trust names are there, and hold the oracles and tolerances it states."""

from __future__ import annotations

import inspect
import re

import pytest

from analyses import get, names
from benchmarks.nulls import cells
from benchmarks.nulls.rules import RULES
from tests.conftest import ROOT


def test_every_guard_named_in_the_docs_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "trust" / "verdicts.md").read_text()))
    there = {
        name for file in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    assert len(named) >= 15
    assert named <= there, named - there


def test_the_named_tests_hold_the_oracle_and_the_tolerance_stated() -> None:
    page = (ROOT / "docs" / "trust" / "verdicts.md").read_text()
    _, _, section = page.partition("## Agreement with oracles\n")
    rows = [line.strip("|").split("|") for line in section.partition("\n## ")[0].splitlines() if "`test_" in line]
    files = [file.read_text() for file in (ROOT / "tests").rglob("test_*.py")]
    assert len(rows) >= 20
    for _, oracle, agreement, tests in rows:
        for test in re.findall(r"`(test_\w+)`", tests):
            (text,) = [text for text in files if f"def {test}(" in text]
            body = re.split(r"\n(?=def |@)", text.partition(f"def {test}(")[2])[0]
            assert all(word in text for word in re.findall(r"`(\w+)`", oracle)), (test, oracle)
            assert all(re.search(rf"\b{number}\b", body) for number in re.findall(r"`([\de.-]+)`", agreement)), test
            assert "approx(" in body or "approx" not in agreement, test


VIOLATED = ("at the floor", "groups made from outcomes")  # data of which a rule must not judge


def claiming() -> list[str]:
    """Analyses whose own code gives their result claims."""
    return [
        name for name in names() if re.search(r"\bclaims=", inspect.getsource(inspect.getmodule(get(name).function)))
    ]


@pytest.mark.parametrize("name", claiming())
def test_whoever_claims_was_asked_of_nulls_and_of_plants(name: str) -> None:
    own = [rule for rule in RULES if rule.partition(",")[0] == name]
    assert own, (
        f"{name} claims: give it a rule in benchmarks/nulls, with data in which it must not and in which it must"
    )
    assert all(len(RULES[rule].nulls) >= 2 and RULES[rule].plants for rule in own)


def test_rules_are_of_analyses_that_claim() -> None:
    assert {rule.partition(",")[0] for rule in RULES} == set(claiming())
    assert {"gains", "circuit", "rivals"} <= set(claiming()) and "resid_norm" not in claiming()


def test_the_committed_nulls_hold() -> None:
    """Every rule was asked of all its data, claims nothing beyond its limit, and answers where it may."""
    kept = cells.read()
    assert set(kept) == set(cells.order())
    for at, row in kept.items():
        if row["kind"] == "null":
            assert row["found"] <= cells.limit(row["sets"]), at
        if row["kind"] == "null" and row["data"] not in VIOLATED:
            assert row["answered"] >= 0.8, at
    of = {rule: [r["found"] for r in kept.values() if r["rule"] == rule and r["kind"] == "plant"] for rule, *_ in kept}
    power = {at: row["found"] for at, row in kept.items() if row["kind"] == "plant"}
    assert all(max(found) >= 0.6 for found in of.values()), of
    assert power["gains: memory", "plant", "+.15 on 128 + 128"] >= 0.6
    assert power["gains: memory", "plant", "+.20 on 128 + 128"] >= 0.85
