"""Measured while it trains: the weights are those of an unmeasured run, numbers are where the trainer's own are."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

pytest.importorskip("trl", reason="training needs TRL")

import transformers
import trl
from datasets import Dataset

import analyses
from analyses.core.store import Store
from probe import Model, Prompts, RunLog
from probe.errors import InputError
from probe.training import ProbeCallback
from tests import tiny
from tests.conftest import ROOT

ROWS = [{"prompt": f"what is {i} plus 7 ?", "completion": f" ans {i}"} for i in range(16)]
SHARED: dict[str, Any] = {
    "learning_rate": 1e-2, "report_to": "none", "use_cpu": True, "disable_tqdm": True, "logging_steps": 2, "seed": 1,
    "save_strategy": "steps", "save_steps": 3, "max_steps": 6,
}  # fmt: skip


def items() -> Prompts:
    return Prompts.of(
        [{"id": str(i), **{"prompt": r["prompt"], "answer": r["completion"]}} for i, r in enumerate(ROWS)]
    )


def reward(completions: list[str], **_: Any) -> list[float]:
    return [float(len(c) % 3) for c in completions]


def trained(kind: str, base: Path, out: Path, callback: ProbeCallback | None, **changes: Any) -> Any:
    """A trainer that has run, dropout and sampling included."""
    transformers.set_seed(0)
    model = _load(base)
    toks = tiny.tokenizer()
    if kind == "sft":
        made: Any = trl.SFTConfig(output_dir=str(out), per_device_train_batch_size=4, max_length=32, **SHARED | changes)
        trainer: Any = trl.SFTTrainer(model, args=made, train_dataset=Dataset.from_list(ROWS), processing_class=toks)
    else:
        made = trl.GRPOConfig(
            output_dir=str(out), per_device_train_batch_size=4, num_generations=4, max_completion_length=6,
            **SHARED | changes,
        )  # fmt: skip
        data = Dataset.from_list([{"prompt": r["prompt"]} for r in ROWS])
        trainer = trl.GRPOTrainer(
            model, reward_funcs=cast("Any", reward), args=made, train_dataset=data, processing_class=toks
        )
    if callback is not None:
        callback.attach(trainer)
    with warnings.catch_warnings():  # the trainers' own
        warnings.filterwarnings("ignore", category=FutureWarning)
        trainer.train()
    return trainer


def _load(base: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, attention_dropout=0.1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("callback") / "base")


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_weights_are_bitwise_those_of_an_unmeasured_run(kind: str, base: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    watch = ProbeCallback(analyses.live(["perplexity", "logit_lens"], prompts=items(), store=store, limit=6),
                          every=2, budget=None)  # fmt: skip
    with_it, without = trained(kind, base, tmp_path / "a", watch), trained(kind, base, tmp_path / "b", None)
    ours, theirs = with_it.model.state_dict(), without.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert watch.measured == [0, 2, 4, 6] and not watch.skipped
    own = [row for row in with_it.state.log_history if not any(name.startswith("probe/") for name in row)]
    for mine, other in zip(own, without.state.log_history, strict=True):
        assert all(mine[name] == other[name] for name in ("loss", "grad_norm", "step") if name in other)
    told = {row["step"]: row for row in with_it.state.log_history if "probe/perplexity/ppl" in row}
    assert sorted(told) == [0, 2, 4, 6]
    kept = json.loads((tmp_path / "a" / "checkpoint-6" / "trainer_state.json").read_text())["log_history"]
    assert any("probe/perplexity/ppl" in row for row in kept)
    swept = {name: store.get(name, key) for name, key in store.addresses()}
    assert set(swept) == {"perplexity", "logit_lens"}, "one result each, not one for every step"
    assert list(swept["perplexity"].data["step"].values) == [0, 2, 4, 6]
    saved = analyses.run("perplexity", model=tmp_path / "a" / "checkpoint-6", prompts=items(), limit=6).summary()
    measured = saved[(saved["quantity"] == "ppl") & (saved["variant"] == "micro") & (saved["mask"] == "answer")]
    assert told[6]["probe/perplexity/ppl"] == pytest.approx(measured["value"].item(), rel=1e-5)
    assert store.query("SELECT DISTINCT run FROM perplexity")["run"].tolist() == ["a"]


class Broken:
    """A measurement that goes wrong."""

    def begin(self, step: int, run: Path) -> None:
        raise RuntimeError("disk full")

    def __call__(self, model: Model, step: int, run: Path) -> Mapping[str, float]:
        torch.rand(3)
        np.random.rand()  # noqa: NPY002
        random.random()
        raise ValueError("no")


def test_an_error_is_warned_about_once_and_training_goes_on(base: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with_it = trained("sft", base, tmp_path / "a", ProbeCallback(Broken(), every=1))
    said = [str(w.message) for w in told if "ProbeCallback" in str(w.message)]
    assert len(said) == 2 and "disk full" in said[0] and "training goes on" in said[1]
    without = trained("sft", base, tmp_path / "b", None)
    theirs = without.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in with_it.model.state_dict().items())


def test_what_exceeds_the_budget_is_skipped_and_said(base: Path, tmp_path: Path) -> None:
    class Slow(Broken):
        def begin(self, step: int, run: Path) -> None: ...

        def __call__(self, model: Model, step: int, run: Path) -> Mapping[str, float]:
            return {"probe/x": 1.0}

    watch = ProbeCallback(Slow(), every=1, budget=1e-9)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trained("sft", base, tmp_path / "a", watch)
    assert any("6 of 7 measurements were skipped" in str(w.message) for w in told)
    assert watch.measured == [0]


def test_a_resumed_run_continues_its_series(tmp_path: Path) -> None:
    folder, store = tmp_path / "run", Store(tmp_path / "r")
    model = Model.load(tiny.save(tmp_path / "base"))
    first = analyses.live(prompts=items(), store=store, limit=3)
    first.begin(0, folder)
    for step in (0, 5, 10):
        first(model, step, folder)
    again = analyses.live(prompts=items(), store=store, limit=3)
    again.begin(5, folder)
    again(model, 10, folder)
    (address,) = store.addresses()
    assert list(store.get(*address).data["step"].values) == [0, 5, 10]
    fresh = analyses.live(prompts=items(), store=store, limit=3)
    fresh.begin(0, folder)
    fresh(model, 0, folder)
    assert len(list(store.addresses())) == 2, "a run begun anew is another series"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"names": ["divergence"]}, "one model and prompts"),
        ({"names": ["evaluate"]}, "generate=True"),
        ({"names": ["perplexity"], "templat": "chat"}, "Did you mean template"),
    ],
)
def test_what_cannot_be_measured_live_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        analyses.live(given.pop("names"), prompts=items(), **given)


def test_strange_settings_are_refused() -> None:
    strange: list[dict[str, Any]] = [{"every": 0}, {"budget": 0.0}, {"budget": 2.0}]
    for given in strange:
        with pytest.raises(InputError):
            ProbeCallback(Broken(), **given)


TRACKED = """
import sys
from pathlib import Path
import analyses
from analyses.core.store import Store
from probe.training import ProbeCallback
from tests.probe.test_callback import items, trained

