"""What held and what did not, in one table: `pytest -m verify` and the benchmarks' bounds side by side.

As a pytest plugin (`-p benchmarks._verify`) it writes what each test said to `verified.json`; run as a module it joins
that with the benchmarks' rows in `VERIFY.md`, prints it, and fails if anything did not hold or did not finish. Each
half stands without the other: a test that fails stops no benchmark. Rows without a bound claim nothing and are only
in RESULTS.md.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks import _rows
from benchmarks._rows import FOLDER, cell, machine, names

TESTS, PAGE = FOLDER / "verified.json", FOLDER / "VERIFY.md"
HELD, BROKEN, GONE, SKIPPED = "yes", "**no**", "**not run**", "skipped"
SAID = {"passed": HELD, "skipped": SKIPPED}
Row = dict[str, str]

said = pytest.StashKey[dict[str, Row]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the outcomes go."""
    parser.addoption("--outcomes", type=Path, default=TESTS, help="file for what each test said")
    parser.addoption("--add", action="store_true", help="keep what tests that are not asked now said before")


def pytest_configure(config: pytest.Config) -> None:
    """Outcomes of an earlier session are gone before this one can be cut short, unless this one adds to them."""
    config.stash[said] = {}
    if not config.getoption("add"):
        config.getoption("outcomes").unlink(missing_ok=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """One row a test: its call, or the setup or teardown that kept it from passing."""
    report = yield
    if report.when == "call" or not report.passed:
        item.config.stash[said][item.nodeid] = {
            "what": sentence(item),
            "held": SAID.get(report.outcome, BROKEN),
            "number": f"{report.duration:.0f} s",
            "note": reason(report) or first_line(item),
        }
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Any:
    """A file whose tests cannot even be found is a row of its own."""
    report = yield
    if not report.passed:
        held = SAID.get(report.outcome, BROKEN)
        row = {"what": collector.nodeid, "held": held, "number": "", "note": "its tests were not collected"}
        collector.config.stash[said][collector.nodeid] = row
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Written at the end, so that a session that was killed leaves no file."""
    kept = {"date": datetime.date.today().isoformat(), "machine": machine()}
    file, rows = session.config.getoption("outcomes"), list(session.config.stash[said].values())
    if session.config.getoption("add") and file.is_file():
        kept, rows = added(json.loads(file.read_text()), rows, f"{kept['date']}, {kept['machine']}")
    file.write_text(json.dumps({**kept, "tests": rows}, indent=1) + "\n")


def added(earlier: dict[str, Any], rows: list[Row], when: str) -> tuple[dict[str, str], list[Row]]:
    """What an earlier session said, with these rows in the place of its own; each says when it was asked."""
    now = {row["what"]: {**row, "note": "; ".join(filter(None, [row["note"], when]))} for row in rows}
    others = [row for row in earlier["tests"] if row["what"] not in now]
    return {name: earlier[name] for name in ("date", "machine")}, [*others, *now.values()]


def sentence(item: pytest.Item) -> str:
    """`test_cross_patching.py::test_false_findings[2]` as "cross patching: false findings (2)"."""
    name, _, case = item.name.removeprefix("test_").partition("[")
    told = f"{item.path.stem.removeprefix('test_')}: {name}".replace("_", " ")
    return f"{told} ({case.removesuffix(']')})" if case else told


def first_line(item: pytest.Item) -> str:
    """What the test's docstring says first."""
    told: str | None = getattr(getattr(item, "obj", None), "__doc__", None)
    return told.strip().splitlines()[0] if told else ""


def reason(report: pytest.TestReport) -> str:
    """Why a test was skipped, or the last line of what went wrong."""
    if report.passed:
        return ""
    told = report.longrepr[2] if isinstance(report.longrepr, tuple) else getattr(report.longrepr, "reprcrash", None)
    return " ".join(str(getattr(told, "message", told)).removeprefix("Skipped: ").split())[:200]


def measured(kept: dict[str, Any]) -> list[Row]:
    """Rows of the benchmarks that have a bound; a benchmark without any row did not finish."""
    bounded = [(n, row) for n, entry in sorted(kept.items()) for row in entry["rows"] if row["holds"] is not None]
    gone = [n for n in names() if n not in kept]
    untold = [{"what": f"{n}: benchmark", "held": GONE, "number": "", "note": "no rows"} for n in gone]
    return [against_its_bound(name, row) for name, row in bounded] + untold


def against_its_bound(name: str, row: dict[str, Any]) -> Row:
    """One row of a benchmark: a bound without a sign is an upper one."""
    bound = str(row["bound"])
    bound = f"<= {bound}" if bound[:1].isdigit() else bound
    return {
        "what": f"{name}: {row['name'].removeprefix(f'{name}: ')}",
        "held": HELD if row["holds"] else BROKEN,
        "number": f"{cell(row['ratio'])} ({bound})",
        "note": row["note"] or "",
    }


def page(tests: dict[str, Any] | None, rows: list[Row]) -> str:
    """VERIFY.md: what did not hold first, what was not measured, then what held."""
    untold = [{"what": "pytest -m verify", "held": GONE, "number": "", "note": "not to its end"}]
    every = (tests["tests"] if tests else untold) + rows
    every.sort(key=lambda row: (BROKEN, GONE, SKIPPED, HELD).index(row["held"]))
    of = Counter(row["held"] for row in every)
    told = f"{of[HELD]} held, {of[BROKEN]} did not, {of[GONE]} not run (or not to the end), {of[SKIPPED]} skipped."
    where = f" Tests: {tests['date']}, {tests['machine']}; benchmarks: as in their own table." if tests else ""
    lines = [
        "# What held, and what did not\n",
        f"`make verify` asks it again: the long tests and the benchmarks' bounds. {told}{where}\n",
        "| what | held | number | note |",
        "|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(cell(row[c]) for c in ("what", "held", "number", "note")) + " |" for row in every]
    return "\n".join(lines) + "\n"


def write() -> str:
    """VERIFY.md from what was kept of both halves."""
    tests = json.loads(TESTS.read_text()) if TESTS.is_file() else None
    told = page(tests, measured(_rows.read()))
    PAGE.write_text(told)
    return told


def main() -> int:
    """Write and print the table; 1 if anything in it did not hold."""
    told = write()
    print(told)
    return int(f"| {BROKEN} |" in told or f"| {GONE} |" in told)


if __name__ == "__main__":
    sys.exit(main())
