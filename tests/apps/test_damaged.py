"""A corrupt record, a corrupt table, corrupt arrays and a half-written result beside good ones: each reader goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from analyses.core.store.store import Store
from apps.dashboard import pages
from apps.report import render
from tests.apps.conftest import key
from tests.apps.test_cli import probe
from tests.apps.test_dashboard import opened, words

Capture = pytest.CaptureFixture[str]

DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "record cut short": ("perplexity", lambda f: (f / "record.json").write_text('{"analysis": "perpl')),
    "record of another result": ("perplexity", lambda f: (f / "record.json").write_text('{"analysis": "x"}')),
    "table that is none": ("perplexity", lambda f: (f / "table.parquet").write_text("junk")),
    "table cut short": ("logit_lens", lambda f: _cut(f / "table.parquet")),
    "arrays cut short": ("logit_lens", lambda f: _cut(f / "arrays.nc")),
    "half written": ("perplexity", lambda f: [(f / name).unlink() for name in ("record.json", "arrays.nc")]),
}
BAD, GOOD = "runs/low", "runs/high"


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.fixture(params=DAMAGE)
def damaged(request: pytest.FixtureRequest, store: Store, tmp_path: Path) -> tuple[Store, str, str]:
    """(a store of one's own, the analysis and the key of its damaged result)."""
    analysis, harm = DAMAGE[request.param]
    copy = Store(Path(shutil.copytree(store.root, tmp_path / "r")))
    harm(copy.folder(analysis, key(analysis, BAD)))
    return copy, analysis, key(analysis, BAD)


def test_show_lists_the_others_and_says_of_the_one_what_it_is(damaged: tuple[Store, str, str], capsys: Capture) -> None:
    store, analysis, bad = damaged
    good = key(analysis, GOOD)
    code, out, err = probe(capsys, "show", "--results", store.root)
    assert code == 0 and good[:8] in out and (bad[:8] in out or bad in err)
    code, out, err = probe(capsys, "show", bad, "--results", store.root)
    assert code != 0 and "Traceback" not in err and bad in err
    assert "delete its folder" in err or "names 0 results" in err
    code, out, err = probe(capsys, "show", good, "--results", store.root, "--json")
    assert code == 0 and json.loads(out)["key"] == good


def test_query_answers_from_the_others(damaged: tuple[Store, str, str], capsys: Capture) -> None:
    store, analysis, bad = damaged
    sql = f"SELECT run, count(*) AS n FROM {analysis} GROUP BY run"
    code, out, err = probe(capsys, "query", sql, "--results", store.root, "--json")
    found = {row["run"] for row in json.loads(out)}
    assert code == 0 and "high" in found
    # Arrays are not what a query reads: there the rows of both runs are right.
    assert "low" in found or not store.has(analysis, bad) or bad in err
    for view in ("results", "claims"):
        code, out, _ = probe(capsys, "query", f"SELECT key FROM {view}", "--results", store.root, "--json")
        assert code == 0 and json.loads(out)


def test_the_report_holds_the_others(damaged: tuple[Store, str, str]) -> None:
    store, analysis, bad = damaged
    text = render(store)
    assert key(analysis, GOOD) in text and bad in text


@pytest.mark.parametrize("damaged", ["record cut short", "table cut short", "half written"], indirect=True)
def test_every_page_of_the_dashboard_opens(damaged: tuple[Store, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    store, analysis, bad = damaged
    for page in pages.titles():
        opened(store, monkeypatch, page=page)
    for wanted in (bad, key(analysis, GOOD)):
        opened(store, monkeypatch, page="Results", analysis=analysis, key=wanted)
    shown = words(opened(store, monkeypatch, page="Results", analysis=analysis, key=key(analysis, GOOD)))
    assert "cannot be read" not in shown or bad in shown
