"""Entropy of a checkpoint on a log: plain Hugging Face as oracle, a planted policy, classes and segments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analyses import run
from probe import InputError, Model, Rollouts
from tests import logs, tiny


def example(folder: Path) -> dict[str, Any]:
    return {"model": tiny.save(folder / "m"), "rollouts": Rollouts.of(logs.rows(vocab=200))}


def plain_entropies(folder: Path, row: dict[str, Any], heat: float = 1.0) -> np.ndarray:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([[*row["prompt_token_ids"], *row["response_token_ids"]]])
    with torch.no_grad():
        logp = (model(ids).logits[0, len(row["prompt_token_ids"]) - 1 : -1].double() / heat).log_softmax(-1)
    return -(logp.exp() * logp).sum(-1).numpy()[row["response_mask"]]


def test_equals_plain_hugging_face_on_masked_tokens(tmp_path: Path) -> None:
    folder, rows = tiny.save(tmp_path / "m"), logs.rows(vocab=200, group=3)
    table = run("entropy", model=folder, rollouts=Rollouts.of(rows)).table
    assert {"step", "item", "group", "entropy_nats", "n_tokens"} <= set(table)
    want = sorted(
        (r["step"], r["prompt_id"], int(r["response_mask"].sum()), plain_entropies(folder, r).mean()) for r in rows
    )
    found = sorted(table[["step", "item", "n_tokens", "entropy_nats"]].itertuples(index=False, name=None))
    for a, b in zip(found, want, strict=True):
        assert a[:3] == b[:3]
        assert a[3] == pytest.approx(b[3], abs=1e-5)


def test_a_planted_uniform_policy_has_the_largest_entropy(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "m", tie_word_embeddings=False)
    model = Model.load(folder)
    model.unembed_weights()[0].zero_()
    result = run("entropy", model=model, rollouts=Rollouts.of(logs.rows(vocab=200)))
    np.testing.assert_allclose(result.table["entropy_nats"], np.log(model.shape.d_vocab), atol=1e-5)


def test_same_state_and_on_policy_stand_side_by_side(tmp_path: Path) -> None:
    from probe.recompute import recompute

    model = Model.load(tiny.save(tmp_path / "m"))
    log = recompute(Rollouts.of(logs.rows(vocab=200)), model, tmp_path / "own.parquet")
    table = run("entropy", model=model, rollouts=log).table
    np.testing.assert_allclose(table["entropy_nats"], table["logged_entropy_nats"], atol=2e-6)  # it sampled the log
    other = run("entropy", model=tiny.save(tmp_path / "other", seed=5), rollouts=log).table
    assert (other["entropy_nats"] - other["logged_entropy_nats"]).abs().mean() > 1e-3
    bare = Rollouts.of(logs.rows(vocab=200, logged=False))
    assert run("entropy", model=model, rollouts=bare).table["logged_entropy_nats"].isna().all()


def test_token_level_rows_average_to_the_response(tmp_path: Path) -> None:
    given = example(tmp_path)
    tokens = run("entropy", **given, level="token")
    responses = run("entropy", **given).table
    keys = ["step", "item", "group_uid", "sample"]
    means = tokens.table.groupby(keys)["entropy_nats"].mean().reset_index()
    both = responses.merge(means, on=keys, suffixes=("", "_mean"))
    np.testing.assert_allclose(both["entropy_nats"], both["entropy_nats_mean"], atol=1e-12)
    assert "tokens" in tokens.figures()


def test_segments_split_a_response_at_its_boundaries(tmp_path: Path) -> None:
    from analyses.core.reading.rollout_tokens import segments

    rows = [{**r, "segment_starts": [0, 2] if len(r["response_mask"]) > 2 else [0]} for r in logs.rows(vocab=200)]
    log = Rollouts.of(rows)
    number = segments(log)
    frame = pd.concat(log.tokens(), ignore_index=True)
    assert number is not None
    assert ((frame["pos"] >= 2) == (number == 1)).all()
    data = run("entropy", model=tiny.save(tmp_path / "m"), rollouts=log).data
    assert data["entropy_by_segment_nats"].sizes == {"segment": 2}


def test_sampling_temperature(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "m")
    rows = [{**r, "temperature": np.float32(2.0)} for r in logs.rows(vocab=200, steps=(1,), items=1, group=2)]
    hot = run("entropy", model=folder, rollouts=Rollouts.of(rows), at_temperature=True).table
    want = sorted(plain_entropies(folder, r, heat=2.0).mean() for r in rows)
    np.testing.assert_allclose(sorted(hot["entropy_nats"]), want, atol=1e-5)


def test_text_logs_are_read_through_the_models_tokenizer(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "m")
    rows = [{"step": 1, "prompt_text": "what is 3 plus 7 ?", "response_text": f" ans {k}"} for k in (10, 11)]
    result = run("entropy", model=folder, rollouts=Rollouts.of(rows))
    assert "re-tokenized" in result.warnings[0]
    assert result.table["n_tokens"].min() >= 2


def test_entropies_of_unknown_temperature_are_refused(tmp_path: Path) -> None:
    rows = [{k: v for k, v in r.items() if k != "logp_temperature"} for r in logs.rows(vocab=200)]
    with pytest.raises(InputError, match="logp_temperature"):
        run("entropy", model=tiny.save(tmp_path / "m"), rollouts=Rollouts.of(rows))


def test_a_sweep_puts_the_checkpoints_step_beside_the_logs(tmp_path: Path) -> None:
    from analyses import sweep

    folder = tiny.series(tmp_path / "run", steps=(0, 10))
    result = sweep("entropy", checkpoints=folder, rollouts=Rollouts.of(logs.rows(vocab=200)))
    assert sorted(result.table["step"].unique()) == [0, 10]
    assert sorted(result.table["rollout_step"].unique()) == [0, 4]
    assert result.data["entropy_nats"].sizes == {"step": 2, "rollout_step": 2, "group": 2}
    assert result.figures()


def test_design_groups_come_from_a_prompt_file(tmp_path: Path) -> None:
    from probe import Item, Prompts

    rows = [{k: v for k, v in r.items() if k != "group"} for r in logs.rows(vocab=200)]
    given: dict[str, Any] = {"model": tiny.save(tmp_path / "m"), "rollouts": Rollouts.of(rows)}
    prompts = Prompts((Item("q0", "p", "a", group="canary"), Item("q1", "p", "a", group="unseen")))
    result = run("entropy", **given, prompts=prompts)
    found = result.table.groupby("item")["group"].first().to_dict()
    assert found == {"q0": "canary", "q1": "unseen", "q2": "not in prompts"}
    assert result.data["entropy_nats"].sizes["group"] == 3
    alone = run("entropy", **given)
    assert (alone.table["group"] == alone.table["group_uid"]).all()
    with pytest.raises(InputError, match="none of the log's prompt ids"):
        run("entropy", **given, prompts=Prompts((Item("other", "p", "a"),)))
