"""The forgetting law: a planted curve is recovered from two runs, two curves are not one, one run is not judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses import Result, run
from probe import InputError


def example(folder: Path) -> dict[str, Any]:
    del folder
    return {"forgetting": points(1.0, 2.0), "other": points(1.0, 2.0, seed=1, far=1.5)}


def points(a: float, b: float, *, seed: int = 0, far: float = 1.0, noise: float = 0.02) -> Result:
    """A swept forgetting whose means lie on a x + b x^2."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    for step, x in zip(range(0, 80, 10), np.linspace(0, far, 8), strict=True):
        for k in range(12):
            own = {"item": f"i{k}", "group": "a", "answer_kind": "given", "step": step}
            rows.append({**own, "variant": "new", "kl_nats": x * (1 + noise * rng.normal()), "forgotten_nats": -x})
            y = a * x + b * x**2
            rows.append({**own, "variant": "old", "kl_nats": x, "forgotten_nats": y * (1 + noise * rng.normal())})
    return Result.of(pd.DataFrame(rows))


def test_a_planted_curve_is_recovered() -> None:
    result = run("forgetting_law", **example(Path()))
    for name, want in (("a", 1.0), ("b", 2.0)):
        assert float(result.data[name]) == pytest.approx(want, abs=0.1)
        assert float(result.data[f"{name}_ci_low"]) <= want + 0.05
    assert float(result.data["r2"]) > 0.99
    (said,) = result.claims
    assert said.is_found and said.effect < 0.1
    assert result.table.query("step == 0")[["kl_nats", "forgotten_nats"]].to_numpy().max() == 0


def test_two_curves_are_not_one() -> None:
    result = run("forgetting_law", forgetting=points(4.0, 0.0), other=points(0.1, 0.0, seed=1))
    assert result.claims[0].answer == "none found"


def test_nothing_moved_one_run_and_one_pair() -> None:
    assert run("forgetting_law", forgetting=points(1.0, 2.0)).claims[0].answer == "cannot be judged"
    assert run("forgetting_law", forgetting=points(1.0, 1.0, far=0.0)).claims[0].answer == "none found"
    alone = points(1.0, 2.0).table.query("step == 0").drop(columns="step")
    with pytest.raises(InputError, match="expected a sweep"):
        run("forgetting_law", forgetting=Result.of(alone))
