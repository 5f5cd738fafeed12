"""The store: whole or not at all, same content same place, nothing outside its folder."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from analyses.core.result import Result
from analyses.core.store.store import Store, StoreError
from probe.errors import InputError

KEY = "0123456789abcdef"


def made(key: str = KEY, name: str = "toy", value: float = 1.5) -> Result:
    data = xr.Dataset({"a": ("layer", [value, np.nan])}, coords={"layer": [0, 1]})
    table = pd.DataFrame({"item": ["x", "y"], "a": [value, 2.0]})
    return Result.of(table, data, verdict="none found").with_record(key=key, analysis=name, schema=1, kind="run")


def test_round_trip_keeps_numbers_names_and_record(tmp_path: Path) -> None:
    store, result = Store(tmp_path), made()
    folder = store.put(result)
    back = store.get("toy", KEY)
    xr.testing.assert_identical(back.data, result.data)
    pd.testing.assert_frame_equal(back.table, result.table)
    assert back.record == result.record
    assert back.verdict == "none found"
    assert sorted(p.name for p in folder.iterdir()) == ["arrays.nc", "record.json", "table.parquet"]
    assert not [p for p in folder.parent.iterdir() if p.name.startswith(".")], "no temporary left behind"


def test_second_writer_of_the_same_key_keeps_the_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(made(value=1.5))
    store.put(made(value=9.0))
    assert store.get("toy", KEY).table["a"][0] == 1.5
    assert [p.name for p in (tmp_path / "toy").iterdir()] == [KEY]


def test_a_full_disk_leaves_nothing_and_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", full)
    with pytest.raises(StoreError, match=r"disk is full.*run the same command again"):
        Store(tmp_path).put(made())
    assert list((tmp_path / "toy").iterdir()) == []
    assert list(Store(tmp_path).addresses()) == []


def test_a_half_written_result_is_not_listed_but_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.put(made())
    (folder / "table.parquet").unlink()
    assert list(store.addresses()) == []
    assert store.broken() == [folder]
    with pytest.raises(InputError, match=r"missing table\.parquet"):
        store.get("toy", KEY)


@pytest.mark.parametrize("name", ["table.parquet", "arrays.nc", "record.json"])
def test_a_truncated_file_is_named(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    path = store.put(made()) / name
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(StoreError, match="cannot be read"):
        store.get("toy", KEY)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.put(made()) / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    with pytest.raises(InputError, match=r"schema 99.*upgrade"):
        store.get("toy", KEY)


@pytest.mark.parametrize(
    ("name", "key"), [("..", KEY), ("toy", "../../etc"), ("toy", KEY[:-1]), ("a/b", KEY), ("toy", KEY + "/x")]
)
def test_addresses_cannot_leave_the_store(tmp_path: Path, name: str, key: str) -> None:
    with pytest.raises(InputError, match="not a result address"):
        Store(tmp_path).folder(name, key)


def test_query_sees_all_results_of_an_analysis_with_their_keys(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for key in (KEY, KEY[::-1]):
        store.put(made(key))
    store.shards.put(made("f" * 16))
    rows = store.query("SELECT key, count(*) AS n FROM toy GROUP BY key ORDER BY key")
    assert rows.to_dict("list") == {"key": [KEY, KEY[::-1]], "n": [2, 2]}
    with pytest.raises(InputError, match=r"Views in .*: toy"):
        store.query("SELECT * FROM nothing")


@pytest.mark.parametrize("name", ["results[1]", "results*", "results?", "it's"])
def test_a_folder_is_a_name_and_no_pattern(tmp_path: Path, name: str) -> None:
    for at, value in ((name, 1.0), ("results1", 2.0), ("results", 3.0)):
        Store(tmp_path / at).put(made(value=value))
    assert Store(tmp_path / name).query("SELECT a FROM toy")["a"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("sql", ["", "-- nothing", "  "])
def test_a_query_that_selects_nothing_is_refused(tmp_path: Path, sql: str) -> None:
    with pytest.raises(InputError, match="selects nothing"):
        Store(tmp_path).query(sql)


def test_find_takes_a_prefix_and_refuses_an_ambiguous_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(made(KEY))
    store.put(made("01" + "0" * 14))
    assert store.find("0123") == ("toy", KEY)
    with pytest.raises(InputError, match="names 2 results"):
        store.find("01")


def test_a_running_sweep_is_announced_and_cleared(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.announce(KEY, {"done": 1, "total": 3})
    (state,) = store.running()
    assert (state["done"], state["total"]) == (1, 3)
    store.announce(KEY, None)
    assert store.running() == []


def test_two_processes_writing_the_same_result_leave_one(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: Store(tmp_path).put(made()), range(16)))
    assert folders == {tmp_path / "toy" / KEY}
    assert Store(tmp_path).get("toy", KEY).table["a"][0] == 1.5


def about(run: str, steps: tuple[int, ...], key: str, **record: Any) -> Result:
    """A sweep of two rows a step, with the record the runner writes."""
    members = [
        {"step": s, "key": f"{s:016x}", "model": {"path": f"{run}/global_step_{s}/actor", "step": s}} for s in steps
    ]
    table = pd.DataFrame({"step": [s for s in steps for _ in "ab"], "item": list("ab") * len(steps), "nll": 1.0})
    inputs = {"prompts": {"source": "data/items.jsonl", "n": 2}}
    return Result.of(table, xr.Dataset()).with_record(
        schema=1, key=key, analysis="toy", kind="sweep", members=members, inputs=inputs, started="2026", **record
    )


def test_rows_say_what_they_are_about(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(about("out/one", (0, 10), "1" * 16, options={"x": 1}))
    store.put(about("out/two [x]", (0,), "2" * 16))
    rows = store.query("SELECT run, step, checkpoint, prompts, count(*) AS n FROM toy GROUP BY ALL ORDER BY ALL")
    assert rows.values.tolist() == [
        ["one", 0, "global_step_0", "items.jsonl", 2],
        ["one", 10, "global_step_10", "items.jsonl", 2],
        ["two [x]", 0, "global_step_0", "items.jsonl", 2],
    ]
    every = store.query("SELECT run, analysis, steps, items, options, key FROM results ORDER BY run")
    assert every.values.tolist() == [
        ["one", "toy", 2, 2, '{"x": 1}', "1" * 16],
        ["two [x]", "toy", 1, 2, "{}", "2" * 16],
    ]
    assert len(store.query("SELECT * FROM claims")) == 0
    assert set(store.query("SHOW TABLES")["name"]) >= {"toy", "results", "claims"}
    assert store.named("toy", "one") == ("toy", "1" * 16)
    with pytest.raises(InputError, match="no result of toy about a run 'three'"):
        store.named("toy", "three")
    store.put(about("out/one", (0, 10, 20), "5" * 16, options={"x": 1}))
    assert store.named("toy", "one") == ("toy", "5" * 16), "of the same question the newest answer"
    store.put(about("out/one", (0, 10), "3" * 16, options={"x": 2}))
    with pytest.raises(InputError, match=r"name one by its key: .*3333"):
        store.named("toy", "one")


def test_columns_of_a_table_that_are_called_like_ours_are_kept_apart(tmp_path: Path) -> None:
    table = pd.DataFrame({"run": ["mine"], "key": ["k"], "step": [4]})
    Store(tmp_path).put(Result.of(table, xr.Dataset()).with_record(schema=1, key=KEY, analysis="toy", inputs={}))
    (row,) = Store(tmp_path).query("SELECT * FROM toy").to_dict("records")
    assert (row["own_run"], row["own_key"], row["step"], row["key"]) == ("mine", "k", 4, KEY)


def test_damaged_results_are_named_and_the_others_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for key, run in (("1" * 16, "one"), ("2" * 16, "two"), ("3" * 16, "three"), ("4" * 16, "four")):
        store.put(about(f"out/{run}", (0,), key))
    (store.folder("toy", "2" * 16) / "record.json").write_text("{")
    (store.folder("toy", "3" * 16) / "table.parquet").write_text("junk")
    (store.folder("toy", "4" * 16) / "record.json").write_text('{"key": "another"}')
    rows = store.query("SELECT DISTINCT run FROM toy")
    assert rows["run"].tolist() == ["one"]
    told = " ".join(rows.attrs["problems"])
    assert all(key * 16 in told for key in "234") and "1" * 16 not in told
    assert "3" * 16 not in " ".join(store.query("SELECT run FROM results").attrs["problems"]), "it is not read for it"
    assert [r["key"] for r in store.records()] == ["1" * 16, "3" * 16]
