"""The first screen answers: cards, curves above the fold, names at the ends of lines, runs chosen beside the page."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim
from analyses.core.figures.labels import apart, shortened
from apps.catalog import Entry
from apps.drawn import cards, curves, look, overview, panels, rail
from probe import RunLog
from tests.apps.conftest import HOSTILE
from tests.apps.test_browser import ready


def said(run: str, kind: str, answer: Any = FOUND, **more: Any) -> cards.Said:
    why = {"why": "3 items", "needs": "8"} if answer == UNJUDGED else {}
    return run, "gains", Claim(kind, answer, "answers come from memory", **why, **more)


def test_colour_means_good_bad_place_or_unknown_and_runs_of_one_answer_share_a_card():
    three = [said("a", "worse"), said("b", "worse", step=12.0), said("c", "worse", NONE), said("a", "place", place="x")]
    made = cards.cards([*three, said("d", "memory", UNJUDGED)])
    assert [(c.tone, c.title) for c in made] == [
        (look.BAD, "Got worse"),
        (look.GOOD, "Did not get worse"),
        (look.PLACE, "In x"),
        (look.UNKNOWN, "Not judged: answers come from memory"),
    ]
    assert made[0].quiet == "a · b since step 12" and made[3].quiet == "d · 3 items"
    assert cards.verdict([made[0].said[0][2], made[2].said[0][2]]) == look.BAD
    assert cards.verdict([]) == look.UNKNOWN == cards.verdict([made[3].said[0][2]])


def test_a_card_says_one_number_and_keeps_its_interval_for_who_asks():
    one = said("a", "memory", effect=0.5, low=0.4, high=0.6, estimand="gain")
    (card,) = cards.cards([one])
    assert card.quiet == "a · +0.500: gain" and "[+0.400, +0.600]" in cards.row([card])
    hostile = cards.row(cards.cards([said(HOSTILE, "memory", estimand=HOSTILE, effect=1.0)]))
    assert "<script>" not in hostile


def test_a_card_says_of_each_run_what_is_its_own():
    """One place or step is never told of runs that have another."""
    early, late = (f"the MLP output of layer {n} from tuned into base" for n in (1, 5))
    places = [said("late", "place", place=late, effect=4.8), said("early", "place", place=early, effect=4.9)]
    (card,) = cards.cards(places)
    assert card.title == "Where: a place for each run"
    assert cards.cards(places[:1])[0].title == "In the MLP output of layer 5"
    assert card.quiet.startswith("early: MLP output of layer 1 · late: MLP output of layer 5 · most in early: +4.9")

    def ship(run: str, step: int, group: str | None) -> cards.Said:
        return run, "over_memorization", Claim("ship", FOUND, f"ship step {step}, accuracy 0.9", group=group)

    (card,) = cards.cards([ship("a", 140, "x"), ship("a", 20, "y"), ship("b", 6, None)])
    assert (card.title, card.quiet) == ("Ship: a step for each run", "b @ 6 · a @ 20/140 by group")
    assert cards.cards([ship("b", 6, None)])[0].title == "Ship b @ 6"
    assert cards.cards([said(f"r{n}", "worse") for n in range(9)])[0].quiet == "r0 · r1 · r2 · r3 · and 5 more"


def test_every_question_has_a_card_at_first_sight_whatever_else_was_found():
    steered = "entropy falls most at position 0, where 'ans' is sampled"
    entropy = ("a", "entropy_change", Claim("place", FOUND, steered, place="position 0"))
    loud = [said("a", kind) for kind in ("worse", "over-fit", "over-memorized", "memory", "agreement", "law")]
    made = [*cards.cards([*loud, entropy]), *cards.missing(["gains", "entropy_change", "cross_patching"])]
    titles = [c.title for c in cards.first(made)]
    assert titles[:2] == ["Got worse", "Over-fit"] and len(titles) == cards.FIRST
    assert {"Answers from memory", "Entropy falls most at position 0", "2 questions not assessed"} < set(titles)
    others = [name for name, _ in cards.EXPECTED.values()]
    assert cards.missing(others[:-1])[0].title == "Not assessed: turning it off" and not cards.missing(others)


def test_a_panel_of_one_group_has_its_own_checkpoint_starred_and_stages_shaded():
    rows = pd.DataFrame({"step": [0, 10] * 2, "group": ["a", "a", "b", "b"], "value": [0.1, 0.9, 0.8, 0.2]})
    rows = rows.assign(run="r", panel="accuracy", quantity="accuracy", unit="1")
    table = rows[["group", "step"]].assign(stage=["x", "y", "x", "z"], recommended=[False, True, True, False])
    for group, step, value in (("a", 10, 0.9), ("b", 0, 0.8)):
        views = panels.panels(rows[rows["group"] == group])
        panels.staged(views, "r", table, "#000000")
        ((figure, _),) = views.values()
        (star,) = [t for t in figure.data if t.name == "ship r"]
        assert (star.x[0], star.y[0], len(figure.layout.shapes)) == (step, value, 2)
    views = panels.panels(rows)
    panels.staged(views, "r", table, "#000000")
    ((figure, _),) = views.values()
    stars = {(t.x[0], t.y[0]) for t in figure.data if t.name == "ship r"}
    assert stars == {(10, 0.9), (0, 0.8)} and not figure.layout.shapes


@pytest.mark.parametrize("places", [[5.0, 5.0, 5.0], [0.0, 100.0], [95.0, 99.0, 100.0], [3.0, 1.0, 2.0], []])
def test_names_at_ends_never_cover_each_other_and_keep_their_order(places):
    moved = apart(places, 15, 100)
    order = sorted(range(len(places)), key=lambda i: places[i])
    assert all(moved[b] - moved[a] >= 15 for a, b in pairwise(order))
    assert all(m <= 100 for m in moved)
    assert apart([0.0, 50.0], 15, 100) == [0.0, 50.0]


def test_long_names_are_cut_where_they_still_differ():
    seeds = [f"grpo-math-lr1e-6-seed{n}" for n in (0, 1)]
    assert set(shortened(seeds).values()) == {"…h-lr1e-6-seed0", "…h-lr1e-6-seed1"}
    assert set(shortened(["first-" + "x" * 20, "second-" + "x" * 20]).values()) == {
        "first-xxxxxxxx…",
        "second-xxxxxxx…",
    }
    alike = ["a" * 20 + n + "b" * 20 for n in "12"]
    assert shortened(alike) == {n: n for n in alike}


def rows(runs: tuple[str, ...], steps: tuple[int, ...] = (0, 10, 20)) -> pd.DataFrame:
    return pd.DataFrame(
        {"run": r, "panel": "accuracy", "quantity": "accuracy", "group": "g", "step": s, "value": i + s / 10}
        for i, r in enumerate(runs)
        for s in steps
    ).assign(unit="1", ci_low=0.0, ci_high=9.0, n=5)


def test_seeds_are_a_mean_and_a_band_at_steps_all_of_them_have():
    two = pd.concat([rows(("x-seed0", "y")), rows(("x-seed1",), (0, 20)).assign(value=4.0)])
    found = panels.together(two, {run: panels.stem(run, r"seed\d+") for run in ("x-seed0", "x-seed1", "y")})
    seeds = found[found["run"] == "x × 2"].sort_values("step")
    assert seeds[["step", "value", "ci_low", "ci_high"]].values.tolist() == [[0, 2, 0, 4], [20, 3, 2, 4]]
    assert len(found[found["run"] == "y"]) == 3
    assert panels.stem("seed3", r"seed\d+") == "seed3" and panels.stem("a", "(") == "a"


def recorded(**record: Any) -> Entry:
    return Entry(Path(), {"analysis": "evaluate", "key": "0", **record})


def test_runs_are_grouped_by_what_their_records_agree_in():
    low, high = ({"options": {"kl_weight": w, "seed": 0}} for w in (0.1, 0.2))
    of = {"a": [recorded(**low)], "b": [recorded(**low)], "c": [recorded(**high)]}
    assert overview.fields(of) == {"kl weight": {"a": "0.1", "b": "0.1", "c": "0.2"}}  # one seed groups nothing
    assert overview.fields({**of, "b": [recorded(**low), recorded(**high)]}) == {}  # b has no value of its own
    row = rail.Row("a", "#000000", True, (), "good", "", "kl weight 0.1")
    shown = rail.runs([row, replace(row, name="b"), replace(row, name="c", group="<b>")])
    assert shown.count("kl weight 0.1") == 1 and "&lt;b&gt;" in shown and "<b>" not in shown


def test_no_panel_has_more_than_six_lines_and_smoothing_drops_what_it_does_not_know():
    drawn = panels.panels(rows(tuple(f"run-{n}" for n in range(14))), smoothing=0.9)
    lines = [[t for t in figure.data if t.mode and "lines" in t.mode] for figure, _ in drawn.values()]
    assert [len(of) for of in lines] == [6, 6, 2]
    assert all(not t.fill for of in lines for t in of)
    assert [round(float(y), 3) for y in lines[0][0].y] == [0.0, 0.526, 1.070]  # as TensorBoard's debiased mean


def test_a_curve_may_run_along_tokens_as_its_log_counts_them():
    log = RunLog.of([(10, {"num_tokens": 100.0, "epoch": 0.5}), (20, {"num_tokens": 300.0, "epoch": 0.4})])
    counts = {"a": curves.axes(log)}
    assert counts == {"a": {"tokens": {0: 0.0, 10: 100.0, 20: 300.0}}}  # an epoch does not fall: no axis
    found = panels.along(rows(("a", "b"), (0, 15, 99)), counts, "tokens")
    assert found[["run", "step", "tokens"]].values.tolist() == [["a", 0, 0.0], ["a", 15, 200.0]]
    ((figure, part),) = panels.panels(found, x="tokens").values()
    assert panels.place_of(figure, part, {"curve_number": 1, "x": 200.0}, "tokens")["step"] == 15
    assert panels.along(found, {}, "tokens").empty and len(panels.along(found, {}, "step")) == 2


def test_every_run_chosen_has_a_curve_of_each_kind_it_has():
    some = pd.concat([rows(("a", "b")), rows(("c",)).assign(panel="accuracy · final")])
    assert panels.wanted(some, ["^accuracy"]) == ["accuracy", "accuracy · final"]
    many = pd.concat([rows(("a", "b")).assign(panel=p, group=g) for p in ("accuracy", "ppl", "kl") for g in "abcdef"])
    assert panels.wanted(many, ["accuracy", "ppl", "kl"]) == ["accuracy", "ppl"]  # twelve panels


def test_a_small_curve_has_gaps_and_none_of_a_single_point():
    assert rail.sparkline([1.0], "#000000") == "" == rail.sparkline([float("nan"), 1.0], "#000000")
    assert rail.sparkline([0.0, 1.0, float("nan"), 1.0, 2.0], "#000000").count("<polyline") == 2


@pytest.mark.browser
def test_the_first_screen_has_answers_and_a_figure_and_the_rail_chooses_runs(store, serve, watched):
    page = watched(serve(store)).page
    page.set_viewport_size({"width": 1280, "height": 800})
    ready(page)
    page.locator(".card").first.wait_for()
    top = page.locator(".js-plotly-plot").first.bounding_box()
    assert page.locator(".card").first.bounding_box()["y"] < top["y"] and top["y"] + top["height"] < 800
    assert page.title() == "Run · posttrain-probe"
    page.wait_for_timeout(1500)
    page.mouse.move(top["x"] + 120, top["y"] + 120)
    page.wait_for_function("[...document.querySelectorAll('.probe-guide')].some(l => l.style.display === 'block')")
    page.get_by_role("button", name="low", exact=True).click()
    page.wait_for_function("location.search.includes('run=low')")
    page.get_by_role("button", name="show high").click()
    page.wait_for_function("!location.search.includes('run=low') || location.search.includes('run=high')")
    page.locator(".card summary").first.click()
    assert page.locator(".card dl").first.is_visible()
