"""The runner: same inputs same key, upstream results by key or by inputs, never the latest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from analyses.core.result import Result
from analyses.core.running.run import run
from analyses.core.running.sweep import join
from analyses.core.store.store import Store
from probe import Item, Prompts
from probe.errors import InputError

PROMPTS = Prompts((Item("a", "2 + 2", "4"), Item("b", "one two three", "6")))
OTHER = Prompts((Item("a", "9 + 9", "18"), Item("b", "one two three", "6")))


def test_the_second_run_is_read_from_the_store(toys: list[str], tmp_path: Path) -> None:
    first = run("prompt_length", prompts=PROMPTS, store=Store(tmp_path))
    second = run("prompt_length", prompts=PROMPTS, store=Store(tmp_path))
    assert toys == ["prompt_length"]
    pd.testing.assert_frame_equal(first.table, second.table)
    assert first.record == second.record


@pytest.mark.parametrize("change", [{"prompts": OTHER}, {"unit": "words"}, {"scale": 2.0}, {"limit": 1}])
def test_whatever_can_change_a_number_changes_the_key(toys: list[str], change: dict[str, object]) -> None:
    plain = run("prompt_length", prompts=PROMPTS)
    assert run("prompt_length", **{"prompts": PROMPTS, **change}).key != plain.key
    assert run("prompt_length", prompts=PROMPTS).key == plain.key


def test_the_record_says_how_it_came_about(toys: list[str]) -> None:
    record = run("prompt_length", prompts=PROMPTS, unit="words").record
    assert record["analysis"] == "prompt_length"
    assert record["options"] == {"unit": "words", "scale": 1.0}
    assert record["inputs"]["prompts"]["n"] == 2
    assert record["environment"]["numpy"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "needs prompts"),
        ({"prompts": PROMPTS, "unti": "words"}, "Did you mean unit"),
        ({"prompts": PROMPTS, "unit": "bytes"}, r"not one of \['chars', 'words'\]"),
        ({"prompts": 3}, "expected a prompt file or Prompts; got int"),
        ({"prompts": "absent.jsonl"}, r"absent\.jsonl"),
    ],
)
def test_bad_input_says_what_was_expected(toys: list[str], given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run("prompt_length", **given)


def test_what_earlier_code_made_still_opens_and_is_still_taken(toys: list[str], tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = run("prompt_length", prompts=PROMPTS)
    earlier = made.with_record(**{**made.record, "key": "0" * 16, "code": "f" * 16})
    store.put(earlier)
    toys.clear()
    pd.testing.assert_frame_equal(store.get(*store.find("0000")).table, made.table)
    assert run("longest", prompts=PROMPTS, store=store).record["upstream"]["lengths"] == "0" * 16
    assert toys == [], "nothing was computed again"


def test_upstream_is_taken_by_key_by_inputs_or_computed(toys: list[str], tmp_path: Path) -> None:
    store = Store(tmp_path)
    upstream = run("prompt_length", prompts=PROMPTS, store=store)
    by_key = run("longest", lengths=upstream.key, store=store)
    by_inputs = run("longest", prompts=PROMPTS, store=store)
    assert by_key.record["upstream"]["lengths"] == upstream.key
    assert by_inputs.table["item"].tolist() == ["b"]
    assert toys == ["prompt_length"], "the stored one was used both times"
    run("longest", prompts=OTHER, store=store)
    assert toys == ["prompt_length"] * 2, "other inputs: computed first"


def test_a_part_of_a_result_is_not_taken_for_the_whole(toys: list[str], tmp_path: Path) -> None:
    store = Store(tmp_path)
    whole = run("prompt_length", prompts=PROMPTS, store=store)
    assert run("longest", lengths=whole, store=store).table["item"].tolist() == ["b"]
    part = run("longest", lengths=whole.where(item=["a"]), store=store)
    assert part.table["item"].tolist() == ["a"]
    assert run("longest", lengths=whole.where(item=["a"]), store=store).key == part.key
    assert run("longest", lengths=whole.where(item=["a"]).where(item=["b"]), store=store).table.empty


def test_upstream_is_never_the_latest(toys: list[str], tmp_path: Path) -> None:
    store = Store(tmp_path)
    run("prompt_length", prompts=OTHER, store=store)
    with pytest.raises(InputError, match="--lengths KEY"):
        run("longest", store=store)


def test_an_ambiguous_upstream_is_refused_by_name(toys: list[str], tmp_path: Path) -> None:
    store = Store(tmp_path)
    for scale in (2.0, 3.0):
        run("prompt_length", prompts=PROMPTS, scale=scale, store=store)
    with pytest.raises(InputError, match="several stored prompt_length results"):
        run("longest", prompts=PROMPTS, store=store)


def test_an_absent_optional_upstream_is_reported(toys: list[str], tmp_path: Path) -> None:
    store = Store(tmp_path)
    upstream = run("prompt_length", prompts=PROMPTS, store=store)
    result = run("longest", lengths=upstream.key, store=store)
    assert result.warnings == ["without extra: no prompt_length result was given"]


def test_a_result_of_another_analysis_is_refused(toys: list[str], tmp_path: Path) -> None:
    store = Store(tmp_path)
    wrong = run("longest", prompts=PROMPTS, store=store)
    with pytest.raises(InputError, match="must be a result of prompt_length"):
        run("longest", lengths=wrong.key, store=store)


def test_join_adds_steps_as_dim_and_column_and_leaves_gaps_nan() -> None:
    def member(value: float, layers: list[int]) -> Result:
        data = xr.Dataset({"a": ("layer", [value] * len(layers))}, coords={"layer": layers})
        return Result.of(pd.DataFrame({"item": ["x"], "a": [value]}), data)

    joined = join([{"step": 0}, {"step": 5}], [member(1.0, [0, 1]), member(2.0, [0])])
    assert joined.table.to_dict("list") == {"step": [0, 5], "item": ["x", "x"], "a": [1.0, 2.0]}
    assert joined.data["a"].sel(step=5, layer=0) == 2.0
    assert np.isnan(joined.data["a"].sel(step=5, layer=1))
    pairs = join([{"step": 2, "source_step": 1}, {"step": 3, "source_step": 2}], [member(1.0, [0]), member(2.0, [0])])
    assert np.isnan(pairs.data["a"].sel(step=3, source_step=1, layer=0))


def test_items_of_one_cluster_are_one_unit_while_an_analysis_runs() -> None:
    from analyses.core.result import units_of
    from probe import Item, Prompts

    items = tuple(Item(f"i{n}", "p", "a", cluster=f"t{n // 2}") for n in range(4))
    assert units_of({"prompts": Prompts(items), "model": None}) == {"i0": "t0", "i1": "t0", "i2": "t1", "i3": "t1"}
    table = pd.DataFrame({"item": ["a", "b"], "cluster": ["t", None]})
    assert units_of({"perplexity": Result.of(table)}) == {"a": "t"}
