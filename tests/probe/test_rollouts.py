"""Rollout logs: canonical order, streaming, what is refused and by which name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from probe import InputError, Model, Rollouts
from probe.readers.schema import NEEDS
from tests import logs, tiny


def shards(folder: Path, rows: list[dict[str, Any]], sizes: list[int]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    start = 0
    for number, size in enumerate(sizes, start=1):
        part = pa.Table.from_pylist(rows[start : start + size])
        pq.write_table(part, folder / f"step-{number:06d}.parquet", row_group_size=5)
        start += size
    return folder


def test_order_of_rows_and_shards_change_nothing(tmp_path: Path) -> None:
    rows = logs.rows()
    one = Rollouts.read(shards(tmp_path / "one", rows, [24]))
    shuffled = [rows[i] for i in np.random.default_rng(1).permutation(24)]
    many = Rollouts.read(shards(tmp_path / "many", shuffled, [7, 7, 10]))
    assert one.fingerprint() == many.fingerprint() == Rollouts.of(shuffled).fingerprint()
    a = pd.concat(one.tokens(["H", "advantage", "old_logp"]), ignore_index=True)
    b = pd.concat(many.tokens(["H", "advantage", "old_logp"], size=5), ignore_index=True)
    pd.testing.assert_frame_equal(a.drop(columns="response"), b.drop(columns="response"))


def test_any_changed_value_changes_the_fingerprint() -> None:
    rows = logs.rows()
    before = Rollouts.of(rows).fingerprint()
    for name, value in (("step", 5), ("advantage", np.float32(0.25)), ("finish_reason", "length")):
        assert Rollouts.of([{**rows[0], name: value}, *rows[1:]]).fingerprint() != before
    swapped = rows[0]["response_token_ids"][::-1].copy()
    assert Rollouts.of([{**rows[0], "response_token_ids": swapped}, *rows[1:]]).fingerprint() != before


def test_tokens_are_the_masked_ones_with_their_response_numbers() -> None:
    rows = logs.rows(steps=(3,))
    frame = pd.concat(Rollouts.of(rows).tokens(["H", "advantage"]))
    want = sorted(
        (r["prompt_id"], float(r["advantage"]), np.flatnonzero(m).tolist(), r["H"][m].tolist())
        for r, m in ((r, r["response_mask"]) for r in rows)
    )
    found = sorted(
        (str(item), float(g["advantage"].iloc[0]), g["pos"].tolist(), g["H"].tolist())
        for (item, _), g in frame.groupby(["item", "sample"])
    )
    assert found == want


def test_advantages_per_token_become_one_per_response() -> None:
    rows = [{**r, "advantage": np.full(len(r["response_token_ids"]), r["advantage"])} for r in logs.rows()]
    scalar, listed = Rollouts.of(logs.rows()).advantages(), Rollouts.of(rows).advantages()
    assert sorted(scalar["advantage"].round(6)) == sorted(listed["advantage"].round(6))


def test_uncentred_groups_are_named() -> None:
    rows = logs.rows()
    assert Rollouts.of(rows).uncentred() == []
    shifted = [{**r, "advantage": r["reward"]} if r["group_uid"] == "4-1" else r for r in rows]
    assert Rollouts.of(shifted).uncentred() == ["4/4-1"]


def test_null_optional_columns_are_not_measured() -> None:
    rows = logs.rows()
    rows[3] = {**rows[3], "old_logp": None}
    frame = pd.concat(Rollouts.of(rows).tokens(["old_logp"]))
    assert frame["old_logp"].isna().sum() == rows[3]["response_mask"].sum()


def test_missing_columns_are_named_with_what_they_rule_out() -> None:
    rows = [{k: v for k, v in r.items() if k not in ("advantage", "prompt_token_ids")} for r in logs.rows()]
    log = Rollouts.of(rows)
    assert "entropy_covariance" in log.missing()["advantage"]
    assert set(log.missing()["prompt_token_ids"]) >= {"entropy", "entropy_change"}
    with pytest.raises(InputError, match=r"needs advantage.*rules out.*entropy_attribution"):
        log.require("advantage", by="entropy_covariance")
    assert not [n for n in Rollouts.of(logs.rows()).missing() if n not in ("H",)]
    assert set(NEEDS) >= {"entropy", "entropy_step", "forking_tokens"}


def test_log_probs_of_unknown_temperature_are_refused() -> None:
    for change in ({}, {"logp_temperature": None}, {"logp_temperature": float("nan")}):
        rows = [{**{k: v for k, v in r.items() if k != "logp_temperature"}, **change} for r in logs.rows()]
        with pytest.raises(InputError, match="logp_temperature"):
            Rollouts.of(rows).require("old_logp|sampling_logp", by="entropy_covariance")
    Rollouts.of(logs.rows()).require("old_logp|sampling_logp", by="entropy_covariance")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": None}, "no step in row"),
        ({"response_token_ids": None}, "row 2 .*response_token_ids is null"),
        ({"H": [0.1]}, r"q0.*H has 1 entries for \d response tokens"),
        ({"response_mask": [True]}, "response_mask has 1 entries"),
        ({"prompt_id": None}, "prompt_id is null"),
    ],
)
def test_bad_rows_are_named(change: dict[str, Any], message: str) -> None:
    rows = logs.rows()
    rows[2] = {**rows[2], **change}
    with pytest.raises(InputError, match=message):
        _ = Rollouts.of(rows).index


def test_half_floats_and_foreign_tables_are_refused() -> None:
    table = pa.Table.from_pylist(logs.rows())
    halves = table.set_column(
        table.column_names.index("H"), "H", pa.array([np.float16([1, 2])] * len(table), pa.list_(pa.float16()))
    )
    with pytest.raises(InputError, match="16-bit"):
        Rollouts.of(halves)
    with pytest.raises(InputError, match=r"no column step.*entropy"):
        Rollouts.of([{"a": 1}])
    with pytest.raises(InputError, match="response_token_ids or response_text"):
        Rollouts.of([{"step": 1, "prompt_id": "x"}])


def test_truncated_shard_is_named_and_the_whole_ones_stay(tmp_path: Path) -> None:
    folder = shards(tmp_path / "log", logs.rows(), [12, 12])
    whole = folder / "step-000001.parquet"
    broken = folder / "step-000002.parquet"
    broken.write_bytes(broken.read_bytes()[:-40])
    before = {f.name: f.read_bytes() for f in folder.iterdir()}
    with pytest.raises(InputError, match=r"step-000002.parquet.*other 1 file\(s\) are whole"):
        Rollouts.read(folder)
    assert len(Rollouts.read([whole])) == 12
    assert before == {f.name: f.read_bytes() for f in folder.iterdir()}


def test_damaged_pages_and_mixed_tokenizers_are_refused(tmp_path: Path) -> None:
    file = shards(tmp_path / "log", logs.rows(), [24]) / "step-000001.parquet"
    content = bytearray(file.read_bytes())
    content[200 : len(content) // 2] = bytes(len(content) // 2 - 200)
    file.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        _ = Rollouts.read(file).index
    mixed = [{**r, "tokenizer": "one" if r["step"] else "other"} for r in logs.rows()]
    with pytest.raises(InputError, match="several tokenizers"):
        _ = Rollouts.of(mixed).index


def test_missing_steps_are_named(tmp_path: Path) -> None:
    log = Rollouts.read(shards(tmp_path, logs.rows(steps=(0, 4, 8)), [36]))
    assert log.where(steps=[4, 8]).steps == [4, 8]
    assert len(log.where(steps=[8])) == 12
    with pytest.raises(InputError, match=r"no responses at step\(s\) \[5\]; it has \[0, 4, 8\]"):
        log.where(steps=[4, 5])


def test_no_file_and_shards_of_different_types(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rollout log"):
        Rollouts.read(tmp_path / "nothing")
    pq.write_table(pa.table({"step": [1], "response_token_ids": [[1]], "prompt_id": ["a"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"step": [1], "response_token_ids": ["x"], "prompt_id": ["a"]}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="differ in type"):
        Rollouts.read(tmp_path)


# Trainers' own files


@pytest.fixture
def words() -> Any:
    return tiny.word_tokenizer(["a", "b", "c", "d", "e", "?", "ans", "1", "2", "3"])


def test_trl_completions(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "completions"
    folder.mkdir(parents=True)
    for step in (1, 2):
        pd.DataFrame(
            {
                "step": [step] * 4,
                "prompt": ["a b ?"] * 2 + ["c d ?"] * 2,
                "completion": ["ans 1", "ans 2", "ans 3", "ans 1"],
                "true_reward": [1.0, 0.0, 0.0, 1.0],
                "advantage": [1.0, -1.0, -1.0, 1.0],
            }
        ).to_parquet(folder / f"completions_{step:05d}.parquet")
    log = Rollouts.read(tmp_path / "run")
    assert log.steps == [1, 2]
    assert len(log) == 8
    assert log.index["item"].nunique() == 2
    assert log.scalars(["reward"])["reward"].sum() == 4
    assert "entropy" in log.missing()["response_token_ids"]
    with pytest.raises(InputError, match="needs prompt_token_ids, response_token_ids"):
        log.require("prompt_token_ids", "response_token_ids", by="entropy")


def test_chat_messages_need_a_template(tmp_path: Path, words: Any) -> None:
    turns = [{"role": "user", "content": "a b ?"}]
    frame = pd.DataFrame({"step": [1], "prompt": [turns], "completion": [[{"role": "assistant", "content": "ans 1"}]]})
    frame.to_parquet(tmp_path / "completions_00001.parquet")
    log = Rollouts.read(tmp_path)
    with pytest.raises(InputError, match="no chat template"):
        log.tokenized(words)
    words.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %} ans"
    frame = next(log.tokenized(words).tokens())
    assert words.decode(frame["token_id"].tolist()) == "ans 1"


def test_verl_jsonl_and_its_step_from_the_file_name(tmp_path: Path, words: Any) -> None:
    for step in (2, 10):
        lines = [{"input": "a b ?", "output": f"ans {k}", "gts": "1", "score": float(k == 1)} for k in (1, 2)]
        (tmp_path / f"{step}.jsonl").write_text("\n".join(json.dumps(x) for x in lines))
    log = Rollouts.read(tmp_path)
    assert log.steps == [2, 10]
    assert log.scalars(["reward"])["reward"].sum() == 2
    assert {"advantage", "response_token_ids"} <= set(log.missing())
    ids = log.tokenized(words)
    assert ids.has_ids
    assert "re-tokenized" in ids.notes[0]


def test_openrlhf_jsonl_without_a_step_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "samples.jsonl"
    file.write_text(json.dumps({"input": "a", "output": "b", "reward": 1.0}))
    with pytest.raises(InputError, match="no column step"):
        Rollouts.read(file)
    file.write_text(json.dumps({"input": "a", "output": "b", "reward": 1.0, "step": 3}) + '\n{"input": "a", "out')
    with pytest.raises(InputError, match="line 2: malformed"):
        Rollouts.read(file)


def test_text_that_does_not_come_back_is_refused_by_name(words: Any) -> None:
    log = Rollouts.of(
        [
            {"step": 1, "prompt_id": "fine", "prompt_text": "a b ?", "response_text": "ans 1"},
            {"step": 1, "prompt_id": "torn", "prompt_text": "a b ?", "response_text": "ans  9"},
        ]
    )
    with pytest.raises(InputError, match=r"1 text\(s\) do not come back.*torn"):
        log.tokenized(words)


# A model on a log


@pytest.fixture
def llama_log(llama: Model) -> Rollouts:
    return Rollouts.of(logs.rows(vocab=200))


def test_recomputed_columns_are_the_plain_models(llama: Model, llama_log: Rollouts, tmp_path: Path) -> None:
    import torch

    from probe.recompute import recompute

    filled = recompute(llama_log, llama, tmp_path / "filled.parquet", batch_size=3)
    assert filled.missing() == {}
    frame = pd.concat(filled.tokens(["old_logp", "H", "sum_p2", "B", "max_logp", "logp_temperature"]))
    assert (frame["logp_temperature"] == 1).all()
    _, table = next(filled.windows(["prompt_token_ids", "response_token_ids"]))
    for number in (0, 7, 20):
        prompt, ids = (table[c][number].as_py() for c in ("prompt_token_ids", "response_token_ids"))
        with torch.no_grad():
            hidden = llama.backend.forward(_plain(prompt + ids), {})
        logp = llama.backend.head(hidden.detach())[0, len(prompt) - 1 : -1].detach().double().log_softmax(-1)
        p = logp.exp()
        part = frame[frame["response"] == number]
        want = {
            "old_logp": logp.gather(-1, torch.tensor(ids)[:, None])[:, 0],
            "H": -(p * logp).sum(-1),
            "sum_p2": (p * p).sum(-1),
            "B": (p * (p - (p * p).sum(-1, keepdim=True)) * logp).sum(-1),
            "max_logp": logp.amax(-1),
        }
        for name, value in want.items():
            np.testing.assert_allclose(part[name], value.numpy()[part["pos"]], atol=2e-6)


def _plain(ids: list[int]) -> Any:
    import torch

    from probe.backends import Tokens

    row = torch.tensor([ids])
    return Tokens(row, torch.ones_like(row, dtype=torch.bool), torch.arange(len(ids))[None])


def test_windows_and_batches_change_nothing(llama: Model, llama_log: Rollouts) -> None:
    from probe.recompute import statistics, token_values

    def read(**how: int) -> pd.DataFrame:
        found = token_values([llama], llama_log, lambda z, t: statistics(z[0], t), **how)
        return pd.concat(found, ignore_index=True).drop(columns="response")

    pd.testing.assert_frame_equal(read(batch_size=5), read(batch_size=2, window=7), rtol=1e-5, atol=2e-6)


def test_sampling_temperature_divides_the_logits(llama: Model) -> None:
    from probe.recompute import statistics, token_values

    hot = Rollouts.of([{**r, "temperature": np.float32(2.0)} for r in logs.rows(vocab=200)])
    found = pd.concat(token_values([llama], hot, lambda z, t: statistics(z[0], t), at_temperature=True))
    halved = pd.concat(token_values([llama], hot, lambda z, t: statistics(z[0] / 2, t)))
    np.testing.assert_allclose(found["H"], halved["H"], atol=1e-6)
    unknown = Rollouts.of([{**r, "temperature": None if r["prompt_id"] == "q1" else 1.0} for r in logs.rows(vocab=200)])
    with pytest.raises(InputError, match=r"temperature is missing.*q1"):
        list(token_values([llama], unknown, lambda z, t: {}, at_temperature=True))


def test_logs_a_model_cannot_read_are_refused(llama: Model, folder_of: Callable[..., Path]) -> None:
    from probe.recompute import token_values

    def read(rows: list[dict[str, Any]]) -> None:
        list(token_values([llama], Rollouts.of(rows), lambda z, t: {}))

    rows = logs.rows(vocab=200)
    alien = {**rows[0], "response_token_ids": np.array([5000] * 3), "response_mask": [True] * 3}
    with pytest.raises(InputError, match="another tokenizer"):
        read([*rows[1:], {**alien, "old_logp": [0.0] * 3, "H": [0.0] * 3}])
    with pytest.raises(InputError, match="beyond the context"):
        read([*rows[1:], {**rows[0], "prompt_token_ids": np.arange(3, 80)}])
    with pytest.raises(InputError, match=r"empty prompt_token_ids in item.*q0"):
        read([*rows[1:], {**rows[0], "prompt_token_ids": np.array([], np.int32)}])
