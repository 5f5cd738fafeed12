"""Items from files and memory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from probe.errors import InputError
from probe.prompts import Chat, Item, Prompts


def write(folder: Path, *rows: object, name: str = "p.jsonl") -> Path:
    file = folder / name
    file.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return file


ROW = {"id": "a", "prompt": "2+2=", "answer": "4", "group": "g"}


def test_default_file(tmp_path: Path) -> None:
    read = Prompts.read(write(tmp_path, ROW, {**ROW, "id": "b", "k": 3}))
    assert [i.id for i in read.items] == ["a", "b"]
    assert read.items[0] == Item("a", "2+2=", "4", "g", "given", {})
    assert read.items[1].meta == {"k": 3}
    assert read.groups == ("g",)


def test_an_item_knows_its_golds_its_problem_and_what_is_resampled() -> None:
    item = Item("m1/story", "p", "4", also=("four",), variant="story", choices=("3", "4"), correct=1, seen=True)
    assert (item.problem, item.unit, item.abstain) == ("m1", "m1", False)
    assert Item("a", "p", "4").golds == ("4",)
    assert Item("a", "p", "").abstain
    assert Item("a", "p", "").golds == ()
    chat = Chat(before=({"role": "system", "content": "s"},))
    assert Item("a", "p", "4", chat=chat).messages[1] == {"role": "user", "content": "p"}
    assert (item.golds, replace(item, answer="5").golds) == (("4", "four"), ("5", "four"))
    with pytest.raises(InputError, match="correct=2"):
        replace(item, correct=2)


def test_answers_by_kind(tmp_path: Path) -> None:
    row = {"id": "a", "prompt": "p", "answers": {"gold_final": "4", "gen_own": "5"}}
    read = Prompts.read(write(tmp_path, row))
    assert {i.answer_kind: i.answer for i in read.items} == {"gold_final": "4", "gen_own": "5"}
    assert len(read.where(answer_kind="gen_own")) == 1


def test_answer_kind_of_a_plain_answer(tmp_path: Path) -> None:
    assert Prompts.read(write(tmp_path, ROW), answer_kind="gold_final").items[0].answer_kind == "gold_final"
    assert Prompts.read(write(tmp_path, {**ROW, "answer_kind": "x"})).items[0].answer_kind == "x"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW, "{not json"], "line 2"),
        ([ROW, "[1]"], "line 2: expected a JSON object"),
        ([{**ROW, "prompt": ""}], "empty prompt.* a"),
        ([ROW, ROW], "already taken"),
        ([{"id": "a", "answer": "4"}], "no 'prompt'"),
        ([{"id": "a", "prompt": "4"}], "no 'answer'"),
        ([{"question": "q", "answer": "r #### 1"}], "columns='gsm8k'"),
        ([{**ROW, "answer": None}], "answer. is None"),
        ([], "line 1: empty"),
    ],
)
def test_bad_files_say_where(tmp_path: Path, rows: list[object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Prompts.read(write(tmp_path, *rows))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no prompt file"):
        Prompts.read(tmp_path / "none.jsonl")


def test_mapping_joins_extracts_and_names_constants() -> None:
    rows = [{"Body": "A has 3.", "Q": "How many?", "text": "so #### 2\n#### 3 "}]
    columns = {"id": "#", "prompt": "{Body} {Q}", "answer": r"text ~ ####\s*(.+)$", "group": "=toy"}
    item = Prompts.of(rows, columns=columns).items[0]
    assert (item.id, item.prompt, item.answer, item.group) == ("0", "A has 3. How many?", "3", "toy")
    with pytest.raises(InputError, match="nothing matches"):
        Prompts.of([{**rows[0], "text": "none"}], columns=columns)
    with pytest.raises(InputError, match="no column 'Z'"):
        Prompts.of(rows, columns={**columns, "prompt": "Z"})


def test_box_by_balanced_braces() -> None:
    row = {"idx": 1, "problem": "p", "solution": r"\boxed{1} then \boxed{\frac{a}{b}}.", "type": "t"}
    assert Prompts.of([row], columns="minerva_math").items[0].answer == r"\frac{a}{b}"
    with pytest.raises(InputError, match="boxed"):
        Prompts.of([{**row, "solution": r"\boxed{open"}], columns="minerva_math")


def test_unknown_schema() -> None:
    with pytest.raises(InputError, match="schemas are"):
        Prompts.of([ROW], columns="nope")


@pytest.mark.parametrize(
    ("name", "schema", "count"),
    [
        ("math500.json", "ttrl", 500),
        ("amc.json", "ttrl", 83),
        ("aime24.json", "ttrl", 30),
        ("gsm8k_test.jsonl", "gsm8k", 1319),
        ("minerva_math.jsonl", "minerva_math", 272),
        ("svamp.jsonl", "svamp", 1000),
    ],
)
def test_benchmark_files(benchmarks: Path, name: str, schema: str, count: int) -> None:
    read = Prompts.read(benchmarks / name, columns=schema)
    assert len(read) == count
    assert all("####" not in i.answer and "boxed" not in i.answer for i in read.items)


def test_gsm8k_answers_are_final_numbers(benchmarks: Path) -> None:
    read = Prompts.read(benchmarks / "gsm8k_test.jsonl", columns="gsm8k")
    assert read.items[0].answer == "18"
    assert all(i.answer.lstrip("-").replace(",", "").replace(".", "").isdigit() for i in read.items)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_tables(tmp_path: Path, suffix: str) -> None:
    import pandas as pd

    frame = pd.DataFrame([{**ROW, "id": "007"}, {**ROW, "id": "008", "answer": "NA"}])
    file = tmp_path / f"p.{suffix}"
    if suffix == "parquet":
        frame.to_parquet(file)
    else:
        frame.to_csv(file, index=False, sep="," if suffix == "csv" else "\t")
    read = Prompts.read(file)
    assert [i.id for i in read.items] == ["007", "008"]
    assert read.items[1].answer == "NA"


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow", "datasets", "list"])
def test_tables_in_memory(library: str) -> None:
    import datasets
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    rows = [{**ROW, "k": 1}, {**ROW, "id": "b", "k": 2}]
    make = {
        "pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.Table.from_pylist,
        "datasets": datasets.Dataset.from_list, "list": list,
    }[library]  # fmt: skip
    assert Prompts.of(make(rows)) == Prompts.of(rows)
    with pytest.raises(InputError, match="row 2"):
        Prompts.of([ROW, 3])


def test_missing_cells_are_no_text() -> None:
    import pandas as pd

    with pytest.raises(InputError, match=r"row 2.*answer.*nan"):
        Prompts.of(pd.DataFrame([{**ROW}, {**ROW, "id": "b", "answer": float("nan")}]))


def test_broken_tables(tmp_path: Path) -> None:
    for name in ("p.parquet", "p.csv"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(InputError, match="not a readable table"):
            Prompts.read(tmp_path / name)


def test_datasets_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "toy"
    folder.mkdir()
    write(folder, {"question": "q?", "answer": "so\n#### 7"}, name="test.jsonl")
    read = Prompts.read(f"hf:{folder}:test", columns="gsm8k")
    assert (read.items[0].answer, read.source) == ("7", f"hf:{folder}:test")
    for bad in (f"hf:{folder}:nosplit", "hf:x", "hf:nobody/nothing:test"):
        with pytest.raises(InputError, match="hf:"):
            Prompts.read(bad)


def test_fingerprint_is_of_content() -> None:
    one = Prompts.of([ROW], source="x")
    assert one.fingerprint() == Prompts.of([dict(ROW)], source="y").fingerprint()
    for change in ({"answer": "5"}, {"group": "h"}, {"id": "z"}, {"extra": 1}):
        assert Prompts.of([{**ROW, **change}]).fingerprint() != one.fingerprint()


def test_subset_is_stratified_and_seeded() -> None:
    rows = [{**ROW, "id": str(i), "group": "a" if i < 30 else "b"} for i in range(40)]
    all_items = Prompts.of(rows)
    part = all_items.subset(8, seed=3)
    assert [i.group for i in part.items].count("a") == 6
    assert part == all_items.subset(8, seed=3)
    assert part != all_items.subset(8, seed=4)
    with pytest.raises(InputError, match="subset of 41"):
        all_items.subset(41)


def test_limit_where_and_frame() -> None:
    rows = [{**ROW, "id": str(i), "group": "ab"[i % 2], "k": i} for i in range(4)]
    read = Prompts.of(rows)
    assert [i.id for i in read.limit(2).items] == ["0", "1"]
    assert [i.id for i in read.where(group="b").items] == ["1", "3"]
    assert list(read.frame().columns) == ["id", "prompt", "answer", "group", "answer_kind", "k"]
    with pytest.raises(InputError, match="groups"):
        read.where(group="c")
