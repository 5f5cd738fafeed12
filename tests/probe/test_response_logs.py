"""Logs of other programs in the shapes they write, and files that are none of them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from analyses import run
from probe.errors import InputError
from probe.readers.response_logs import read_responses


def written(path: Path, rows: list) -> Path:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return path


def harness_row(doc: int, filter_name: str = "strict-match") -> dict:
    return {
        "doc_id": doc, "doc": {"question": "2+2?"}, "target": "4", "filter": filter_name, "resps": [["so 4", "so 5"]],
        "filtered_resps": ["4"], "arguments": {"gen_args_0": {"arg_0": "Q: 2+2?", "arg_1": {"until": []}}},
        "exact_match": 1.0,
    }  # fmt: skip


def test_lm_evaluation_harness(tmp_path: Path):
    rows = [harness_row(d, f) for d in (0, 1) for f in ("strict-match", "flexible-extract")]
    frame = read_responses(written(tmp_path / "samples_gsm8k.jsonl", rows))
    assert frame[["item", "sample", "text", "gold"]].to_dict("list") == {
        "item": ["0", "0", "1", "1"], "sample": [0, 1, 0, 1], "text": ["so 4", "so 5"] * 2, "gold": ["4"] * 4,
    }  # fmt: skip
    assert set(frame["prompt"]) == {"Q: 2+2?"}


def test_a_log_likelihood_task_has_no_responses(tmp_path: Path):
    row = harness_row(0) | {"resps": [[[-1.5, False]]]}
    with pytest.raises(InputError, match="log-likelihoods"):
        read_responses(written(tmp_path / "samples.jsonl", [row]))


def inspect_sample(epoch: int, **more) -> dict:
    choice = {"message": {"content": "it is 4"}, "stop_reason": "max_tokens" if epoch == 2 else "stop"}
    output = {"choices": [choice], "completion": "it is 4", "usage": {"output_tokens": 9}}
    return {"id": "q1", "epoch": epoch, "input": "2+2?", "target": ["4"], "output": output, **more}


def test_inspect_logs_as_json_and_as_archive(tmp_path: Path):
    samples = [inspect_sample(1), inspect_sample(2), inspect_sample(3, error={"message": "timeout"})]
    plain = tmp_path / "log.json"
    plain.write_text(json.dumps({"version": 2, "samples": samples}))
    archive = tmp_path / "log.eval"
    with zipfile.ZipFile(archive, "w") as handle:
        for sample in samples:
            handle.writestr(f"samples/q1_epoch_{sample['epoch']}.json", json.dumps(sample))
    for path in (plain, archive):
        frame = read_responses(path)
        assert frame["sample"].tolist() == [0, 1]  # the errored one is missing, not wrong
        assert frame["truncated"].tolist() == [False, True]
        assert frame["n_tokens"].tolist() == [9, 9]


def test_an_archive_packed_with_zstd_is_read_and_a_damaged_one_refused(tmp_path: Path):
    import struct

    zstandard = pytest.importorskip("zstandard")
    text = json.dumps(inspect_sample(1)).encode()
    packed = zstandard.ZstdCompressor().compress(text)
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w") as handle:
        handle.writestr("samples/q1_epoch_1.json", packed)
    data = bytearray(path.read_bytes())
    for mark, method, crc in ((b"PK\3\4", 8, 14), (b"PK\1\2", 10, 16)):
        at = data.find(mark)
        data[at + method : at + method + 2] = struct.pack("<H", 93)
        data[at + crc : at + crc + 4] = struct.pack("<I", __import__("zlib").crc32(text))
        data[at + crc + 8 : at + crc + 12] = struct.pack("<I", len(text))
    path.write_bytes(data)
    assert read_responses(path)["text"].tolist() == ["it is 4"]
    broken = bytes(data).replace(packed, b"\0" * len(packed))
    path.write_bytes(broken)
    with pytest.raises(InputError, match="damaged"):
        read_responses(path)


def test_inspect_targets_choices_and_errors(tmp_path: Path):
    sample = inspect_sample(1) | {
        "target": ["3", "4"],
        "metadata": {"level": 2},
        "input": [{"role": "user", "content": "q"}],
    }
    choice = inspect_sample(1) | {"id": "q2", "target": "B", "choices": ["3", "4"]}
    path = tmp_path / "log.json"
    path.write_text(json.dumps({"samples": [sample, choice]}))
    frame = read_responses(path)
    assert frame["gold"].tolist() == [("3", "4"), "B"]
    assert frame["choices"].tolist()[1] == ("3", "4")
    assert frame["level"].tolist()[0] == 2
    path.write_text(json.dumps({"samples": [inspect_sample(1, error={"message": "x"})] * 4}))
    with pytest.raises(InputError, match="all 4 samples ended in an error"):
        read_responses(path)


def choice_row(doc: int, scores: list[float], options: list[str], target: object) -> dict:
    arguments = {f"gen_args_{i}": {"arg_0": "Q?", "arg_1": f" {o}"} for i, o in enumerate(options)}
    return {"doc_id": doc, "doc": {"subject": "law"}, "target": target, "arguments": arguments,
            "resps": [[[str(s), "False"]] for s in scores], "filter": "none"}  # fmt: skip


def test_choices_whose_texts_a_log_does_not_hold_go_by_their_letters(tmp_path: Path):
    row = {
        "doc": {},
        "target": 1,
        "arguments": [],
        "resps": [[["-1.0", "False"]], [["-.5", "True"]]],
        "filtered_resps": [],
    }
    file = tmp_path / "samples.jsonl"
    file.write_text("\n".join(json.dumps({**row, "doc_id": n}) for n in range(4)))
    table = run("evaluate", log=file).table
    assert table["decoding"].unique().tolist() == ["loglikelihood"]  # per character would need the texts
    assert (table["status"].eq("correct") & table["answer"].eq("B")).all()


def test_choices_by_log_likelihood_raw_and_per_character(tmp_path: Path):
    """-3 for a long option beats -2.5 for a short one only per character."""
    rows = [choice_row(0, [-2.5, -3.0], ["no", "certainly"], 1), choice_row(1, [-1.0, -9.0], ["yes", "no"], "yes")]
    frame = read_responses(written(tmp_path / "samples_mmlu.jsonl", rows))
    by = frame.set_index(["item", "decoding"])["text"].to_dict()
    assert by == {("0", "loglikelihood"): "A", ("0", "loglikelihood_norm"): "B", ("1", "loglikelihood"): "A",
                  ("1", "loglikelihood_norm"): "A"}  # fmt: skip
    assert set(frame["group"]) == {"law"}
    assert frame["right_choice"].tolist() == [1, 1, 0, 0]


def test_several_tasks_in_a_folder_are_groups(tmp_path: Path):
    for task in ("gsm8k", "math"):
        written(tmp_path / f"samples_{task}_2026-01-02T03-04-05.678.jsonl", [harness_row(0)])
    (tmp_path / "results_2026-01-02T03-04-05.678.json").write_text("{}")
    frame = read_responses(tmp_path)
    assert sorted(set(frame["group"])) == ["gsm8k", "math"]
    assert sorted(set(frame["item"])) == ["gsm8k/0", "math/0"]


def verl_row(question: str, text: str, step: int) -> dict:
    return {
        "input": f"user\n{question}\nassistant\n",
        "output": text,
        "gts": "4",
        "score": 1.0,
        "step": step,
        "acc": True,
    }


def test_a_folder_of_verls_validation_dumps_is_a_series(tmp_path: Path):
    for step in (0, 20):
        rows = [verl_row(q, t, step) for q, t in (("2+2?", "4"), ("2+2?", "5"), ("1+3?", "4"))]
        written(tmp_path / f"{step}.jsonl", rows)
    frame = read_responses(tmp_path)
    assert frame["step"].tolist() == [0, 0, 0, 20, 20, 20]
    assert frame["sample"].tolist() == [0, 1, 0] * 2
    assert frame["item"].nunique() == 2
    assert set(frame["gold"]) == {"4"}
    assert frame["score"].tolist() == [1.0] * 6


def test_trl_completions_as_text_and_as_messages(tmp_path: Path):
    import pandas as pd

    chat = {"prompt": [[{"role": "user", "content": "2+2?"}]] * 2,
            "completion": [[{"role": "assistant", "content": t}] for t in ("4", "5")], "step": [1, 1], "accuracy": [1.0, 0.0]}  # fmt: skip  # noqa: E501
    pd.DataFrame(chat).to_parquet(tmp_path / "completions_00001.parquet")
    pd.DataFrame({"prompt": ["2+2?"], "completion": ["6"], "step": [2], "accuracy": [0.0]}).to_parquet(
        tmp_path / "completions_00002.parquet"
    )
    frame = read_responses(tmp_path)
    assert frame[["step", "sample", "text"]].values.tolist() == [[1, 0, "4"], [1, 1, "5"], [2, 0, "6"]]
    assert frame["item"].nunique() == 1
    assert set(frame["prompt"]) == {"2+2?"}


def test_steps_are_read_from_folders_and_refused_where_only_some_have_one(tmp_path: Path):
    for step in (100, 200):
        (tmp_path / f"checkpoint-{step}").mkdir()
        written(tmp_path / f"checkpoint-{step}" / "samples.jsonl", [{"id": 1, "response": "4", "gold": "4"}])
    assert read_responses(tmp_path)["step"].tolist() == [100, 200]
    written(tmp_path / "other.jsonl", [{"id": 1, "response": "4", "gold": "4"}])
    with pytest.raises(InputError, match="2 of 3 responses have a step"):
        read_responses(tmp_path)


def test_cells_of_csv_stay_texts(tmp_path: Path):
    path = tmp_path / "log.csv"
    path.write_bytes(b"\xef\xbb\xbfitem,sample,text,gold,truncated\r\n007,0,1e3,1000,false\r\n8,0,NA,0.10,true\r\n")
    frame = read_responses(path)
    assert frame[["item", "text", "gold"]].values.tolist() == [["007", "1e3", "1000"], ["8", "NA", "0.10"]]
    assert frame["truncated"].tolist() == [False, True]
    path.write_text("item,text,gold\n1,a,b,c\n")
    with pytest.raises(InputError, match="line 2: 4 fields"):
        read_responses(path)


def test_odd_fields_and_lines(tmp_path: Path):
    rows = [
        '{"id": 1, "sample": null, "epoch": null, "group": null, "truncated": "false", "response": "a\u2028b", "gold": 4.0}',  # noqa: E501
        "",
        '{"id": 2, "response": "x\\u0000y", "gold": null, "answer": ["3", 4], "extra": {"a": 1}, "pred": "4"}',
        '{"task_id": "t/1", "completion": "def f(): ...", "passed": true, "pred": 4}',
        '{"messages_id": 3, "prompt": [{"role": "user", "content": "q"}], "response": [{"role": "assistant", "content": "z"}]}',  # noqa: E501
    ]
    frame = read_responses(written(tmp_path / "log.jsonl", rows))
    assert frame["text"].tolist() == ["a\u2028b", "x\0y", "def f(): ...", "z"]
    assert frame["gold"].tolist()[:2] == ["4", ("3", "4")]
    assert frame["group"].tolist() == ["all"] * 4
    assert frame["verdict"].tolist()[2] is True


def test_what_says_nothing_is_passed_over(tmp_path: Path):
    rows = [
        '{"id": "", "gold": NaN, "answer": "4", "prompt": "2+2?", "response": "4"}',
        '{"id": 2, "gold": null, "response": ""}',
    ]
    frame = read_responses(written(tmp_path / "log.jsonl", rows))
    assert frame["item"].tolist()[1] == "2"
    assert len(frame["item"].tolist()[0]) == 12
    assert frame["gold"].tolist()[0] == "4"
    with pytest.raises(InputError, match="no id and no prompt"):
        read_responses(written(tmp_path / "log.jsonl", ['{"id": "", "response": "4"}']))


def test_samples_that_the_log_does_not_number(tmp_path: Path):
    rows = [{"task_id": "t", "completion": c} for c in ("a", "b", "a")]
    assert read_responses(written(tmp_path / "samples.jsonl", rows))["sample"].tolist() == [0, 1, 2]


def test_plain_lines(tmp_path: Path):
    rows = [
        {"id": 7, "question": "2+2?", "answer": "4", "responses": ["4", "5"]},
        {"id": 8, "answer": 1, "response": "1"},
    ]
    frame = read_responses(written(tmp_path / "log.jsonl", rows))
    assert frame[["item", "sample", "text", "gold"]].values.tolist() == [
        ["7", 0, "4", "4"], ["7", 1, "5", "4"], ["8", 0, "1", "1"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (['{"id": 1, "response": "x"}', "{"], "line 2"),
        ([{"id": 1, "x": 2}], "hold no response"),
        ([{"response": "x"}], "no id"),
        ([{"id": 1, "response": "x"}] * 2, "twice"),
        ([{"id": 1, "response": "x", "sample": 0}] * 2, "twice"),
        (['{"id": 1, "response": "cut \\ud83d"}'], "line 1.*surrogate"),
        ([{"id": 1, "response": None}], "record 1.*not text|line 1.*not text"),
        ([{"id": 1, "response": "x", "sample": "first"}], "line 1: sample is 'first'"),
        ([{"id": 1, "response": "x", "step": 1}, {"id": 2, "response": "x"}], "1 of 2 responses have a step"),
        ([{"id": 1, "responses": [3]}], "not text"),
        (["[]"], "one JSON object"),
    ],
)
def test_other_files_are_refused_with_a_reason(tmp_path: Path, rows: list, message: str):
    with pytest.raises(InputError, match=message):
        read_responses(written(tmp_path / "log.jsonl", rows))


def test_missing_and_broken_files(tmp_path: Path):
    with pytest.raises(InputError, match="no log at"):
        read_responses(tmp_path / "none.jsonl")
    (tmp_path / "x.eval").write_text("not a zip")
    with pytest.raises(InputError, match="not an inspect log"):
        read_responses(tmp_path / "x.eval")


def test_the_response_of_a_conversation_is_what_follows_the_last_question(tmp_path: Path) -> None:
    asked, said = {"role": "user", "content": "17 + 25?"}, {"role": "assistant", "content": "42"}
    foreign = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "42"}]
    ways = ({"messages": [asked, said]}, {"prompt": "q", "messages": [said]}, {"conversations": foreign})
    rows = [{"id": str(n), "gold": "42", **way} for n, way in enumerate(ways)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert read_responses(tmp_path / "log.jsonl")["text"].tolist() == ["42"] * 3


def test_a_text_in_the_place_of_a_list_of_responses_is_refused(tmp_path: Path) -> None:
    row = {"doc_id": 0, "doc": {"question": "2+2?"}, "target": "4", "resps": '[["is 4"]]', "filter": "none"}
    (tmp_path / "samples.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match="expected a list of the model's responses"):
        read_responses(tmp_path / "samples.jsonl")
