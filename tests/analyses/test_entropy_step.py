"""Per-update prediction of the entropy change: planted updates, what cannot be correlated, what is refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses import run
from analyses.entropy._step_claims import claims
from probe import InputError, Rollouts, discover
from tests import logs, tiny


def example(folder: Path) -> dict[str, Any]:
    series = discover(tiny.series(folder / "run", steps=(0, 1, 2, 3, 4)))
    for before, after in pairwise(series):
        save_adam(before.folder, after.folder)
    rows = [{**r, "update_steps": [r["step"] + i % 2]} for i, r in enumerate(logs.rows(vocab=200, steps=(0, 2)))]
    return {"checkpoints": series, "rollouts": Rollouts.of(rows)}


def save_adam(before: Path, after: Path) -> None:
    """Optimizer state that leads from one checkpoint to the next, as the Trainer saves it: decayed parameters first.

    Its second moment, its bias taken off, is 1 everywhere: what is left of Adam's rule is -rate x the first moment.
    """
    import torch

    from analyses.core.reading.tangent import _order, difference
    from probe import Model

    old, new = (Model.load(f, check=False) for f in (before, after))
    made, rate, n, betas = difference(new, old), 1e-3, 5, (0.9, 0.999)
    state = {
        i: {
            "step": torch.tensor(float(n)),
            "exp_avg": -made[name] / rate * (1 - betas[0] ** n),
            "exp_avg_sq": torch.full_like(made[name], 1 - betas[1] ** n),
        }
        for i, name in enumerate(_order(new))
    }
    group = {"lr": rate, "betas": betas, "eps": 1e-8, "weight_decay": 0.0, "params": list(range(len(state)))}
    torch.save({"state": state, "param_groups": [group]}, after / "optimizer.pt")


def test_the_gradient_predicts_small_updates_and_says_which_state_it_read(tmp_path: Path) -> None:
    given = example(tmp_path)
    result = run("entropy_step", **given)
    assert result.data["step"].values.tolist() == [1, 2, 3, 4]
    pairs = result.table[["step", "rollout_step"]].drop_duplicates().to_numpy().tolist()
    assert pairs == [[1, 0], [2, 0], [3, 2], [4, 2]]
    assert float(result.data["correlation"].sel(signal="gradient_nats")) > 0.9
    assert float(result.data["correlation_n"].max()) == 4
    assert {(c.answer, c.why) for c in result.claims} == {("cannot be judged", "there are 4 updates")}


def test_measured_change_is_that_of_entropy_change(tmp_path: Path) -> None:
    given = example(tmp_path)
    result = run("entropy_step", **given)
    a, b = given["checkpoints"][2:4]
    log = given["rollouts"].where(steps=[2])
    want = run("entropy_change", base=a, tuned=b, rollouts=log)
    assert float(result.data["measured_nats"].sel(step=3)) == pytest.approx(float(want.data["exact_nats"]), abs=1e-7)
    first = float(result.data["first_order_nats"].sel(step=3))
    assert first == pytest.approx(float(want.data["first_order_nats"]), abs=1e-7)


def test_a_halved_update_halves_what_the_gradient_misses_fourfold(tmp_path: Path) -> None:
    import torch

    from probe import Model

    errors = []
    for part in (1.0, 0.5):
        folder = tiny.series(tmp_path / f"s{part}", steps=(0, 1))
        base, moved = (Model.load(folder / f"checkpoint-{s}", check=False) for s in (0, 1))
        with torch.no_grad():
            for name, weight in {id(w): (n, w) for n, w in moved.weights().items()}.values():
                weight.copy_(base.weights()[name] + part * (weight - base.weights()[name]))
        moved.backend.plain.save_pretrained(folder / "checkpoint-1")
        rows = Rollouts.of(logs.rows(vocab=200, steps=(0,)))
        table = run("entropy_step", checkpoints=discover(folder), rollouts=rows).table
        errors.append(float((table["measured_nats"] - table["gradient_nats"]).abs().mean()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.3)


def test_updates_that_change_nothing_correlate_with_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "still"
    for step in (0, 1, 2, 3):
        tiny.save(folder / f"checkpoint-{step}")
    result = run("entropy_step", checkpoints=discover(folder), rollouts=Rollouts.of(logs.rows(vocab=200, steps=(0,))))
    assert (result.table["measured_nats"] == 0).all()
    assert (result.table["gradient_nats"] == 0).all()
    assert np.isnan(result.data["correlation"]).all()
    assert {c.answer for c in result.claims} == {"cannot be judged"}


def updates(predicted: np.ndarray, measured: np.ndarray) -> pd.DataFrame:
    """Rows of so many updates of one batch, of one item each."""
    named = {"step": range(1, len(measured) + 1), "rollout_step": 0, "item": "i", "n_tokens": 4}
    return pd.DataFrame({**named, "measured_nats": measured, "gradient_nats": predicted})


def test_a_signal_follows_only_beyond_the_trend_of_the_run() -> None:
    rng = np.random.default_rng(0)
    signal, trend = rng.normal(size=40), np.linspace(0, 6, 40)
    made = {
        "true": (signal, signal + 0.3 * rng.normal(size=40)),
        "trends": (trend + 0.2 * rng.normal(size=40), trend**1.3 + 0.2 * rng.normal(size=40)),
    }
    found = {k: claims(updates(*v), ["gradient_nats"], lambda _: "n_tokens")[0] for k, v in made.items()}
    assert found["true"].is_found and found["true"].low > 0.5
    assert found["trends"].answer == "none found" and found["trends"].effect > 0.9, "a high r is not enough"


def test_signals_over_the_responses_an_update_used(tmp_path: Path) -> None:
    given = example(tmp_path)
    table = run("entropy_step", **given).table
    assert table["n_used"].sum() == table["n_tokens"].sum() / 2
    rows = logs.rows(vocab=200, steps=(0, 2))
    everyone = Rollouts.of([{**r, "update_steps": [r["step"], r["step"] + 1]} for r in rows])
    whole = run("entropy_step", **{**given, "rollouts": everyone}).table
    for name in ("pooled", "tabular", "omega"):
        np.testing.assert_allclose(whole[f"{name}_used"], whole[name], atol=1e-12)
    assert np.abs(table["pooled_used"] - table["pooled"]).max() > 1e-6
    bare = Rollouts.of(logs.rows(vocab=200, steps=(0, 2)))
    plain = run("entropy_step", **{**given, "rollouts": bare})
    assert plain.table["pooled_used"].isna().all()
    assert np.isnan(float(plain.data["correlation"].sel(signal="pooled_used")))


def test_checkpoints_that_are_not_adjacent_are_refused(tmp_path: Path) -> None:
    given = example(tmp_path)
    with pytest.raises(InputError, match="not one update apart"):
        run("entropy_step", **{**given, "checkpoints": given["checkpoints"][::2]})
    late = Rollouts.of(logs.rows(vocab=200, steps=(9,)))
    with pytest.raises(InputError, match="nothing was sampled before update 1"):
        run("entropy_step", **{**given, "rollouts": late})
    (given["checkpoints"][1].folder / "optimizer.pt").unlink()
    with pytest.raises(InputError, match="no optimizer"):
        run("entropy_step", **given, update="optimizer")


def test_the_rebuilt_direction_needs_no_neighbour(tmp_path: Path) -> None:
    given = example(tmp_path)
    result = run("entropy_step", **{**given, "checkpoints": given["checkpoints"][::2]}, update="optimizer")
    assert result.data["step"].values.tolist() == [2, 4]
    assert float(abs(result.data["measured_nats"] - result.data["gradient_nats"]).max()) < 0.05
    adjacent = run("entropy_step", **given).data.sel(step=[2, 4])
    for name in ("measured_nats", "gradient_nats"):
        np.testing.assert_allclose(result.data[name], adjacent[name], atol=1e-5)


def test_a_rebuilt_update_that_does_not_lead_from_its_neighbour_is_refused(tmp_path: Path) -> None:
    import torch

    given = example(tmp_path)
    file = given["checkpoints"][2].folder / "optimizer.pt"
    saved = torch.load(file, weights_only=True)
    for state in saved["state"].values():
        state["exp_avg"] *= 2
    torch.save(saved, file)
    with pytest.raises(InputError, match=r"rebuilt from optimizer.pt is 100% away.*update='difference'"):
        run("entropy_step", **given, update="optimizer")
