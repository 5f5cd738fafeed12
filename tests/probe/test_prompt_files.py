"""Prompt files as other programs write them: forms of chat data, answers in plenty, and untidy bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from probe.errors import InputError
from probe.items import Chat, Item
from probe.prompts import Prompts

USER, BRIEF = {"role": "user", "content": "hi"}, {"role": "system", "content": "Be brief."}
REPLY = {"role": "assistant", "content": "yo"}


def one(row: dict[str, Any], **how: Any) -> Item:
    (item,) = Prompts.of([row], **how).items
    return item


def said(item: Item) -> tuple[list[Any], str]:
    return item.messages, item.answer


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [BRIEF, USER], "answer": "yo"},
        {"prompt": [BRIEF, USER], "completion": [REPLY]},
        {"messages": [BRIEF, USER, REPLY]},
        {"messages": [BRIEF, USER], "answer": "yo"},
        {"messages": json.dumps([BRIEF, USER, REPLY])},
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}], "system": "Be brief."},
        {"instruction": "hi", "input": "", "output": "yo", "system": "Be brief."},
        {"prompt": [BRIEF, USER], "reward_model": {"style": "rule", "ground_truth": "yo"}, "data_source": "x"},
        {"prompt": [BRIEF, {"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]}],
         "answer": "yo"},
    ],
)  # fmt: skip
def test_one_conversation_in_every_form(row: dict[str, Any]) -> None:
    item = one(row)
    assert said(item) == ([BRIEF, USER], "yo")
    assert len(item.id) == 12
    assert item.id == one(dict(row)).id


@pytest.mark.parametrize("library", ["pandas", "pyarrow", "datasets", "parquet", "jsonl"])
def test_a_conversation_is_the_same_from_every_kind_of_table(library: str, tmp_path: Path) -> None:
    import datasets
    import pandas as pd
    import pyarrow as pa

    rows = [{"id": "a", "prompt": [BRIEF, USER], "answer": ["yo", "hey"]}, {"id": "b", "prompt": [USER], "answer": []}]
    file = tmp_path / f"p.{library}"
    if library == "parquet":
        pd.DataFrame(rows).to_parquet(file)
    elif library == "jsonl":
        file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    made = {"pandas": pd.DataFrame, "pyarrow": pa.Table.from_pylist, "datasets": datasets.Dataset.from_list}
    read = Prompts.of(made[library](rows)) if library in made else Prompts.read(file)
    assert read.items == Prompts.of(rows).items
    talk, plain = read.items
    assert (said(talk), talk.golds) == (([BRIEF, USER], "yo"), ("yo", "hey"))
    assert (plain.prompt, plain.chat, plain.golds, plain.abstain) == ("hi", Chat(), (), True)


def test_what_an_answers_turn_says_beside_its_text_and_tools_are_kept() -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    item = one(
        {"messages": [USER, {**REPLY, "reasoning_content": "hm", "tool_calls": None}], "tools": json.dumps([tool])}
    )
    assert item.chat == Chat(tools=(tool,), answer={"reasoning_content": "hm"})
    history = {"instruction": "and now?", "output": "yo", "history": [["q", "a"]]}
    assert [m["content"] for m in one(history).messages] == ["q", "a", "and now?"]
    call = {"from": "function_call", "value": '{"name": "add", "arguments": {}}'}
    turns = [
        {"from": "human", "value": "q"},
        call,
        {"from": "observation", "value": "4"},
        {"from": "gpt", "value": "yo"},
    ]
    assert [m["role"] for m in one({"conversations": turns}).messages] == ["user", "assistant", "tool"]


def test_preferences_are_two_kinds_of_answer() -> None:
    plain = Prompts.of([{"prompt": "q", "chosen": "a", "rejected": "b"}])
    whole = Prompts.of([{"chosen": [USER, REPLY], "rejected": [USER, {**REPLY, "content": "no"}]}])
    assert [(i.answer_kind, i.answer) for i in plain.items] == [("chosen", "a"), ("rejected", "b")]
    assert [(i.answer_kind, i.answer, i.prompt) for i in whole.items] == [
        ("chosen", "yo", "hi"),
        ("rejected", "no", "hi"),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": [{"role": "user", "content": [{"type": "image", "url": "x"}]}], "answer": "a"}, "type 'image'"),
        ({"messages": [USER]}, "no 'answer'"),
        ({"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{}]}]}, "no text"),
        ({"messages": "hello"}, "no conversation"),
        ({"messages": [USER, {"role": "user", "content": None}], "answer": "a"}, "without content"),
        ({"prompt": {"a": 1}, "answer": "a"}, "'prompt' is"),
        ({"prompt": b"raw", "answer": "a"}, "'prompt' is"),
        ({"prompt": "q", "answer": [["a"]]}, "'answer' is"),
        ({"prompt": "q", "answer": {"b": 1}}, "answer is"),
        ({"prompt": "q", "answer": "a", "seen": "perhaps"}, "expected true or false"),
        ({"prompt": "q", "answer": "a", "variant": "v"}, "variant without an id"),
        ({"prompt": "q", "answer": "a", "group": "a\0b"}, "NUL"),
        ({"id": "x\ud83d", "prompt": "q", "answer": "a"}, "lone surrogate"),
        ({"prompt": "q \ud83d", "answer": "a"}, "row 1: prompt.*lone surrogate"),
        ({"messages": [USER, REPLY], "tools": "add"}, "tools is 'add'"),
        ({"messages": [USER, REPLY], "tools": [1]}, "a tool is '1'"),
        ({"instruction": "q", "output": "a", "history": [["q"]]}, "expected pairs"),
        ({"instruction": "q", "output": "a", "history": "none"}, "history is 'none'"),
        ({"prompt": "q", "choices": ["a", "b"]}, "without the right one"),
        ({"prompt": "q", "choices": ["a"], "answer": 0}, "two or more"),
        ({"prompt": "q", "choices": ["a", "b"], "answer": "Z"}, "names none"),
        ({"prompt": "q", "choices": ["2", "1", "0"], "answer": 2}, "another one's index"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_row(row: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        one(row)


@pytest.mark.parametrize(
    ("row", "golds"),
    [
        ({"answer": ["3", "4", "3"]}, ("3", "4")),
        ({"answer": 4.0}, ("4",)),
        ({"answer": 0.5}, ("0.5",)),
        ({"answer": True}, ("True",)),
        ({"answers": ["a", "b"]}, ("a", "b")),
        ({"answers": {"text": ["a", "b"], "answer_start": [1, 2]}}, ("a", "b")),
        ({"answer": {"value": "a", "aliases": ["b"]}}, ("a", "b")),
        ({"answer": ""}, ()),
        ({"answer": []}, ()),
        ({"answers": {"text": [], "answer_start": []}}, ()),
        ({"answer": None, "answerable": False}, ()),
        ({"answer": "n/a", "abstain": "true"}, ()),
        ({"answers": {"full": "a", "last": None}}, ("a",)),
        ({"golden": "x", "answer": "y"}, ("y",)),
    ],
)
def test_any_count_of_golds(row: dict[str, Any], golds: tuple[str, ...]) -> None:
    item = one({"prompt": "q", **row})
    assert (item.golds, item.abstain) == (golds, not golds)


@pytest.mark.parametrize(
    ("row", "correct", "answer"),
    [
        ({"answer": 1}, 1, "4"),
        ({"answer": "B"}, 1, "4"),
        ({"answer": "(b)"}, 1, "4"),
        ({"answer": "5"}, 2, "5"),
        ({"answer": "5", "correct": 2}, 2, "5"),
        ({"answer": "five", "correct": "C"}, 2, "five"),
        ({"correct": "2"}, 2, "5"),
        ({"choices": {"text": ["3", "4", "5"], "label": ["1", "2", "3"]}, "answer": "3"}, 2, "5"),
        ({"choices": '["3", "4", "5"]', "answer": "B"}, 1, "4"),
    ],
)
def test_the_right_choice_by_index_letter_label_or_text(row: dict[str, Any], correct: int, answer: str) -> None:
    item = one({"prompt": "q", "choices": ["3", "4", "5"], **row})
    assert (item.choices, item.correct, item.answer) == (("3", "4", "5"), correct, answer)


def test_published_multiple_choice_as_the_harness_asks_it() -> None:
    mmlu = one({"question": "2+2?", "choices": ["3", "4"], "answer": 1, "subject": "m"}, columns="mmlu")
    assert (mmlu.prompt, mmlu.answer, mmlu.group) == ("2+2?\nA. 3\nB. 4\nAnswer:", "B", "m")
    pro = {"question_id": 7, "question": "q", "options": ["x", "y"], "answer": "B", "answer_index": 1, "category": "c"}
    assert (one(pro, columns="mmlu_pro").id, one(pro, columns="mmlu_pro").correct) == ("7", 1)
    arc = {"id": "m1", "question": "q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"}
    assert (one(arc, columns="arc").prompt, one(arc, columns="arc").answer) == ("Question: q\nAnswer:", "y")
    swag = {"ind": 3, "activity_label": "Run", "ctx_a": "A man [title] runs.", "ctx_b": "he", "label": "1",
            "endings": ["stops [step] now.", "goes on."]}  # fmt: skip
    item = one(swag, columns="hellaswag")
    assert (item.prompt, item.choices, item.answer) == ("Run: A man. runs. He", ("stops now.", "goes on."), "goes on.")
    gpqa = {"Question": "q?", "Correct Answer": "r", **{f"Incorrect Answer {n}": f"w{n}" for n in (1, 2, 3)}}
    item = one(gpqa, columns="gpqa")
    assert item.choices[item.correct or 0] == "r"
    assert (sorted(item.choices), item.answer) == (["r", "w1", "w2", "w3"], "ABCD"[item.correct or 0])
    assert f"({item.answer}) r" in item.prompt


def test_published_questions_and_code_by_name() -> None:
    code = {"task_id": "HumanEval/0", "prompt": "def f():", "canonical_solution": " return 1", "test": "t"}
    assert one(code, columns="humaneval").answer == " return 1"
    mbpp = {"task_id": 2, "text": "Write f.", "code": "def f(): ...", "test_list": ["assert f()"]}
    assert "assert f()" in one(mbpp, columns="mbpp").prompt
    assert one({"problem": "p", "solution": r"so $\boxed 4$.", "type": "Algebra"}, columns="math").answer == "4"
    assert (
        one({"problem": "p", "answer": "7", "unique_id": "a/1.json", "solution": "s"}, columns="math").id == "a/1.json"
    )
    assert one({"ID": "2024-I-1", "Problem": "p", "Answer": 204}, columns="aime").answer == "204"
    squad = {"id": "s", "title": "t", "context": "c", "question": "q", "answers": {"text": ["a", "b"]}}
    assert one(squad, columns="squad").golds == ("a", "b")


def test_wordings_of_a_problem_share_its_id() -> None:
    rows = [{"id": "m1", "prompt": p, "answer": "2", "variant": v} for p, v in (("1+1?", ""), ("Ann has 1", "story"))]
    plain, story = Prompts.of(rows).items
    assert (plain.id, story.id, story.problem, plain.unit, story.unit) == ("m1", "m1/story", "m1", "m1", "m1")
    with pytest.raises(InputError, match="already taken"):
        Prompts.of([{**r, "variant": ""} for r in rows])


def test_roles_and_covariates() -> None:
    item = one({"id": 1.0, "prompt": "q", "answer": "a", "seen": 1, "cluster": 3, "group": None, "level": "hard"})
    assert (item.id, item.seen, item.cluster, item.unit, item.group) == ("1", True, "3", "3", "all")
    assert item.meta == {"level": "hard"}
    assert [i.seen for i in Prompts.of([{"prompt": "q", "answer": "a", "group": g} for g in "ab"]).seen("b").items] == [
        False, True,
    ]  # fmt: skip
    rows = [{"id": "a", "prompt": "q", "answer": "1", "seen": s, "variant": v} for s, v in ((True, ""), (None, "w"))]
    roles = Prompts.of(rows).roles()
    assert roles.to_dict("list") == {
        "item": ["a", "a/w"], "answer_kind": ["given"] * 2, "seen": [True, None], "variant": ["", "w"],
        "cluster": ["a", "a"],
    }  # fmt: skip
    assert list(Prompts.of([{"id": "a", "prompt": "q", "answer": "1"}]).roles()) == ["item", "answer_kind"]
    with pytest.raises(InputError, match="no group 'c'"):
        Prompts.of([{"prompt": "q", "answer": "a"}]).seen("c")


def test_rows_without_ids_are_named_by_their_content() -> None:
    row = {"prompt": "q", "answer": "a"}
    first, again, other = Prompts.of([row, row, {**row, "answer": "b"}]).items
    assert again.id == f"{first.id}-2"
    assert other.id not in (first.id, again.id)
    assert Prompts.of([{**row, "id": None}, {**row, "id": ""}]).items[0].id != "None"


def test_untidy_jsonl_is_read(tmp_path: Path) -> None:
    rows = [{"id": "a", "prompt": "x\u2028y\x85z\u2029", "answer": "4"}, {"id": "b", "prompt": "q\0", "answer": "5"}]
    file = tmp_path / "p.jsonl"
    lines = [json.dumps(r, ensure_ascii=False) for r in rows]
    file.write_bytes(("\ufeff" + "\r\n\r\n".join(lines) + "\r\n\r\n").encode())
    assert [(i.id, i.prompt) for i in Prompts.read(file).items] == [("a", "x\u2028y\x85z\u2029"), ("b", "q\0")]


def test_csv_is_read_as_text(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_bytes(b'\xef\xbb\xbfid,prompt,answer\r\n007,"a, ""b""\r\nc",1e3\r\n\r\nNA,None,0.10\r\n')
    read = [(i.id, i.prompt, i.answer) for i in Prompts.read(file).items]
    assert read == [("007", 'a, "b"\r\nc', "1e3"), ("NA", "None", "0.10")]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("p.csv", b"id,prompt,answer\na,q,4,easy\n", r"line 2: 4 fields.*names 3"),
        ("p.csv", b"id,prompt,answer\na,q\n", r"line 2: 2 fields.*names 3"),
        ("p.tsv", b"id\tprompt\tanswer\na\tq\t4\t5\n", r"line 2: 4 fields"),
        ("p.csv", b"id,id,answer\na,q,4\n", "two columns are named 'id'"),
        ("p.csv", b'id,prompt,answer\na,"q,4\n', "quote left open"),
        ("p.csv", b"id;prompt;answer\na;q;4\n", "no 'prompt'"),
        ("p.csv", b"\xff\xfei\0d\0", "not UTF-8"),
        (
            "p.jsonl",
            b'{"id": "a", "prompt": "cut \\ud83d", "answer": "4"}\n',
            "p.jsonl, line 1: holds half",
        ),
        ("p.jsonl", b'\n\n{"id": "a", "prompt": "q", "answer": {"k": 1}}\n', r"p.jsonl, line 3: answer is"),
        ("p.jsonl", b'{"id": "a", "prompt": "q\0", "answer": "4"}\n', "line 1: malformed JSON"),
        ("p.jsonl", b"\xff\xfe", "not UTF-8"),
        ("p.jsonl", b"[" * 100_000, "line 1: .*nested"),
    ],
)
def test_what_is_broken_is_refused_with_file_and_line(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        Prompts.read(tmp_path / name)


def test_lists_in_csv_cells_are_json(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text('question,choices,answer,subject\n2+2?,"[""3"", ""4""]",1,m\n')
    item = Prompts.read(tmp_path / "p.csv", columns="mmlu").items[0]
    assert (item.prompt, item.choices, item.answer) == ("2+2?\nA. 3\nB. 4\nAnswer:", ("3", "4"), "B")
    bare = {"ind": 1, "activity_label": "Run", "ctx_a": "a", "ctx_b": "b", "label": "0", "endings": "stops"}
    with pytest.raises(InputError, match="choices are 'stops'"):
        one(bare, columns="hellaswag")


def test_data_sets_saved_to_disk(tmp_path: Path) -> None:
    import datasets

    rows = [{"id": "a", "messages": [USER, REPLY]}]
    datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "two")
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "one")
    for folder in ("one", "two"):
        assert Prompts.read(f"hf:{tmp_path / folder}:test").items == Prompts.of(rows).items
    with pytest.raises(InputError, match="no split 'train'"):
        Prompts.read(f"hf:{tmp_path / 'two'}:train")


def test_mixed_types_in_an_extra_column_are_kept_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(
        "".join(json.dumps({"prompt": str(n), "answer": "a", "k": k}) + "\n" for n, k in enumerate(["4", 4]))
    )
    assert [i.meta["k"] for i in Prompts.read(file).items] == ["4", 4]
    assert Prompts.read(file).fingerprint()


def test_paths_and_lists_of_columns_as_sources() -> None:
    row = {"meta": {"q": [{"text": "why"}]}, "A": "x", "B": "y", "gold": "B"}
    item = one(row, columns={"prompt": "meta.q[0].text", "choices": ["A", "B"], "correct": "gold", "answer": "@letter"})
    assert (item.prompt, item.choices, item.answer) == ("why", ("x", "y"), "B")
    with pytest.raises(InputError, match="name no fields"):
        one(row, columns={"question": "meta"})
