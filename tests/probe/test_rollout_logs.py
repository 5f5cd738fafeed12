"""Rollouts as trainers write them: groups, contexts, turns, copies, steps, segments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from probe import InputError, Rollouts
from probe.readers.segments import from_masks, from_tags
from tests import logs, tiny

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% for c in m.get('tool_calls', []) %}<call>{{ c['function']['name'] }}</call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def chat() -> Any:
    made = tiny.tokenizer("llama")
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.eos_token = "<|im_end|>"
    made.chat_template = CHATML
    return made


def written(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows), encoding="utf-8")
    return file


def sizes(log: Rollouts) -> list[int]:
    return sorted(log.index.groupby(["step", "group_uid"]).size().tolist())


# verl


def verl(step: int = 1, key: str | None = "u{p}_{n}_0", prompts: int = 2) -> list[dict[str, Any]]:
    rows = [
        {"input": f"what is {p} plus 7 ?", "output": f"ans {p}{n}", "gts": "1", "score": float(n % 2), "step": step}
        for p in range(prompts)
        for n in range(4)
    ]
    return [{**r, "uid": key.format(p=i // 4, n=i % 4)} if key else r for i, r in enumerate(rows)]


@pytest.mark.parametrize("key", ["u{p}_{n}_0", None, "{p}-{n}-x", "u{p}"])
def test_responses_of_one_prompt_are_one_group_whatever_their_keys(tmp_path: Path, key: str | None) -> None:
    log = Rollouts.read(written(tmp_path / "1.jsonl", verl(key=key)))
    assert sizes(log) == [4, 4]
    assert sorted(log.index["sample"]) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_prompt_drawn_twice_keeps_its_two_groups(tmp_path: Path) -> None:
    rows = [{**r, "input": "what is 3 plus 7 ?", "output": r["output"] + str(i)} for i, r in enumerate(verl())]
    assert sizes(Rollouts.read(written(tmp_path / "1.jsonl", rows))) == [4, 4]


@pytest.mark.parametrize(
    "turns",
    [
        [{"role": "user", "content": "what is 3 plus 7 ?"}],
        [{"role": "system", "content": "add numbers"}, {"role": "user", "content": "3\n7 ? "}],
    ],
)
def test_the_context_behind_a_stripped_prompt_is_rebuilt(tmp_path: Path, chat: Any, turns: Any) -> None:
    text = chat.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    saw = chat(text, add_special_tokens=False)["input_ids"]
    stripped = chat.decode(saw, skip_special_tokens=True)
    rows = [{**r, "input": stripped} for r in verl(prompts=1)]
    log = Rollouts.read(written(tmp_path / "1.jsonl", rows)).tokenized(chat)
    assert log.data.to_table()["prompt_token_ids"].to_pylist() == [saw] * 4
    assert "rebuilt from the chat template" in log.notes[0]
    anyones = [{"prompt_text": stripped, "response_text": "ans", "step": 1}]  # whoever stripped it
    assert Rollouts.of(anyones).tokenized(chat).data.to_table()["prompt_token_ids"].to_pylist() == [saw]
    anyones[0]["prompt_text"] = "what is 3 plus 7 ?"
    assert chat.decode(Rollouts.of(anyones).tokenized(chat).data.to_table()["prompt_token_ids"][0].as_py()) == (
        "what is 3 plus 7 ?"
    )
    wrong = [{**r, "prompt_length": len(saw) + 1} for r in rows]
    with pytest.raises(InputError, match=rf"counts {len(saw) + 1} prompt tokens where its text gives {len(saw)}"):
        Rollouts.read(written(tmp_path / "2.jsonl", wrong)).tokenized(chat)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("user\na\nassistant\nb\nuser\nc\nassistant\n", "cannot be rebuilt"),  # earlier turns: two readings
        ("a question alone", "cannot be rebuilt"),
    ],
)
def test_a_context_that_cannot_be_rebuilt_is_refused(tmp_path: Path, chat: Any, text: str, why: str) -> None:
    rows = [{**r, "input": text} for r in verl(prompts=1)]
    with pytest.raises(InputError, match=why):
        Rollouts.read(written(tmp_path / "1.jsonl", rows)).tokenized(chat)


def test_a_stripped_response_of_several_turns_is_refused(tmp_path: Path, chat: Any) -> None:
    rows = [{**r, "input": "user\nq\nassistant\n", "output": "call\nuser\nTOOL\nassistant\nans"} for r in verl()]
    with pytest.raises(InputError, match="hold the header of a further turn"):
        Rollouts.read(written(tmp_path / "1.jsonl", rows)).tokenized(chat)


def test_trl_adds_the_tokenizers_own_special_tokens_to_plain_prompts(tmp_path: Path) -> None:
    from tokenizers import processors

    words = tiny.word_tokenizer(["<s>", "a", "b", "?", "ans", "1"])
    words.bos_token = "<s>"
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", words.bos_token_id)]
    )
    frame = pd.DataFrame({"step": [1], "prompt": ["a b ?"], "completion": ["ans 1"], "advantage": [0.5]})
    frame.to_parquet(tmp_path / "completions_00001.parquet")
    table = Rollouts.read(tmp_path).tokenized(words).data.to_table()
    assert table["prompt_token_ids"].to_pylist() == [words("a b ?")["input_ids"]]
    assert table["prompt_token_ids"].to_pylist()[0][0] == words.bos_token_id
    assert table["response_token_ids"].to_pylist() == [words("ans 1", add_special_tokens=False)["input_ids"]]


# Messages with roles


def trace(call: Any = "call") -> dict[str, Any]:
    first: dict[str, Any] = {"role": "assistant", "content": call}
    if call is None:
        first["tool_calls"] = [{"type": "function", "function": {"name": "calc", "arguments": "{}"}}]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "ans "}, {"type": "text", "text": "10"}]}
    return {
        "step": 1,
        "prompt": [{"role": "user", "content": "what is 3 plus 7 ?"}],
        "response": [first, {"role": "tool", "content": "TOOLOUT"}, answer],
        "reward": 1.0,
    }


@pytest.mark.parametrize("call", ["call", None])
def test_roles_make_the_mask_and_the_segments(tmp_path: Path, chat: Any, call: Any) -> None:
    log = Rollouts.read(written(tmp_path / "t.jsonl", [trace(call)]))
    assert "TOOLOUT" not in log.data.to_table()["response_text"].to_pylist()[0]
    row = log.tokenized(chat).data.to_table().to_pylist()[0]
    spoken = "call" if call else "<call>calc</call>"
    whole = f"{spoken}<|im_end|>\n<|im_start|>tool\nTOOLOUT<|im_end|>\n<|im_start|>assistant\nans 10<|im_end|>"
    assert chat.decode(row["response_token_ids"]) == whole
    own = [i for i, m in zip(row["response_token_ids"], row["response_mask"], strict=True) if m]
    assert chat.decode(own) == f"{spoken}<|im_end|>ans 10<|im_end|>"
    assert row["segment_type"] == ["turn" if call else "call", "tool", "answer"]
    cut = np.split(row["response_token_ids"], row["segment_starts"][1:])
    assert chat.decode(cut[0]) == f"{spoken}<|im_end|>"
    assert (
        chat.decode(row["prompt_token_ids"])
        == "<|im_start|>user\nwhat is 3 plus 7 ?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_what_stands_between_turns_must_be_known(tmp_path: Path, chat: Any) -> None:
    plain = {**trace(), "prompt": "what is 3 plus 7 ?"}
    with pytest.raises(InputError, match="its prompt is not a list of messages"):
        Rollouts.read(written(tmp_path / "a.jsonl", [plain])).tokenized(chat)
    with pytest.raises(InputError, match="no chat template"):
        Rollouts.read(written(tmp_path / "b.jsonl", [trace()])).tokenized(tiny.tokenizer("llama"))
    forgets = tiny.tokenizer("llama")
    forgets.chat_template = "{{ messages[-1]['content'] }}"
    with pytest.raises(InputError, match="rewrites earlier turns"):
        Rollouts.read(written(tmp_path / "c.jsonl", [trace()])).tokenized(forgets)


def test_parts_that_are_not_text_are_refused(tmp_path: Path) -> None:
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]
    with pytest.raises(InputError, match=r"line 1: a chat message holds a part of type 'image_url'"):
        Rollouts.read(written(tmp_path / "a.jsonl", [{**trace(), "prompt": picture}]))
    bare = [{"content": "a"}, {"role": "tool", "content": "b"}]
    with pytest.raises(InputError, match="without a role among 2"):
        Rollouts.read(written(tmp_path / "b.jsonl", [{**trace(), "response": bare}]))


# Copies


def recorded(folder: Path, parts: dict[str, list[dict[str, Any]]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / name)
    return folder


def test_a_shard_copied_twice_counts_once(tmp_path: Path) -> None:
    rows = logs.rows()
    once = Rollouts.read(recorded(tmp_path / "a", {"step-1.parquet": rows}))
    twice = Rollouts.read(recorded(tmp_path / "b", {"step-1.parquet": rows, "step-1 (1).parquet": rows[::-1]}))
    assert len(twice) == len(once) == 24
    assert twice.fingerprint() == once.fingerprint()
    assert "stand in two files" in twice.notes[0]
    assert once.notes == ()
    frames = [pd.concat(log.tokens(["H"])).drop(columns="response") for log in (once, twice)]
    pd.testing.assert_frame_equal(*frames)


def test_a_step_logged_again_counts_once(tmp_path: Path) -> None:
    rows = logs.rows()
    again = Rollouts.of([*rows, *(r for r in rows if r["step"] == 4)])
    assert len(again) == 24
    assert again.notes == ("every response of step 4 is logged 2 times: counted once",)
    text = written(tmp_path / "1.jsonl", [*verl(), *verl()])
    assert len(Rollouts.read(text)) == 8
    assert len(Rollouts.read(written(tmp_path / "x" / "1.jsonl", verl())).index) == 8


def test_equal_responses_of_a_certain_policy_are_not_copies() -> None:
    rows = [r for r in logs.rows(items=6, steps=(1,)) if r["group_uid"].endswith(("0", "1", "2"))]
    same = [rows[4 * (i // 4)] for i in range(len(rows))]  # each group says one thing four times
    assert len(Rollouts.of(same)) == len(rows)
    assert Rollouts.of(same).notes == ()


# Steps, lines and odd cells


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("12.jsonl", 12),
        ("completions_00012.jsonl", 12),
        ("step-000012.rank-1.jsonl", 12),
        ("rollout_12.jsonl", 12),
        ("global_step_12_evals/gsm8k.jsonl", 12),
        ("step_12/train_rollouts.jsonl", 12),
        ("generations_seed42.jsonl", None),
        ("run-v2.jsonl", None),
        ("2024-11-28.jsonl", None),
    ],
)
def test_only_writers_own_names_are_steps(tmp_path: Path, name: str, step: int | None) -> None:
    file = written(tmp_path / name, [{"prompt": "x", "output": "y", "score": 1.0}])
    if step is None:
        with pytest.raises(InputError, match="no column step"):
            Rollouts.read(file)
    else:
        assert Rollouts.read(file).steps == [step]


def test_lines_and_cells_as_writers_leave_them(tmp_path: Path) -> None:
    row = {"prompt": "x", "output": "a\u2028b\u0085c", "score": 1.0, "step": 1}
    file = written(tmp_path / "a.jsonl", [row, {**row, "pred": "4", "score": True}, {**row, "pred": 4, "big": 1 << 70}])
    file.write_text("\ufeff" + file.read_text(encoding="utf-8") + "\n\n", encoding="utf-8")
    table = Rollouts.read(file).data.to_table()
    assert table["response_text"].to_pylist() == ["a\u2028b\u0085c"] * 3
    assert table["pred"].to_pylist() == [None, '"4"', "4"]
    assert table["reward"].to_pylist() == [1.0, 1.0, 1.0]
    cut = tmp_path / "cut.jsonl"
    cut.write_text('{"prompt": "x \\ud83d", "output": "y", "score": 1.0, "step": 1}')
    with pytest.raises(InputError, match=r"line 1: holds half of a surrogate pair"):
        Rollouts.read(cut)
    with pytest.raises(InputError, match="column prompt holds int and str"):
        Rollouts.read(written(tmp_path / "b.jsonl", [row, {**row, "prompt": 3}]))


def test_other_trainers_forms(tmp_path: Path) -> None:
    skyrl = [{"input_prompt": "<q>", "output_response": "a", "score": [0.0, 1.0], "data_source": "x"}]
    log = Rollouts.read(written(tmp_path / "dumped" / "global_step_5_evals" / "x.jsonl", skyrl).parents[1])
    assert (log.steps, log.scalars(["reward"])["reward"].tolist()) == ([5], [1.0])
    prime = [{**trace(), "completion": trace()["response"], "example_id": 7}]
    rows = [{k: v for k, v in r.items() if k not in ("response", "step")} for r in prime]
    log = Rollouts.read(written(tmp_path / "rollouts" / "step_3" / "train_rollouts.jsonl", rows).parents[1])
    assert (log.steps, log.index["item"].tolist()) == ([3], ["7"])


def test_slimes_dump_of_samples(tmp_path: Path) -> None:
    import torch

    sample = {
        "group_index": 0, "index": 0, "prompt": "q", "tokens": [5, 6, 7, 8, 9], "response": "x", "response_length": 3,
        "reward": 1.0, "loss_mask": [1, 0, 1], "rollout_log_probs": [-0.5, -0.25, -1.0], "status": "truncated",
    }  # fmt: skip
    samples = [sample, {**sample, "index": 1, "reward": {"a": 1}, "rollout_log_probs": None, "tokens": [5, 6, 1, 2, 3]}]
    torch.save({"rollout_id": 4, "samples": samples}, tmp_path / "rollout_4.pt")
    log = Rollouts.read(tmp_path)
    rows = log.data.to_table().to_pylist()
    assert log.steps == [4]
    assert (rows[0]["prompt_token_ids"], rows[0]["response_token_ids"]) == ([5, 6], [7, 8, 9])
    assert rows[0]["response_mask"] == [True, False, True]
    assert rows[0]["sampling_logp"] == [-0.5, -0.25, -1.0]
    assert (rows[0]["finish_reason"], rows[1]["reward"]) == ("length", None)
    torch.save({"a": 1}, tmp_path / "rollout_5.pt")
    with pytest.raises(InputError, match=r"rollout_5.pt: not a slime rollout dump"):
        Rollouts.read(tmp_path)


def test_areals_dumps(tmp_path: Path) -> None:
    form = (
        "idx: {} / 2, seqlen: 9, reward is {}.\nprompt is \n\x1b[33m\x1b[2m{}\x1b[0m\n"
        "sequence is: \n\x1b[33m\x1b[2m{}\x1b[0m\n"
    )
    for version in (0, 12):
        (tmp_path / f"{version}").mkdir()
        for query in ("a", "b"):
            texts = [form.format(i + 1, r, f"<s>{query}?\n", f"ans {i}\n\nidx: {i}") for i, r in enumerate((1, 0.5))]
            (tmp_path / f"{version}" / f"{query}.txt").write_text("".join(texts))
    log = Rollouts.read(tmp_path)
    assert log.steps == [0, 12]
    assert log.index.groupby("group_uid").size().tolist() == [2] * 4
    rows = {(r["step"], r["prompt_text"], r["response_text"], r["reward"]) for r in log.data.to_table().to_pylist()}
    wanted = {
        (s, f"<s>{q}?\n", f"ans {i}\n\nidx: {i}", w) for s in (0, 12) for q in "ab" for i, w in enumerate((1, 0.5))
    }
    assert rows == wanted
    torn = tmp_path / "12" / "a.txt"
    torn.write_text(torn.read_text()[:-9])
    with pytest.raises(InputError, match=r"12/a.txt: not a dump of AReaL, or cut short after 1 samples"):
        Rollouts.read(tmp_path)


def test_infinite_log_probs_are_refused_by_row() -> None:
    rows = logs.rows()
    rows[2] = {**rows[2], "old_logp": np.full(len(rows[2]["response_token_ids"]), -np.inf, np.float32)}
    with pytest.raises(InputError, match=r"row 2 .*old_logp is infinite at \d token\(s\) of 1 row"):
        _ = Rollouts.of(rows).index


# Segments


def segmented(starts: Any, **more: Any) -> Rollouts:
    rows = logs.rows(steps=(1,))
    whole = [{**r, "segment_starts": [0]} for r in rows]
    for name, value in more.items():
        whole = [{**r, name: value} for r in whole]
    n = len(rows[0]["response_token_ids"])
    starts = [n if s == "end" else s for s in starts] if starts is not None else None
    return Rollouts.of([{**whole[0], "segment_starts": starts}, *whole[1:]])


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        ([0, "end"], "must lie inside the response"),
        ([0, 500], "must lie inside the response"),
        ([1], "must begin with 0"),
        ([0, -2], "must be sorted"),
        ([0, 1, 1], "must be sorted, each place once"),
        ([], "is empty"),
        (None, "is null"),
    ],
)
def test_segments_that_are_none_are_refused_by_row(starts: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"row 0 \(prompt_id q0\): (segment_starts )?{message}"):
        _ = segmented(starts).index


def test_what_is_said_of_segments_has_their_number_and_known_names() -> None:
    _ = segmented([0], segment_type=["answer"], segment_outcome=[1.0]).index
    with pytest.raises(InputError, match=r"segment_type must have one entry per segment"):
        _ = segmented([0, 1], segment_type=["answer"]).index
    with pytest.raises(InputError, match=r"segment_type \['speech'\] is not known; expected think, call"):
        _ = segmented([0], segment_type=["speech"]).index


def test_segment_numbers_of_every_token() -> None:
    from analyses.core.reading.rollout_tokens import segments

    rows = logs.rows(steps=(1,), seed=3)
    for number, row in enumerate(rows):
        n = len(row["response_token_ids"])
        row["segment_starts"] = [0, n - 1] if number % 2 else [0]
        row["response_mask"] = np.ones(n, bool)
    log = Rollouts.of(rows)
    found = segments(log)
    assert found is not None
    frame = pd.concat(log.tokens(), ignore_index=True).assign(segment=found)
    last = frame.groupby(["item", "sample"])["pos"].transform("max") == frame["pos"]
    assert set(frame.loc[~last, "segment"]) == {0}
    assert frame.loc[last, "segment"].sum() == sum(len(r["segment_starts"]) - 1 for r in rows)


def test_segments_from_masks_and_tags() -> None:
    assert from_masks([[True, True, False, True], [True], []]) == (
        [[0, 2, 3], [0], []],
        [["turn", "tool", "turn"], ["turn"], []],
    )
    words = ["<think>", "a", "</think>", "<search>", "q", "</search>", "<information>", "r", "</information>", "b"]
    starts, types = from_tags([range(10), [9, 3, 4]], dict(enumerate(words)))
    assert starts == [[0, 3, 6, 9], [0, 1]]
    assert types == [["think", "call", "tool", "turn"], ["turn", "call"]]
    own = from_tags([range(10)], dict(enumerate(words)), pattern=r"(?P<answer>q)|(?P<tool><info.*n>)")
    assert own == ([[0, 4, 5, 6, 9]], [["turn", "answer", "turn", "tool", "turn"]])
    with pytest.raises(InputError, match="expected groups named think, call"):
        from_tags([range(10)], dict(enumerate(words)), pattern="(?P<speech>q)")


def test_one_conversation_is_split_at_the_assistants_first_turn(tmp_path: Path) -> None:
    before = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    after = [
        {"role": "assistant", "content": "I look."},
        {"role": "tool", "content": "4"},
        {"role": "assistant", "content": "4"},
    ]
    human = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "4"}]
    rows = ({"prompt": before, "response": after}, {"messages": [*before, *after]}, {"conversations": human})
    read = []
    for n, row in enumerate(rows):
        (tmp_path / f"{n}.jsonl").write_text(json.dumps({"step": 1, "reward": 1.0, **row}) + "\n")
        read.append(Rollouts.read(tmp_path / f"{n}.jsonl").data.to_table().to_pylist()[0])
    assert {**read[0], "log_file": ""} == {**read[1], "log_file": ""}
    assert (read[2]["prompt_text"], read[2]["response_text"]) == ("q", "4")
    (tmp_path / "none.jsonl").write_text(json.dumps({"step": 1, "messages": after, "reward": 1.0}) + "\n")
    with pytest.raises(InputError, match="line 1: messages has no prompt before an answer"):
        Rollouts.read(tmp_path / "none.jsonl")


def test_a_column_that_only_later_rows_have_is_kept() -> None:
    rows = [
        {"step": 1, "prompt_id": "q", "response_token_ids": [1]},
        {"step": 1, "prompt_id": "q", "response_token_ids": [2], "reward": 1.0},
    ]
    assert Rollouts.of(rows).scalars(["reward"])["reward"].tolist().count(1.0) == 1
