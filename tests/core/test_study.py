"""A study: each checkpoint is read once, the numbers are those of the analyses one by one, nothing is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import xarray as xr

import analyses
from analyses.core import analysis as registry
from analyses.core.cost.plan import Rates
from analyses.core.running.inputs import Loading, ModelPool
from analyses.core.running.run import Request
from analyses.core.running.series import series_of
from analyses.core.running.study import pairs, questions, runs
from analyses.core.running.study.effort import effort
from analyses.core.running.study.study import Study, Way, study
from analyses.core.running.sweep import Sweep, go_over, sweep
from analyses.core.running.workers import Engine
from analyses.core.store import Store
from probe import Prompts
from probe.checkpoints import loading
from probe.errors import InputError
from tests import tiny
from tests.core.conftest import Computed

QUICKLY: dict[str, Any] = {"options": {"max_new_tokens": 3, "batch_size": 12}}


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.series(tmp_path_factory.mktemp("study") / "run")


@pytest.fixture(scope="module")
def items() -> Prompts:
    made = tiny.twelve_items()
    return made.seen(made.groups[0])


def counted(patch: pytest.MonkeyPatch) -> list[str]:
    """Every time the weights of a checkpoint are read from here on, its folder's name."""
    found, read = list[str](), loading.read_model

    def reading(source: Any, how: Any) -> Any:
        found.append(Path(source.path).name)
        return read(source, how)

    patch.setattr(loading, "read_model", reading)
    return found


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return counted(monkeypatch)


@pytest.fixture(scope="module")
def done(series: Path, items: Prompts, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Store, list[str]]:
    """A study, its store, and what it read."""
    store = Store(tmp_path_factory.mktemp("done"))
    with pytest.MonkeyPatch.context() as patch:
        reads = counted(patch)
        return study(series, prompts=items, store=store, **QUICKLY), store, list(reads)


def test_every_checkpoint_is_read_once_and_the_chosen_pair_at_most_once_more(
    series: Path, items: Prompts, done: tuple[Study, Store, list[str]], reads: list[str]
) -> None:
    found, store, read = done
    over_series = {ask.analysis for ask in questions.ASKS if ask.how in ("series", "first")}
    assert over_series <= set(found["run"].results)
    assert read[:3] == ["checkpoint-0", "checkpoint-10", "checkpoint-20"]
    assert len(read) <= 5 and len(set(read[3:])) == len(read[3:])
    again = study(series, prompts=items, store=store, **QUICKLY)
    assert reads == [], "nothing is computed again, so nothing is read"
    assert again.claims.equals(found.claims)


def test_numbers_are_those_of_the_analyses_one_by_one(
    series: Path, items: Prompts, done: tuple[Study, Store, list[str]], tmp_path: Path
) -> None:
    for name in ("perplexity", "divergence", "weight_drift"):
        given: dict[str, Any] = {} if name == "weight_drift" else {"prompts": items}
        alone = sweep(name, checkpoints=series, store=Store(tmp_path), batch_size=12, **given)
        together = done[0]["run"].results[name]
        assert together.key == alone.key
        pd.testing.assert_frame_equal(together.table, alone.table)
        xr.testing.assert_identical(together.data, alone.data)


@pytest.mark.parametrize(
    "way", ["adjacent", *(pytest.param(way, marks=pytest.mark.verify) for way in ("all", "first"))]
)
def test_sweeps_of_pairs_share_two_handles(series: Path, items: Prompts, way: Any, reads: list[str]) -> None:
    pool = ModelPool(Loading())
    found = series_of(series, Loading())
    asked = [("divergence", items.limit(3)), ("logit_lens", items.limit(3))]
    sweeps = [Sweep(Request(registry.get(name), {"prompts": given}, None, pool), found, way) for name, given in asked]
    together = [one.result() for one in go_over(sweeps, Engine())]
    if way != "all":
        assert reads == ["checkpoint-0", "checkpoint-10", "checkpoint-20"]
    alone = sweep("divergence", checkpoints=series, prompts=items.limit(3), pairs=way)
    pd.testing.assert_frame_equal(together[0].table, alone.table)


def test_every_pair_names_its_base_first() -> None:
    """A pool that shares its handles relies on it."""
    for name in registry.names():
        of = registry.get(name)
        slots = [i.name for i in of.inputs if i.kind == "Model"]
        assert of.arity != "pair" or slots == ["base", "tuned"], name


def test_what_is_not_there_is_said_and_what_does_not_suit_is_kept_apart(done: tuple[Study, Store, list[str]]) -> None:
    found = done[0]["run"]
    assert "rollout log" in found.without["sign_quadrants"]
    assert not found.failed
    assert {"gains", "perplexity_paradox", "over_memorization", "cross_patching"} <= {*found.results, *found.refused}
    assert set(done[0].claims["run"]) == {"run"}


