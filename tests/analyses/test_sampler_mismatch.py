"""Trainer against sampler: equal logs give 0, rounding is recovered, the mean ratio is 1 under the sampler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyses import run
from analyses.credit.sampler_mismatch import per_token
from probe import InputError, Rollouts
from tests import logs


def example(folder: Path) -> dict[str, Any]:
    return {"rollouts": Rollouts.of(logs.full())}


def test_equal_logs_give_zero() -> None:
    rows = [{**r, "sampling_logp": r["old_logp"]} for r in logs.full()]
    result = run("sampler_mismatch", rollouts=Rollouts.of(rows))
    assert (result.table[["kl_nats", "outside", "largest", "sequence_log_ratio"]] == 0).all().all()
    assert (result.table[["mean_ratio", "geometric_ratio"]] == 1).all().all()
    assert (result.data["kl_nats_by_pos"].fillna(0) == 0).all()


def test_rounding_of_a_bf16_copy_is_recovered() -> None:
    rows = logs.full()
    for r in rows:
        r["sampling_logp"] = torch.tensor(r["old_logp"]).bfloat16().float().numpy()
    result = run("sampler_mismatch", rollouts=Rollouts.of(rows), beyond=1e-3)
    for r in rows:
        d = (r["old_logp"] - r["sampling_logp"])[r["response_mask"]].astype(float)
        same = result.table[np.isclose(result.table["sequence_log_ratio"], d.sum(), atol=1e-9)]
        assert len(same)
        row = same.iloc[0]
        assert row["kl_nats"] == pytest.approx(np.mean(np.expm1(d) - d), rel=1e-6)
        assert row["largest"] == pytest.approx(np.abs(d).max())
        assert row["outside"] == pytest.approx((np.abs(d) > 1e-3).mean())
    assert 0 < result.table["largest"].max() < 2**-8 * 3  # half a step of bf16 at these sizes
    assert (result.table["kl_nats"] >= 0).all()


def test_under_the_sampler_the_mean_ratio_is_one_and_the_estimate_is_the_divergence() -> None:
    rng = np.random.default_rng(0)
    q, p = (rng.dirichlet(np.full(6, 8.0)) for _ in range(2))
    tokens = rng.choice(6, 400_000, p=q)
    found = per_token(np.log(p[tokens] / q[tokens]), 0.2)
    assert found["mean_ratio"].mean() == pytest.approx(1, abs=0.02)
    assert found["kl_nats"].mean() == pytest.approx(float((q * np.log(q / p)).sum()), rel=0.02)
    assert (found["kl_nats"] >= 0).all()


def test_by_probability_and_position() -> None:
    n = 4
    row = {"step": 1, "prompt_id": "q", "prompt_token_ids": [1], "response_token_ids": [0] * n, "logp_temperature": 1.0}
    engine = np.log([0.995, 0.6, 0.05, 0.005])
    rows = [{**row, "temperature": 1.0, "sampling_logp": engine, "old_logp": engine + np.array([0, 0, 0.5, 0])}]
    data = run("sampler_mismatch", rollouts=Rollouts.of(rows)).data
    assert float(data["outside_by_probability"].sel(variant="0.01-0.1")) == 1
    assert float(data["outside_by_probability"].sel(variant="0.99-1")) == 0
    assert data["outside_by_pos"].sel(pos=[0, 1, 2, 3]).values.tolist() == [0, 0, 1, 0]


def test_what_is_missing_or_at_another_temperature_is_told() -> None:
    result = run("sampler_mismatch", rollouts=Rollouts.of([{**r, "sampling_logp": None} for r in logs.rows()]))
    assert result.table["kl_nats"].isna().all()
    assert any("has no value in sampling_logp" in w for w in result.warnings)
    hot = [{**r, "temperature": np.float32(0.7)} for r in logs.full()]
    assert any("another temperature" in w for w in run("sampler_mismatch", rollouts=Rollouts.of(hot)).warnings)
    with pytest.raises(InputError, match="beyond"):
        run("sampler_mismatch", rollouts=Rollouts.of(logs.full()), beyond=0.0)


def test_page_run_shows_it_over_steps_beside_the_training_log(tmp_path: Path) -> None:
    import re

    import pyarrow as pa
    import pyarrow.parquet as pq

    from analyses import Store
    from apps.catalog import listing
    from apps.drawn.curves import over_steps
    from apps.drawn.panels import WANTED

    folder = tmp_path / "grpo" / "rollouts"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(logs.full()), folder / "step-000001.parquet")
    store = Store(tmp_path / "results")
    result = run("sampler_mismatch", rollouts=str(folder), store=store)
    entry = listing(store).entries[0]
    assert entry.run == str(tmp_path / "grpo")
    rows = over_steps(result.summary())
    assert rows.loc[rows["panel"] == "kl_nats", "step"].tolist() == [0, 4]
    assert any(re.search(pattern, "kl_nats") for pattern in WANTED)
