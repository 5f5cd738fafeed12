"""What fits into a time: items first, then layers, and what is left out in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from analyses.core.analysis import checked_options, get
from analyses.core.cost.budget import Cut, Make, fitted, seconds_of, total
from analyses.core.cost.estimates import cost
from analyses.core.cost.plan import Plan, Rates
from analyses.core.work import Case, Size
from apps.command.cli import app
from probe import InputError
from tests import tiny
from tests.core.test_cost import PROMPTS, _case

RATES = Rates(1e9, 1e9, 1e9)


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("1h30m", 5400), ("90s", 90), ("45 m", 2700), ("12", 12), ("0.5h", 1800)]
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "2x", "-1h", "0", "h2"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected a time"):
        seconds_of(text)


def planned(name: str, n: int = 400) -> tuple[Make, list[int]]:
    """A plan of `n` items by the closed form, and the items that were asked for."""
    of, asked = get(name), list[int]()

    def make(items: int | None, layers: tuple[int, ...] | None) -> Plan:
        asked.append(items or n)
        options = checked_options(of, {"layers": layers} if layers else {})
        case = Case(_size(), 2, 40, 10, 50, items or n, options)
        return Plan(name, cost(of, case), 1, case.n_items, case.tokens, RATES, 1e12, case.n_layers)

    return make, asked


def _size() -> Size:
    return _case().size


def cut_of(name: str, share: float) -> Cut:
    make, _ = planned(name)
    return fitted(get(name), share * total(make(None, None)), make)


def test_all_of_it_where_there_is_time() -> None:
    cut = cut_of("divergence", 1.01)
    assert cut.left_out == [] and cut.options == "" and cut.items == 400


def test_items_are_left_out_in_proportion_and_the_plan_is_within_the_budget() -> None:
    make, _ = planned("divergence")
    budget = 0.5 * total(make(None, None))
    cut = fitted(get("divergence"), budget, make)
    assert 190 <= cut.items <= 200 and cut.layers is None
    assert total(cut.plan) <= budget < total(make(cut.items + 1, None))
    assert cut.left_out == [f"{400 - cut.items} of 400 items (the last ones)"]
    assert cut.options == f"--limit {cut.items}"


def test_layers_are_left_out_where_too_few_items_would_be_left() -> None:
    make, _ = planned("cross_patching")
    few = fitted(get("cross_patching"), 0.1 * total(make(None, None)), make)
    assert few.layers is not None and few.n_layers - 1 in few.layers
    assert few.items > 40  # with all layers a tenth would be left
    assert "layers" in few.left_out[1] and "--layers" in few.options


def test_a_time_in_which_nothing_fits_is_refused() -> None:
    make, _ = planned("divergence")
    with pytest.raises(InputError, match="one item takes"):
        fitted(get("divergence"), 1e-9, make)


def test_the_command_says_what_to_ask_for(tmp_path: Path) -> None:
    series = tiny.series(tmp_path / "run", (0, 10), num_hidden_layers=6, hidden_size=64, intermediate_size=160)
    file = tmp_path / "items.jsonl"
    file.write_text(
        "".join(json.dumps({"id": i.id, "prompt": i.prompt, "answer": i.answer}) + "\n" for i in PROMPTS.items)
    )
    words = ["plan", "perplexity", "--checkpoints", str(series), "--prompts", str(file), "--budget"]
    shown = CliRunner().invoke(app, [*words, "10h"], catch_exceptions=False).output
    assert "budget   10h: all of it fits" in shown
    told = json.loads(CliRunner().invoke(app, [*words, "10h", "--json"], catch_exceptions=False).output)
    assert told["left_out"] == []
