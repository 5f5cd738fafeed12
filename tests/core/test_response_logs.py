"""Logs of other programs in the shapes they write, and files that are none of them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

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
