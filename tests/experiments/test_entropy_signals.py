"""Entropy signals on the lab: an independent measurement agrees, and the tables say what the numbers do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analyses import Store, run
from experiments.entropy_signals import lab as signals
from experiments.entropy_signals import report
from probe import Rollouts, discover


@pytest.fixture(scope="module")
def window(lab: Path) -> Path:
    folder = lab / "grpo-format"
    if not (folder / "window").is_dir():
        pytest.skip("this lab run has no window of updates")
    return folder


def test_measured_change_and_gradient_are_those_of_a_plain_script(window: Path) -> None:
    """`entropy_truth` uses transformers and one backward pass, and shares no code with the analysis."""
    from experiments.lab.entropy_truth import batch_of, mean_entropy, rollout_in_use
    from experiments.lab.training import load

    first, second = discover(window / "window")[:2]
    result = run("entropy_step", checkpoints=[first, second], rollouts=Rollouts.read(window / "rollouts"))
    import pyarrow.parquet as pq

    rows = rollout_in_use(pq.read_table(window / "rollouts").to_pandas(), int(first.step or 0))
    batch, old, new = batch_of(rows), load(first.folder).eval(), load(second.folder).eval()
    entropy = mean_entropy(old, batch)
    entropy.backward()
    moved = zip(old.parameters(), new.parameters(), strict=True)
    gradient = sum(float((p.grad * (q - p)).sum().detach()) for p, q in moved)
    measured = float(mean_entropy(new, batch).detach() - entropy.detach())
    assert float(result.data["measured_nats"][0]) == pytest.approx(measured, abs=2e-6)
    assert float(result.data["gradient_nats"][0]) == pytest.approx(gradient, rel=1e-3, abs=1e-7)


def test_tables_of_a_short_window(window: Path, tmp_path: Path) -> None:
    found = {"0": {"grpo-format": signals.of_run(window, Store(tmp_path), n=6)}}
    text = report.tables(found)
    assert "<grad H, delta>" in text
    assert found["0"]["grpo-format"]["updates"]["gradient_nats"]["r"] > 0.5
    assert all(np.isfinite(v["sequence_visitation_nats"]) for v in found["0"]["grpo-format"]["visits"])