kind, tracker, base, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
live = analyses.live(prompts=items(), store=Store(folder / "r"), limit=3)
trained(kind, base, folder / "a", ProbeCallback(live, every=3, budget=None), report_to=tracker)
"""


@pytest.mark.verify
@pytest.mark.parametrize(("tracker", "file"), [("wandb", "*.wandb"), ("trackio", "*.db")])
@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_numbers_reach_an_offline_tracker_at_their_steps(
    kind: str, tracker: str, file: str, base: Path, tmp_path: Path
) -> None:
    """The tracker's own file, read back with this project's reader; `trainer_state.json` says the same."""
    pytest.importorskip(tracker, reason=f"{tracker}'s own file is read here")
    folder = str(tmp_path)
    offline = {"WANDB_MODE": "offline", "WANDB_DIR": folder, "WANDB_SILENT": "true", "TRACKIO_DIR": folder}
    command = [sys.executable, "-c", TRACKED, kind, tracker, str(base), folder]  # trackers live as long as a process
    done = subprocess.run(command, cwd=ROOT, env=os.environ | offline, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (log,) = tmp_path.rglob(file)
    logged = RunLog.read(log)
    measured = logged.series("train/probe/perplexity/ppl")
    assert list(measured.index) == [0, 3, 6] and measured.notna().all()
    assert list(logged.series("train/loss").index) == [2, 4, 6]
    kept = json.loads((tmp_path / "a" / "checkpoint-6" / "trainer_state.json").read_text())["log_history"]
    own = {row["step"]: row["probe/perplexity/ppl"] for row in kept if "probe/perplexity/ppl" in row}
    assert set(own) >= {0, 3} and own == {step: pytest.approx(float(measured[step])) for step in own}
