"""The stage rule on the published example of the method page, on null curves, on a toy with known answer, on items."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analyses.core import analysis as registry
from analyses.core import claim
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim
from analyses.core.result import Result
from analyses.memory._curves import from_items
from analyses.memory._stage_rule import matched, stage_rule
from analyses.memory._style_control import pool_measures, style_reading
from probe.errors import InputError

ACCURACY = [0.40, 0.55, 0.70, 0.74, 0.745, 0.742, 0.744, 0.70]
PERPLEXITY = [2, 1.8, 1.6, 1.5, 1.55, 1.8, 2.4, 3.0]
EXPECTED = ["under-trained"] * 3 + ["good fit"] * 2 + ["over-memorized"] * 2 + ["over-fit"]


def example(folder) -> dict:
    """For the contract tests."""
    return {"curves": curves()}


def curves(accuracy=ACCURACY, perplexity=PERPLEXITY, step=None, **more) -> pd.DataFrame:
    step = range(len(accuracy)) if step is None else step
    return pd.DataFrame({"step": step, "accuracy": accuracy, "perplexity": perplexity, **{"n": 10**7, **more}})


def told(result: Result) -> dict[str, Claim]:
    return {c.kind: c for c in result.claims}


def analysed(*args, **options) -> Result:
    return registry.get("over_memorization")(*args, **options)


def quantity(result: Result, name: str) -> float:
    rows = result.summary()
    (value,) = rows.loc[rows["quantity"] == name, "value"]
    return value


def test_the_worked_example():
    result = analysed(curves())
    assert result.table["stage"].tolist() == EXPECTED
    assert quantity(result, "onset") == 5
    assert quantity(result, "area") == pytest.approx(0.652325, abs=5e-7)
    assert quantity(result, "lag") == 1
    assert quantity(result, "recommended") == 4
    assert result.table.loc[result.table["feasible"], "step"].tolist() == [2, 3, 4]
    said = told(result)
    assert (said["over-memorized"].answer, said["over-memorized"].step) == (FOUND, 5)
    assert said["over-fit"].answer == NONE, "one checkpoint alone does not last"
    assert claim.sentence(said["ship"]).startswith("Ship step 4, accuracy 0.745; given up for it: +0.00")
    assert said["worse"].answer == NONE


def test_curves_of_nobody_knows_how_many_items_are_not_assessed():
    result = analysed(curves().drop(columns="n"))
    assert set(result.table["stage"]) == {"not assessable"}
    assert {c.answer for c in result.claims} == {UNJUDGED} and "column `n`" in result.claims[0].needs
    assert {"onset", "recommended"}.isdisjoint(result.summary()["quantity"])


def test_flat_runs_with_noise_between_checkpoints_are_seldom_called_anything():
    """ln perplexity with a noise of .06 from checkpoint to checkpoint, accuracy of 128 items with one of .03."""
    found = {"over-memorized": 0, "over-fit": 0, "worse": 0}
    for seed in range(100):
        rng = np.random.default_rng(seed)
        right = rng.binomial(128, np.clip(0.8 + rng.normal(0, 0.03, 12), 0, 1)) / 128
        noisy = curves(right, np.exp(0.5 + rng.normal(0, 0.06, 12)), n=128)
        for one in analysed(noisy).claims:
            if one.kind in found:
                found[one.kind] += one.is_found
    assert max(found.values()) <= 10, found


def test_a_real_rise_beyond_that_noise_is_found():
    rng = np.random.default_rng(1)
    log_ppl = np.r_[np.linspace(1, 0.4, 5), np.linspace(0.45, 0.9, 7)] + rng.normal(0, 0.02, 12)
    said = told(analysed(curves(np.r_[0.3, 0.5, 0.7, [0.8] * 9], np.exp(log_ppl), n=400)))
    assert said["over-memorized"].is_found and 5 <= said["over-memorized"].step <= 8


def test_shipping_says_what_accuracy_is_given_up():
    (said,) = [
        c for c in analysed(curves([0.5, 0.7, 0.85, 0.9], [1.5, 1.6, 1.7, 1.8], n=500)).claims if c.kind == "ship"
    ]
    assert said.effect == pytest.approx(-0.2) and said.high < 0 and said.control == "step 3, the most accurate"
    assert "has not learnt the task" in said.caveat


def test_accuracy_at_its_floor_is_not_judged():
    (said,) = analysed(curves([0.0] * 8, n=128)).claims
    assert (said.kind, said.answer) == ("over-memorized", UNJUDGED) and "floor of 0" in said.why
    guessing = analysed(curves([0.25, 0.26, 0.24, 0.25, 0.25, 0.27, 0.25, 0.25], n=128), floor=0.25).claims
    assert [c.answer for c in guessing] == [UNJUDGED]


def test_groups_are_judged_apart():
    parts = [
        planted([0.5, 0.8, 0.8, 0.8, 0.8, 0.8], lp, seed=s)
        for s, lp in enumerate(([0.6, *[0.4] * 5], [0.6, 0.4, 0.4, 0.5, 0.7, 0.9]))
    ]
    scores, marks = (
        Result.of(
            pd.concat(
                [p[i].table.assign(group=g, item=g + p[i].table["item"]) for p, g in zip(parts, "ab", strict=True)]
            )
        )
        for i in (0, 1)
    )
    result = analysed(None, scores, marks)
    memorized = {c.group: c.answer for c in result.claims if c.kind == "over-memorized"}
    assert memorized == {"a": NONE, "b": FOUND}
    assert set(result.table["group"]) == {"a", "b"} and result.data["onset"].dims == ("group",)


def test_no_rise_no_over_memorization_and_flat_is_good():
    falling = analysed(curves(perplexity=np.linspace(3, 1, 8)))
    assert "over-memorized" not in set(falling.table["stage"])
    assert quantity(falling, "area") == 0
    assert "onset" not in set(falling.summary()["quantity"])  # none found is NaN, never a step
    flat = analysed(curves(accuracy=[0.7] * 8, perplexity=[2.0] * 8))
    assert set(flat.table["stage"]) == {"good fit"}


@pytest.mark.parametrize("factor", [0.01, 3.0, 1e6])
def test_a_constant_factor_of_perplexity_changes_no_stage(factor: float):
    result = analysed(curves(perplexity=np.multiply(PERPLEXITY, factor)))
    assert result.table["stage"].tolist() == EXPECTED
    assert quantity(result, "area") == pytest.approx(0.652325, abs=5e-7)


def test_tolerances_at_their_limits():
    assert "over-memorized" not in set(analysed(curves(), rho=float("inf")).table["stage"])
    assert "over-fit" not in set(analysed(curves(), delta=1.0).table["stage"])


def test_early_rise_is_flagged_not_called_over_memorization():
    result = analysed(curves(accuracy=[0.4, 0.5, 0.9], perplexity=[2.0, 3.0, 1.9]))
    assert "3 checkpoints" in told(result)["over-memorized"].why
    assert result.table["stage"].tolist() == ["under-trained", "under-trained", "good fit"]
    assert result.table["early_ppl_rise"].tolist() == [False, True, False]


def test_steps_are_relabelled_with_the_curves():
    result = analysed(curves(step=np.arange(8) * 100)[::-1])  # row order does not matter either
    assert quantity(result, "onset") == 500
    assert quantity(result, "recommended") == 400
    assert quantity(result, "lag") == 100


def test_m_mode_toy_is_over_memorized_from_the_first_row_above_the_bound():
    """One of m valid rationales takes 1 - eps: accuracy stays 1, perplexity rises, the marginal does not move."""
    m, eps = 4, np.array([0.75, 0.3, 0.1, 0.01, 1e-4])
    nll = -np.log(1 - eps) / m - (m - 1) / m * np.log(eps / (m - 1))
    assert np.exp(nll) == pytest.approx([4.0, 6.1479, 13.1607, 72.2657, 2279.564], rel=1e-5)
    assert nll == pytest.approx([1.386294, 1.816108, 2.577238, 4.280349, 7.731739], abs=1e-6)
    result = analysed(curves(accuracy=[1.0] * 5, perplexity=np.exp(nll)))
    assert result.table["stage"].tolist() == ["good fit"] + ["over-memorized"] * 4
    assert quantity(result, "onset") == 1  # eps = .3
    share = np.stack([1 - eps, *[eps / (m - 1)] * (m - 1)], axis=1)
    marginal, entropy = pool_measures(np.log(share))
    assert marginal == pytest.approx(np.log(m))
    assert entropy == pytest.approx([1.38629, 0.94045, 0.43494, 0.06699, 0.00113], abs=1e-5)


def test_style_readings():
    assert style_reading(0.3, 0.0, 0.0, 0.0, 0.0) == "style shift"
    assert style_reading(0.3, 0.1, 0.3, 0.0, -0.4) == "concentration on few valid rationales"
    assert style_reading(0.3, 0.3, 0.3, 0.3, 0.0).startswith("mass leaves the pool")
    assert style_reading(-0.3, 0.0, 0.0, 0.0, 0.0) == "no rise of perplexity to explain"


def test_runs_are_compared_at_equal_accuracy_not_at_equal_epoch():
    fast = curves([0.2, 0.6, 0.8], [2.0, 3.0, 4.0], run="fast")
    slow = curves([0.2, 0.4, 0.6, 0.7, 0.8], [2.0, 2.0, 2.0, 2.0, 2.0], run="slow")
    result = analysed(pd.concat([fast, slow]))
    value = result.data["matched_log_ppl_difference"].sel(arm="fast - slow at equal accuracy")
    assert 0 < float(value) < np.log(2)
    same = analysed(pd.concat([slow, slow.assign(run="again")]))
    assert float(same.data["matched_log_ppl_difference"][0]) == pytest.approx(0)
    assert set(result.table["run"]) == {"fast", "slow"}


def test_matched_reads_each_run_where_it_first_passes_the_level():
    a = matched(np.array([0.0, 1.0]), np.array([0.0, 10.0]), np.array([0.0, 1.0, 0.5]), np.array([5.0, 6.0, 9.0]), 2)
    assert a.tolist() == [[0.5, 5.0, 5.5], [1.0, 10.0, 6.0]]
    falling = matched(np.array([3.0, 1.0]), np.array([0.0, 2.0]), np.array([3.0, 2.0]), np.array([0.0, 4.0]), 1)
    assert falling.tolist() == [[2.0, 1.0, 4.0]]
    assert len(matched(np.array([0.0, 0.1]), np.zeros(2), np.array([0.5, 0.9]), np.zeros(2))) == 0


def test_foreign_style_is_not_assessable():
    result = analysed(curves(), style="foreign")
    assert result.claims[0].answer == UNJUDGED and "style" in result.verdict
    assert set(result.table["stage"]) == {"not assessable"}
    assert {"onset", "recommended"}.isdisjoint(result.summary()["quantity"])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (curves().drop(columns="perplexity"), "no column"),
        (curves().head(1), "at least 2"),
        (curves(step=[0] * 8), "twice"),
        (curves(accuracy=np.multiply(ACCURACY, 100)), "not percent"),
        (curves(perplexity=[0.0] * 8), "above 0"),
        (curves(accuracy=[np.nan] * 8), "finite"),
        (curves(accuracy=["x"] * 8), "finite"),
    ],
)
def test_bad_curves_are_refused_with_a_reason(bad: pd.DataFrame, message: str):
    with pytest.raises(InputError, match=message):
        analysed(bad)


def test_neither_curves_nor_results_is_an_error():
    with pytest.raises(InputError, match="either curves"):
        analysed()
    with pytest.raises(InputError, match="delta"):
        analysed(curves(), delta=2.0)


def planted(accuracy, log_ppl, n=200, seed=0, unparsed=0.0) -> tuple[Result, Result]:
    """Per-item results whose curves are known: items differ, the shift per step is shared."""
    rng = np.random.default_rng(seed)
    ease, base = rng.random(n), rng.normal(0, 0.1, n)
    scores, marks = [], []
    for step, (a, lp) in enumerate(zip(accuracy, log_ppl, strict=True)):
        for i in range(n):
            shared = {"item": f"i{i}", "group": "all", "step": step * 10}
            nll = 20 * (lp + base[i] + rng.normal(0, 0.02))
            scores.append(
                {**shared, "mask": "answer", "answer_kind": "gold_rationale", "nll_nats": nll, "n_tokens": 20}
            )
            lost = rng.random() < unparsed
            status = "unparsed" if lost else "correct" if ease[i] < a else "wrong"
            correct = np.nan if lost else float(ease[i] < a)
            marks.append({**shared, "decoding": "greedy", "sample": 0, "status": status, "correct": correct})
    return Result.of(pd.DataFrame(scores)), Result.of(pd.DataFrame(marks))


def test_planted_onset_is_recovered_with_bands_and_the_null_is_not():
    result = analysed(None, *planted([0.5, 0.8, 0.8, 0.8], [0.6, 0.4, 0.4, 0.7]))
    assert result.table["stage"].tolist() == ["under-trained", "good fit", "good fit", "over-memorized"]
    rows = result.summary().set_index("quantity")
    assert rows.loc["onset", "value"] == rows.loc["onset", "ci_low"] == rows.loc["onset", "ci_high"] == 30
    assert rows.loc["area", "ci_low"] < 0.3 < rows.loc["area", "ci_high"]
    assert rows.loc["onset_share", "value"] == 1.0
    assert (rows.loc[["onset", "area", "recommended"], "n"] == 200).all()
    null = analysed(None, *planted([0.5, 0.8, 0.8, 0.8], [0.6, 0.4, 0.4, 0.4]))
    assert "over-memorized" not in set(null.table["stage"])
    assert null.summary().set_index("quantity").loc["onset_share", "value"] < 0.05


def answered(accuracy, n=128, seed=0) -> pd.DataFrame:
    """Per-item correctness of a run whose true accuracy is given; each checkpoint errs on items of its own."""
    rng = np.random.default_rng(seed)
    right = rng.random((n, len(accuracy))) < np.asarray(accuracy)
    return pd.DataFrame(right.astype(float), columns=np.arange(len(accuracy)) * 10)


def test_a_run_of_constant_accuracy_is_good_fit_throughout():
    """Eleven checkpoints of 128 items at .97: one standard error below the best would call half of them fallen."""
    labelled, naive = [], []
    for seed in range(40):
        correct = answered([0.97] * 11, seed=seed)
        found = from_items(correct * 0 + 8.0, correct * 0 + 20.0, correct, seed=seed, draws=400)
        labelled.append(set(stage_rule(found.accuracy, found.log_ppl, delta=found.tolerance(0.01)).stage))
        spread = found.accuracy_draws - found.accuracy_draws[:, [int(found.accuracy.argmax())]]
        naive.append(np.mean(found.accuracy < found.accuracy.max() - np.maximum(0.01, spread.std(0))))
    assert sum(stages != {1} for stages in labelled) <= 6  # binomial(40, .05): 7 or more in .3 % of runs
    assert np.mean(naive) > 0.4


def test_a_real_fall_of_accuracy_is_still_seen():
    correct = answered([0.95] * 6 + [0.75] * 2)
    found = from_items(correct * 0 + 8.0, correct * 0 + 20.0, correct, seed=0)
    assert 0.05 < found.tolerance(0.01) < 0.2  # what chance makes of 128 items, and less than the fall
    assert stage_rule(found.accuracy, found.log_ppl, delta=found.tolerance(0.01)).stage[-2:].tolist() == [3, 3]
    assert found.tolerance(0.5) == 0.5  # delta itself where it is the larger
    assert analysed(curves(), delta=0.02).table["delta"].unique().tolist() == [0.02]  # bare curves have no items


def test_unparsed_answers_are_missing_and_said_so():
    perplexity, evaluate = planted([0.8, 0.8], [0.4, 0.4], unparsed=0.2)
    missing = analysed(None, perplexity, evaluate)
    assert any("left out" in w for w in missing.warnings)
    assert missing.table["accuracy"].min() > 0.7
    strict = analysed(None, perplexity, evaluate, unparsed="wrong")
    assert strict.table["accuracy"].max() < 0.7


def test_results_of_one_checkpoint_are_refused():
    perplexity, evaluate = planted([0.8, 0.8], [0.4, 0.4], n=5)
    alone = Result.of(perplexity.table.drop(columns="step"))
    with pytest.raises(InputError, match="sweep perplexity"):
        analysed(None, alone, evaluate)
    with pytest.raises(InputError, match="at least 2 checkpoints"):
        analysed(None, Result.of(perplexity.table.query("step == 0")), evaluate)


def test_curves_through_the_command_line(tmp_path, capsys, monkeypatch):
    import json

    from apps.command.cli import main

    path = tmp_path / "curves.csv"
    curves().to_csv(path, index=False)
    with pytest.raises(SystemExit) as left:
        main(["run", "over_memorization", "--curves", str(path), "--results", str(tmp_path / "r"), "--json"])
    assert left.value.code == 0
    line = json.loads(capsys.readouterr().out)
    stages = {row["step"]: row["stage"] for row in line["summary"] if row["quantity"] == "stage_share"}
    assert list(stages.values()) == EXPECTED
    found = {
        row["quantity"]: row["value"] for row in line["summary"] if row["quantity"] in ("onset", "area", "recommended")
    }
    assert found == pytest.approx({"onset": 5, "area": 0.652325, "recommended": 4}, abs=5e-7)


def test_the_rule_is_vectorised_over_draws():
    both = stage_rule(np.array([ACCURACY, [0.7] * 8]), np.log([PERPLEXITY, [2.0] * 8]))
    assert both.onset.tolist() == [5, -1]
    assert both.recommended.tolist() == [4, 0]


def test_figures_show_stages_and_the_checkpoint_to_ship():
    from analyses.memory.over_memorization import figures

    drawn = figures(analysed(curves()))
    assert set(drawn) == {"accuracy", "log_ppl", "om_index"}
    assert len(drawn["log_ppl"].layout.shapes) == 4
    named = {t.name: t for t in drawn["log_ppl"].data}
    assert {"good fit", "over-memorized", "ship"} <= set(named)
    (bound,) = [t for name, t in named.items() if name and name.startswith("1.1 ×")]
    assert list(bound.y) == pytest.approx(np.log(1.1 * np.minimum.accumulate(PERPLEXITY)))
    assert not drawn["log_ppl"].layout.annotations
