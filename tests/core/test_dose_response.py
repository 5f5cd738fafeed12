"""Dose-response: slopes of known lines, ranks among placebos, and no claim without all three conditions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from analyses.core.claim import NONE, UNJUDGED, Claim, sentence
from analyses.steering._dose_response import dose_response, matched_pairs
from analyses.steering._selective import claims

ALPHAS = (0.0, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0)


def rows(
    slopes: dict[tuple[str, str], float], *, draws: int = 20, noise: float = 0.0, n: int = 12, above: float = 1.0
) -> pd.DataFrame:
    """A line y = slope x (times `above` for x > 0) per arm and group; each item with a level of its own."""
    rng = np.random.default_rng(0)
    table: list[dict[str, object]] = []
    for (arm, group), slope in slopes.items():
        for draw in range(draws if arm != "treated" else 1):
            tilt = rng.normal(0, 0.001) if arm != "treated" else 0.0
            for i in range(n):
                own = slope + tilt + rng.normal(0, noise)
                for alpha in ALPHAS:
                    y = own * (alpha - 1) * (above if alpha > 1 else 1.0)
                    named = {
                        "layer": 2,
                        "arm": arm,
                        "draw": draw,
                        "alpha": alpha,
                        "item": f"{group}{i}",
                        "group": group,
                    }
                    table.append({**named, "answer_kind": "given", "metric": -0.1 * i + y})
    return pd.DataFrame(table)


def test_a_line_has_its_slope_on_both_sides() -> None:
    data = dose_response(rows({("treated", "a"): 0.02}), treatment="treated", targets=("a",))
    np.testing.assert_allclose(data["slope"], 0.02)
    assert np.isnan(data["slope_ci_low"]).all(), "all items agree: too few differ to have an interval"
    assert sum((a - 1) ** 2 for a in ALPHAS) == pytest.approx(7.14)
    np.testing.assert_allclose(data["effect"].sel(alpha=3.0), 0.04)


def test_the_two_sides_are_told_apart() -> None:
    data = dose_response(rows({("treated", "a"): 0.5}, above=0.0), treatment="treated", targets=("a",))
    slope = data["slope"].squeeze()
    np.testing.assert_allclose(slope.sel(variant="below"), 0.5)
    np.testing.assert_allclose(slope.sel(variant="above"), 0.0, atol=1e-12)
    below = sum((a - 1) ** 2 for a in ALPHAS if a < 1)
    np.testing.assert_allclose(slope.sel(variant="joint"), 0.5 * below / 7.14)


def claimed(slopes: dict[tuple[str, str], float], **options: float) -> tuple[xr.Dataset, list[Claim]]:
    data = dose_response(rows(slopes, noise=0.02, **options), treatment="treated", targets=("a",))  # type: ignore[arg-type]
    return data, [c for c in claims(data, "treated", ("a",), ("given",)) if c.is_found]


def test_a_selective_effect_is_claimed_with_its_side() -> None:
    data, found = claimed(
        {("treated", "a"): 0.5, ("treated", "b"): 0.0, ("random", "a"): 0.0, ("random", "b"): 0.0}, above=0.0
    )
    assert len(found) == 1
    assert sentence(found[0]).startswith("Lowering layer 2 changes the answers of a and spares the others: +0.5")
    np.testing.assert_allclose(data["placebo_p"].sel(arm="random", group="a", variant="below"), 1 / 21)
    assert data["p_max_t"].sel(group="a", alpha=0.5).item() < 0.01
    assert data["specificity"].sel(arm="treated", group="b", variant="below").item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    "slopes",
    [
        {("treated", "a"): 0.5, ("treated", "b"): 0.5, ("random", "a"): 0.0, ("random", "b"): 0.0},  # not specific
        {("treated", "a"): 0.5, ("treated", "b"): 0.3, ("random", "a"): 0.0, ("random", "b"): 0.0},  # b is not spared
        {("treated", "a"): 0.5, ("treated", "b"): 0.0, ("random", "a"): 0.5, ("random", "b"): 0.0},  # placebo as good
        {("treated", "a"): 0.0, ("treated", "b"): 0.0, ("random", "a"): 0.0, ("random", "b"): 0.0},  # nothing
        {("treated", "a"): 0.5, ("random", "a"): 0.0},  # no control group
        {("treated", "a"): 0.5, ("treated", "b"): 0.0},  # no placebo
    ],
)
def test_each_condition_is_needed(slopes: dict[tuple[str, str], float]) -> None:
    assert claimed(slopes)[1] == []


def test_a_control_group_that_had_less_to_lose_is_no_control() -> None:
    """Group b moves less, but none of its items was as likely as those of a: nothing can be claimed."""
    slopes = {("treated", "a"): 0.5, ("treated", "b"): 0.1, ("random", "a"): 0.0, ("random", "b"): 0.0}
    table = rows(slopes, noise=0.02)
    table.loc[table["group"] == "b", "metric"] -= 3.0
    data = dose_response(table, treatment="treated", targets=("a",))
    assert bool((data["specificity_ci_low"].sel(arm="treated", group="b", variant="below") > 0).all())
    assert data["matched_specificity"].isnull().all()
    (one,) = claims(data, "treated", ("a",), ("given",))
    assert one.answer == UNJUDGED and one.why == "no control item is as likely as the targets"
    table = rows(slopes, noise=0.02)
    data = dose_response(table, treatment="treated", targets=("a",))
    assert data["matched_specificity"].sel(arm="treated", group="b", variant="below").item() == pytest.approx(
        0.4, abs=0.05
    )
    assert len(claims(data, "treated", ("a",), ("given",))) == 2


def test_pairs_are_nearest_in_the_unaltered_metric_and_close() -> None:
    index = pd.MultiIndex.from_tuples(
        [(f"a{i}", "a", "given") for i in range(7)] + [(f"b{i}", "b", "given") for i in range(7)],
        names=["item", "group", "answer_kind"],
    )
    unaltered = pd.Series(
        [-0.1 * i for i in range(6)] + [-9.0] + [-0.1 * i - 0.01 for i in range(7)], index, name="unaltered"
    )
    pairs = matched_pairs(unaltered, ["a"], "b", "given")
    assert pairs == [(f"a{i}", f"b{i}") for i in range(6)], "a6 has no near one"
    assert matched_pairs(unaltered.drop("a0", level="item"), ["a"], "b", "given") == [], "five pairs are too few"
    few = unaltered.drop([f"b{i}" for i in range(1, 7)], level="item")
    assert matched_pairs(few, ["a"], "b", "given") == [], "one control does not serve six targets"


def test_the_p_of_nothing_found_is_that_of_the_condition_that_failed() -> None:
    """Targets move clearly, beyond placebos, but by the largest statistic over doses it could be chance."""
    slopes = {("treated", "a"): 0.5, ("treated", "b"): 0.0, ("random", "a"): 0.0, ("random", "b"): 0.0}
    data = dose_response(rows(slopes, noise=0.02), treatment="treated", targets=("a",))
    data["p_max_t"] = data["p_max_t"].where(data["p_max_t"].isnull(), 0.3)
    (one,) = claims(data, "treated", ("a",), ("given",))
    assert one.answer == NONE and one.p == pytest.approx(0.3)


def test_few_draws_can_never_be_enough() -> None:
    slopes = {("treated", "a"): 0.5, ("treated", "b"): 0.0, ("random", "a"): 0.0, ("random", "b"): 0.0}
    data, found = claimed(slopes, draws=10)
    assert found == []
    assert float(data["placebo_p"].min()) == pytest.approx(1 / 11)


def test_a_negative_slope_is_claimed_as_such() -> None:
    slopes = {("treated", "a"): -0.5, ("treated", "b"): 0.0, ("random", "a"): 0.0, ("random", "b"): 0.0}
    assert all("others: -0.5" in sentence(claim) for claim in claimed(slopes)[1])
    assert len(claimed(slopes)[1]) == 2


def test_a_treatment_drawn_like_its_placebos_is_seldom_selective_over_many_layers() -> None:
    """Targets four times as fragile as the others, at each of eight layers; nothing is special about the treatment."""
    found = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        parts = []
        for layer in range(8):
            size = 0.3 + 0.1 * rng.normal()
            table = rows(
                {("treated", "a"): size, ("treated", "b"): size / 4, ("random", "a"): 0.3, ("random", "b"): 0.075},
                noise=0.02,
            )
            drawn = {d: 0.1 * rng.normal() for d in range(20)}
            is_placebo = table["arm"] == "random"
            extra = table["draw"].map(drawn) * (table["alpha"] - 1) * np.where(table["group"] == "a", 1.0, 0.25)
            table["metric"] += np.where(is_placebo, extra, 0.0)
            parts.append(table.assign(layer=layer))
        data = dose_response(pd.concat(parts), treatment="treated", targets=("a",))
        found += any(c.is_found for c in claims(data, "treated", ("a",), ("given",)))
    assert found <= 2