def test_a_stopped_study_goes_on(series: Path, items: Prompts, tmp_path: Path, computed: Computed) -> None:
    how: dict[str, Any] = {"prompts": items.limit(4), "questions": ["where"], "own": {"cross_patching": {"draws": 50}}}
    computed.stop_at = 7
    with pytest.raises(KeyboardInterrupt):
        study(series, store=Store(tmp_path / "a"), **how)
    assert Store(tmp_path / "a").running() == []
    computed.stop_at = None
    found = study(series, store=Store(tmp_path / "a"), **how)
    assert len(computed) == len(set(computed)), "nothing finished is computed again"
    assert {n: r.key for n, r in found["run"].results.items()} == {
        n: r.key for n, r in study(series, store=Store(tmp_path / "b"), **how)["run"].results.items()
    }


def test_a_checkpoint_that_cannot_be_read_is_told_and_the_others_answer(series: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(series, run)
    weights = run / "checkpoint-10" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    found = study(run, questions=["where"], store=Store(tmp_path / "r"))["run"]
    assert "step 10" in found.failed["weight_drift"]
    assert list(found.results["weight_drift"].data["step"].values) == [0, 20]


def test_runs_are_told_apart_and_questions_are_checked(series: Path, items: Prompts, tmp_path: Path) -> None:
    both = [Path(shutil.copytree(series, tmp_path / name / "run")) for name in ("one", "two")]
    found = study(*both, questions=["where"], store=Store(tmp_path / "r"))
    assert [a.run.name for a in found.answers] == ["one/run", "two/run"]
    assert list(found["one/run"].results) == ["weight_drift"], "all that needs no items"
    for given, told in (
        ({"questions": ["were"]}, "Did you mean where"),
        ({"options": {"batchsize": 3}}, "no analysis of this study has an option 'batchsize'"),
        ({"own": {"evaluate": {"sample": 3}}}, "Did you mean samples"),
        ({"prompts": None, "questions": ["ship"]}, "nothing was answered: a prompt file"),
        ({"loading": Loading(hold="one")}, "two checkpoints are in memory at once"),
    ):
        words: dict[str, Any] = {"prompts": items, "store": Store(tmp_path / "s"), **given}
        with pytest.raises(InputError, match=told):
            study(series, **words)
    with pytest.raises(InputError, match="given twice"):
        study(series, str(series) + "/", prompts=items)
    rows = [{"id": "a", "prompt": "x", "answers": {"short": "1", "long": "2"}}]
    with pytest.raises(InputError, match="--answers long"):
        study(series, prompts=Prompts.of(rows))


def test_the_pair_is_the_one_whose_answers_moved_furthest(series: Path) -> None:
    found = series_of(series, Loading())
    nats = {0: [1.0, 1.0], 10: [3.0, 0.5], 20: [1.5, 1.0]}
    rows = [
        {"step": s, "item": str(i), "answer_kind": "given", "mask": m, "nll_nats": 4 * n, "n_tokens": 4}
        for s, values in nats.items() for i, n in enumerate(values) for m in ("answer",)
    ]  # fmt: skip
    scored = analyses.Result.of(pd.DataFrame(rows), xr.Dataset())
    assert [c.step for c in pairs.moved_most(found, scored)] == [0, 10]
    assert [c.step for c in pairs.moved_most(found, None)] == [0, 20]


def test_a_series_with_rollouts_is_asked_about_entropy(series: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(series, tmp_path / "run"))
    (run / "completions").mkdir()
    rows = [{"step": 1, "prompt": "x", "completion": "y", "reward": r} for r in (0.0, 1.0)]
    (run / "completions" / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = study(run, questions=["entropy", "where"], store=Store(tmp_path / "r"))["run"]
    assert set(found.without) >= {"entropy_reward_law"}
    assert {"informative_groups", "sampler_mismatch"} <= {*found.results, *found.refused, *found.without}


def test_the_effort_is_told_and_nothing_is_read(series: Path, items: Prompts, tmp_path: Path, reads: list[str]) -> None:
    (run,) = runs.found([series], items, Loading())
    way = Way(Store(tmp_path), ModelPool(Loading()), Engine(), {"max_new_tokens": 3}, {})
    asks = questions.asked(["where", "ship"])
    rates = Rates(flops=1e10, memory=1e10, read=1e9)
    found = effort(run, asks, way, Loading(), rates)
    assert found.seconds > 0 and found.peak > 0 and "over_memorization" in found.uncounted
    assert effort(run, asks[:1], way, Loading(), rates).seconds < found.seconds
    assert reads == []
