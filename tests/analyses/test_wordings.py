"""Paired differences between wordings of one problem."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from analyses.answers.wordings import wordings
from analyses.core.result import Result
from analyses.core.running.run import run
from probe.errors import InputError


def example(folder: Path) -> dict[str, Any]:
    return {"evaluate": answered()}


def answered(lost: int = 4, n: int = 10, unparsed: int = 0) -> Result:
    """Problems right as written, of which `lost` are wrong as a story; `unparsed` of these have no readable answer."""
    rows = []
    for p in range(n):
        for variant in ("", "story"):
            status = "correct" if not variant or p >= lost else "unparsed" if p < unparsed else "wrong"
            rows.append({"item": f"p{p}{'/story' if variant else ''}", "problem": f"p{p}" if variant else None,
                         "variant": variant or None, "group": "g", "answer_kind": "given", "decoding": "greedy",
                         "sample": 0, "status": status})  # fmt: skip
    return Result.of(pd.DataFrame(rows), xr.Dataset())


def cell(of: Result, quantity: str, **at: str) -> float:
    return float(of.data[quantity].sel(**at).squeeze())


def test_a_drop_is_counted_problem_by_problem() -> None:
    made = wordings(answered(16, 40, unparsed=2))
    assert cell(made, "accuracy", variant="as written") == 1.0
    assert cell(made, "difference", variant="story") == pytest.approx(-0.4)
    low, high = (cell(made, f"difference_ci_{side}", variant="story") for side in ("low", "high"))
    assert -0.65 < low < -0.4 < high < -0.15
    assert cell(made, "mcnemar_p", variant="story") == pytest.approx(2 * 0.5**16)
    assert (cell(made, "all_right"), cell(made, "any_right")) == (0.6, 1.0)


def test_the_same_answers_differ_by_nothing() -> None:
    made = wordings(answered(lost=0))
    assert cell(made, "difference", variant="story") == cell(made, "difference_ci_low", variant="story") == 0.0
    assert cell(made, "mcnemar_p", variant="story") == 1.0


def test_a_reference_by_name_turns_the_sign_and_a_lonely_wording_is_told() -> None:
    assert cell(wordings(answered(), reference_wording="story"), "difference", variant="as written") == pytest.approx(
        0.4
    )
    some = answered()
    fewer = Result.of(some.table.drop(index=0), some.data)
    made = wordings(fewer)
    assert made.warnings == ["1 problem(s) without the wording 'as written' beside: p0"]
    assert int(made.data["difference_n"].sel(variant="story").squeeze()) == 9
    with pytest.raises(InputError, match="the wordings are"):
        wordings(answered(), reference_wording="poem")
    with pytest.raises(InputError, match="column `variant`"):
        wordings(Result.of(some.table.drop(columns="variant"), some.data))


def test_shares_of_samples_have_no_flips() -> None:
    table = answered().table.assign(decoding="sampled")
    twice = pd.concat([table, table.assign(status="wrong", sample=1)])
    made = wordings(Result.of(twice, xr.Dataset()))
    assert cell(made, "difference", variant="story") == pytest.approx(-0.2)
    assert np.isnan(cell(made, "mcnemar_p", variant="story"))


def test_a_log_of_wordings_needs_no_prompts(tmp_path: Path) -> None:
    rows = [{"id": f"p{n}", "variant": v, "response": "42" if n > 3 or not v else "41", "gold": "42"}
            for n in range(8) for v in ("", "story")]  # fmt: skip
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    made = wordings(run("evaluate", log=str(tmp_path / "log.jsonl")))
    assert cell(made, "difference", variant="story") == pytest.approx(-0.5)
    assert set(made.table["problem"]) == {f"p{n}" for n in range(8)}
