"""Results at a URL are shown, queried, reported and browsed as those in a folder are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from analyses.core.store import contents
from analyses.core.store.files import FILES, place
from analyses.core.store.store import Store, StoreError
from apps.catalog import listing
from apps.command.cli import app
from apps.dashboard import serve
from apps.report import write_report
from probe.errors import InputError
from tests.apps.conftest import key, perplexity
from tests.apps.test_dashboard import PAGES, opened, words
from tests.object_store import objects

pytest.importorskip("upath")


def copied(source: Store, url: str) -> Store:
    """The same results at a URL."""
    there = Store(place(url))
    for name, content in source.addresses():
        there.put(source.get(name, content))
    return there


@pytest.fixture(scope="module", params=["memory://results/of/runs", "s3://bucket/results", "file://{}/results"])
def there(request: pytest.FixtureRequest, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """The small store at a URL of each kind."""
    with objects():
        made = copied(store, request.param.format(tmp_path_factory.mktemp("url")))
        yield made
        for address in list(made.addresses()):
            made.drop(*address)


def test_a_listing_names_the_same_results(store: Store, there: Store) -> None:
    here, far = listing(store), listing(there)
    assert [e.label for e in far.entries] == [e.label for e in here.entries]
    assert far.problems == here.problems == ()
    assert [contents.verdict(e.root, e.analysis, e.key) for e in far.entries] == [
        contents.verdict(e.root, e.analysis, e.key) for e in here.entries
    ]


def test_names_columns_rows_and_files_are_the_same(store: Store, there: Store) -> None:
    for here, far in zip(listing(store).entries, listing(there).entries, strict=True):
        assert contents.table_columns(far.root, far.analysis, far.key) == contents.table_columns(
            here.root, here.analysis, here.key
        )
        assert contents.array_names(far.root, far.analysis, far.key) == contents.array_names(
            here.root, here.analysis, here.key
        )
        wanted = {"where": {"step": [30]}, "search": "leaked"}
        (mine, n), (theirs, m) = contents.rows(here, **wanted), contents.rows(far, **wanted)
        pd.testing.assert_frame_equal(mine, theirs)
        assert n == m
        assert contents.table_bytes(far)[:4] == b"PAR1"


def test_a_new_result_and_one_taken_away_are_seen(there: Store) -> None:
    before = listing(there)
    assert before.is_current()
    added = perplexity("runs/later", 0.1)
    there.put(added)
    assert not before.is_current()
    assert added.key in {e.key for e in listing(there).entries}
    there.drop(added.analysis, added.key)
    assert added.key not in {e.key for e in listing(there).entries}


def test_half_a_result_is_told_and_the_others_listed(there: Store) -> None:
    half = there.folder("perplexity", key("half"))
    half.mkdir(parents=True, exist_ok=True)
    (half / FILES[0]).write_bytes(b"PAR1")
    found = listing(there)
    assert [str(p) for p in found.broken] == [str(half)]
    assert any("incomplete" in p for p in found.problems)
    there.drop("perplexity", key("half"))
    assert not listing(there).problems


def test_a_damaged_file_is_told(there: Store) -> None:
    made = perplexity("runs/damaged", 0.2)
    folder = there.put(made)
    for name in FILES[:2]:
        (folder / name).write_bytes(b"nothing")
    entry = listing(there).find(made.key)
    assert entry is not None
    for read in (contents.table_columns, contents.array_names, contents.verdict):
        with pytest.raises(StoreError, match="cannot be read"):
            read(entry.root, entry.analysis, entry.key)
    with pytest.raises(StoreError, match="cannot be read"):
        contents.rows(entry)
    there.drop(made.analysis, made.key)


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    app(list(arguments), standalone_mode=False)
    return capsys.readouterr().out


def test_commands_read_it(there: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--results", there.place]
    listed = json.loads(told(capsys, "show", "--json", *where))
    assert {r["key"] for r in listed} == {k for _, k in there.addresses()}
    for row in listed:
        shown = json.loads(told(capsys, "show", row["key"], "--json", *where))
        assert shown["folder"].startswith(there.place)
    (count,) = json.loads(told(capsys, "query", "SELECT count(DISTINCT key) AS n FROM perplexity", "--json", *where))
    assert count["n"] == 2
    file = tmp_path / "report.html"
    told(capsys, "report", *where, "-o", str(file))
    text = file.read_text()
    assert "cannot be read" not in text
    assert all(r["key"] in text for r in listed)


def test_the_report_is_that_of_the_folder(store: Store, there: Store, tmp_path: Path) -> None:
    def sections(results: Store, name: str) -> int:
        return write_report(results, tmp_path / name).read_text().count('<details class="result"')

    assert sections(there, "far.html") == sections(store, "here.html") == len(list(store.addresses()))


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens(there: Store, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    if there.place.startswith("file"):
        pytest.skip("as a folder is")
    said = words(opened(there, monkeypatch, page=page))
    assert f"{len(list(there.addresses()))} results in" in said


def test_the_dashboard_is_another_process_and_cannot_see_this_ones_memory(there: Store) -> None:
    if there.place.startswith("memory"):
        with pytest.raises(InputError, match="inside one process"):
            serve.serve(there, "127.0.0.1", 0)
    else:
        assert serve.command(there, "127.0.0.1", 8501)[-1] == there.place


def test_what_a_page_shows_can_be_made_again_from_the_url(store: Store) -> None:
    with objects():
        there = copied(store, "memory://elsewhere")
        entry = listing(there).of("perplexity")[0]
        from apps.drawn.reproduction import python_code

        space: dict = {}
        exec(python_code(entry, {}, None), space)
        assert space["result"].key == entry.key
