"""Self-consistency rewards: shares, collapse, the rule for scattered groups, answers however they are spelt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analyses import Result, run
from probe import InputError, Rollouts
from tests import logs, tiny


def example(folder: Path) -> dict[str, Any]:
    return {"rollouts": Rollouts.of(logs.full())}


def group(answers: list[str | None], **how: Any) -> Result:
    rows = [
        {
            "step": 1,
            "prompt_id": "q",
            "response_text": "no idea" if a is None else f"so {a}",
            "prompt_text": "?",
            "reward": 0.0,
        }
        for a in answers
    ]
    return run("cluster_rewards", rollouts=Rollouts.of(rows), **how)


def mean(result: Result, name: str) -> float:
    return float(result.data[name].sel(rollout_step=1))


def test_shares_of_five_two_one() -> None:
    result = group(["1"] * 5 + ["2"] * 2 + ["3"])
    assert mean(result, "cluster_share") == pytest.approx(0.46875)
    assert sorted(result.table["cluster_share"]) == [0.125, 0.25, 0.25] + [0.625] * 5


def test_all_alike_is_one_and_all_different_is_zeroed() -> None:
    assert mean(group(["1"] * 4), "cluster_share") == 1
    scattered = group([str(i) for i in range(8)])
    assert mean(scattered, "cluster_share") == pytest.approx(1 / 8)
    assert (scattered.table["cluster_reward"] == 0).all()
    assert mean(scattered, "zeroed") == 1
    assert (group([str(i) for i in range(8)], least_share=0.1).table["cluster_reward"] == 1 / 8).all()


def test_each_unread_answer_stands_alone_whatever_the_others_are() -> None:
    result = group([None, None, "10", "10"])
    assert sorted(result.table["cluster_share"]) == [0.25, 0.25, 0.5, 0.5]
    assert any("2 of 4 responses have no answer" in w for w in result.warnings)
    with pytest.raises(InputError, match="no response has an answer"):
        group([None, None])


@pytest.mark.parametrize("other", ["1000", "1000.0 .", r"\\boxed{1{,}000}", "The answer is 1e3.", "2000/2"])
def test_one_answer_in_several_spellings_is_one_cluster(other: str) -> None:
    rows = [{"step": 1, "prompt_id": "q", "prompt_text": "?", "response_text": t} for t in ("it is 1,000", other, "7")]
    assert mean(run("cluster_rewards", rollouts=Rollouts.of(rows)), "cluster_share") == pytest.approx(5 / 9)


def test_a_log_of_ids_needs_the_tokenizer(tmp_path: Path) -> None:
    words = tiny.word_tokenizer(["ans", "1", "2"])
    words.save_pretrained(tmp_path)
    ids = [words(f"ans {a}", add_special_tokens=False)["input_ids"] for a in (1, 1, 2)]
    rows = [{"step": 1, "prompt_id": "q", "prompt_token_ids": [3], "response_token_ids": i} for i in ids]
    with pytest.raises(InputError, match="token ids only"):
        run("cluster_rewards", rollouts=Rollouts.of(rows))
    result = run("cluster_rewards", rollouts=Rollouts.of(rows), tokenizer=str(tmp_path), pattern=r"ans (\S+)")
    assert mean(result, "cluster_share") == pytest.approx(5 / 9)
