"""The table of `make verify`: every outcome is in it, in words, and anything that did not hold makes it fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import _rows
from benchmarks import _verify as verify
from tests.conftest import ROOT

TESTS = '''
import pytest

def test_two_and_two_are_four():
    """Arithmetic, first line.

    And more.
    """

@pytest.mark.parametrize("n", [3])
def test_it_is_even(n):
    assert n % 2 == 0, "an odd | number"

def test_on_the_lab():
    pytest.skip("no lab here")

def test_not_asked(): ...

@pytest.fixture
def broken():
    raise OSError("no such file")

def test_that_cannot_begin(broken): ...
'''
ROW = {"name": "a / b", "ratio": 1.234, "spread": None, "bound": "<= 2", "holds": True, "note": "1 | 2"}


def outcomes(folder: Path, *more: str) -> dict[str, verify.Row]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "benchmarks._verify", "-c", "/dev/null", "--rootdir", folder]
    done = [*command, "--outcomes", folder / "said.json", folder, *more]
    subprocess.run(done, cwd=ROOT, capture_output=True, check=False, timeout=120)
    return {row["what"]: row for row in json.loads((folder / "said.json").read_text())["tests"]}


def test_outcomes_are_told_in_sentences(tmp_path: Path) -> None:
    (tmp_path / "test_sums.py").write_text(TESTS)
    (tmp_path / "test_torn.py").write_text("import nothing_of_this_name")
    (tmp_path / "said.json").write_text("an earlier session's")
    said = outcomes(tmp_path, "--deselect", "test_sums.py::test_not_asked", "--continue-on-collection-errors")
    assert set(said) == {
        "sums: two and two are four",
        "sums: it is even (3)",
        "sums: on the lab",
        "sums: that cannot begin",
        "test_torn.py",
    }
    assert said["sums: two and two are four"]["held"] == verify.HELD
    assert said["sums: two and two are four"]["note"] == "Arithmetic, first line."
    assert said["sums: it is even (3)"]["held"] == verify.BROKEN
    assert "an odd | number" in said["sums: it is even (3)"]["note"]
    assert (said["sums: on the lab"]["held"], said["sums: on the lab"]["note"]) == (verify.SKIPPED, "no lab here")
    assert said["sums: that cannot begin"]["held"] == said["test_torn.py"]["held"] == verify.BROKEN


def test_a_test_asked_again_takes_the_place_of_its_own_row_alone(tmp_path: Path) -> None:
    (tmp_path / "test_sums.py").write_text("def test_one(): ...\n\ndef test_two(): assert False\n")
    assert {row["held"] for row in outcomes(tmp_path).values()} == {verify.HELD, verify.BROKEN}
    (tmp_path / "test_sums.py").write_text("def test_one(): ...\n\ndef test_two(): ...\n")
    said = outcomes(tmp_path, "--add", "-k", "two")
    assert set(said) == {"sums: one", "sums: two"} and said["sums: two"]["held"] == verify.HELD
    assert "CPUs" in said["sums: two"]["note"] and not said["sums: one"]["note"]


def test_rows_with_a_bound_are_in_the_table_and_benchmarks_without_rows_did_not_finish(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verify, "names", lambda: ["lens", "gone"])
    rows = verify.measured({"lens": {"rows": [ROW, {**ROW, "bound": 1.0, "holds": False}, {**ROW, "holds": None}]}})
    assert [row["held"] for row in rows] == [verify.HELD, verify.BROKEN, verify.GONE]
    assert [row["number"] for row in rows] == ["1.23 (<= 2)", "1.23 (<= 1.0)", ""]
    assert rows[-1]["what"] == "gone: benchmark"


@pytest.mark.parametrize("tests", [None, {"date": "d", "machine": "m", "tests": []}])
def test_the_table_begins_with_what_did_not_hold_and_fails(
    tests: dict[str, object] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rows, "ROWS", tmp_path / "results.json")
    monkeypatch.setattr(verify, "TESTS", tmp_path / "verified.json")
    monkeypatch.setattr(verify, "PAGE", tmp_path / "VERIFY.md")
    _rows.keep("lens", {"rows": [ROW]})
    if tests:
        verify.TESTS.write_text(json.dumps(tests))
    monkeypatch.setattr(verify, "names", lambda: ["lens"])
    assert verify.main() == int(tests is None)
    lines = verify.PAGE.read_text().splitlines()
    assert lines[-1] == "| lens: a / b | yes | 1.23 (<= 2) | 1 \\| 2 |"
    assert ("| pytest -m verify | **not run** |  | not to its end |" in lines) == (tests is None)


def test_a_benchmark_that_fails_leaves_no_rows_and_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((_rows, "ROWS"), (verify, "PAGE"), (verify, "TESTS"), (benchmarks, "PAGE")):
        monkeypatch.setattr(module, name, tmp_path / f"{module.__name__}.{name}")
    _rows.keep("lens", {"rows": [ROW]})
    _rows.keep("gone", {"rows": [ROW]})
    with pytest.raises(ModuleNotFoundError):
        benchmarks.main(["gone"])
    assert set(_rows.read()) == {"lens"}
    ran: list[str] = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        ran.append(command[-1])
        return subprocess.CompletedProcess(command, returncode=int(command[-1] == "gone"))

    monkeypatch.setattr(subprocess, "run", run)
    assert benchmarks.main(["gone", "lens"]) == 1
    assert ran == ["gone", "lens"]


def test_the_committed_table_is_that_of_the_committed_outcomes() -> None:
    tests = json.loads(verify.TESTS.read_text())
    rows = [row for row in verify.page(tests, []).splitlines() if row.startswith("| ")][2:]
    assert rows
    assert set(rows) <= set(verify.PAGE.read_text().splitlines())


def test_a_ratio_of_nothing_is_a_number() -> None:
    assert [_rows.cell(v) for v in (0, 1, True, False, None, 0.5, "a | b")] == [
        "0", "1", "yes", "**no**", "", "0.5", "a \\| b",
    ]  # fmt: skip
