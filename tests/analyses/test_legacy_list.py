"""Every published form of the list is asked for by options there are, and stands where the list says."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import pytest
import torch

from analyses import get, names, run
from analyses.core.legacy import FORMS, Form
from analyses.core.result import Result
from analyses.weights.update_spectrum import signal_to_noise
from apps.command.options import analysis_command
from probe import Checkpoint, Item, Model, Prompts
from tests import tiny
from tests.analyses.test_labels import evaluation
from tests.conftest import ROOT


def switched() -> set[str]:
    return {n for n in names() if any(o.name == "legacy" for o in get(n).options)}


def test_every_switch_is_in_the_list_and_every_entry_has_its_own() -> None:
    assert {f.analysis for f in FORMS if f.asked == "--legacy"} == switched()
    for form in FORMS:
        assert form.analysis in names() and form.published and form.ours and form.source.startswith("arXiv "), form
        assert (form.asked == "--legacy") == (form.shown.startswith("legacy_") and form.analysis != "perplexity"), form


def written() -> set[str]:
    """Names beginning with `legacy_` in the sources of analyses."""
    found: set[str] = set()
    for file in (ROOT / "analyses").rglob("*.py"):
        words = (n.value for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Constant))
        found |= {w for w in words if isinstance(w, str) and w.startswith("legacy_") and w.replace("_", "").isalnum()}
    return found


def test_no_published_form_is_left_out_of_the_list() -> None:
    apart = {"legacy_", "legacy_classifier", "legacy_leak", "legacy_stable", "legacy_is_paradox", "legacy_ppl_n"}
    said = {f.shown for f in FORMS}
    assert written() - apart <= said, written() - apart - said


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.analysis)
def test_the_options_are_those_of_the_command_line(form: Form) -> None:
    command = analysis_command(get(form.analysis), "run")
    flags = {flag for p in command.params for flag in (*p.opts, *p.secondary_opts)}
    assert {w for w in form.asked.split() if w.startswith("--")} <= flags
    assert isinstance(command, click.Command)


def has(result: Result, name: str) -> bool:
    values = {str(v) for c in ("variant",) if c in result.data.coords for v in result.data[c].values}
    columns = {str(v) for v in result.table["variant"].unique()} if "variant" in result.table else set[str]()
    return name in result.data or name in result.table or name in values | columns


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from analyses import sweep

    series = tiny.series(tmp_path_factory.mktemp("swept"), steps=(0, 10))
    return sweep("perplexity", checkpoints=series, prompts=tiny.twelve_items())


def test_the_published_paradox_is_that_of_mean_perplexities(swept: Result) -> None:
    result = run("perplexity_paradox", perplexity=swept, legacy=True)
    rows = swept.table
    full = rows[(rows["mask"] == "full") & (rows["step"] == 10)]
    want = full.assign(ppl=np.exp(full["nll_nats"] / full["n_tokens"])).groupby("answer_kind")["ppl"].mean()
    found = result.data["legacy_ppl"].sel(group="all", mask="full", step=10)
    for kind, value in want.items():
        assert float(found.sel(answer_kind=kind)) == pytest.approx(value)
    at = result.data["legacy_ppl"].sel(group="all", answer_kind=want.index[0])
    rise = at.isel(step=1) - at.isel(step=0)
    said = result.table.query("group == 'all' and step == 10 and answer_kind == @want.index[0]")["legacy_is_paradox"]
    assert bool(said.item()) == bool(rise.sel(mask="answer") < 0 < rise.sel(mask="full"))
    plain = run("perplexity_paradox", perplexity=swept)
    assert "legacy_ppl" not in plain.data and "legacy_is_paradox" not in plain.table
    np.testing.assert_array_equal(plain.data["index"], result.data["index"])


def test_published_labels_count_any_of_k() -> None:
    base, tuned = evaluation([0.0, 0.4, 1.0, 0.0], seed=1), evaluation([0.2, 0.4, 1.0, 0.0], seed=2)
    result = get("labels")(tuned, base, legacy=True)
    table = result.table.sort_values("item")
    assert table["legacy_label"].tolist() == ["leak", "stable", "stable", "unlabelled"]
    assert table["label"].tolist() == ["unlabelled", "unlabelled", "stable", "unlabelled"]
    assert float(result.data["legacy_leak"].max()) == 0.25


def test_published_rouge_is_that_of_its_package(base: Model) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    table = run("partial_prompt", model=base, prompts=tiny.twelve_items(), grade="exact", max_new_tokens=6,
                legacy=True).table  # fmt: skip
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    row = table.iloc[3]
    cut = row["text"][: int(1.1 * len(row["rest"]))]
    assert row["legacy_rouge_l"] == pytest.approx(scorer.score(row["rest"], cut)["rougeL"].fmeasure)


def test_the_published_lens_reads_at_the_token(base: Model) -> None:
    prompts = tiny.twelve_items().limit(2)
    result = run("logit_lens", model=base, prompts=prompts, legacy=True, top_k=0)
    row = result.table[(result.table["item"] == prompts.items[0].id) & (result.table["layer"] == 1)].iloc[0]
    (batch,) = base.batches(Prompts(prompts.items[:1]), batch_size=1)
    state = base.run(batch, read=["resid_post.1"])["resid_post.1"][0, int(row["pos"]) + 1]
    want = base.unembed(state[None]).log_softmax(-1)[0, int(row["target"])]
    assert row["legacy_logprob_nats"] == pytest.approx(float(want), abs=1e-4)
    assert row["legacy_logprob_nats"] != pytest.approx(row["logprob_nats"], abs=1e-3)


def test_published_importance_is_velocity_plus_force(base: Model) -> None:
    data = run("trajectories", model=base, prompts=tiny.twelve_items(), draws=5, permutations=5, legacy=True).data
    np.testing.assert_allclose(data["legacy_importance"], data["velocity_difference"] + data["force"])


def test_published_signal_to_noise_counts_noise_as_signal(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    runs = [torch.randn(200, 300, generator=rng) for _ in range(4)]  # nothing in common
    found = signal_to_noise(runs)
    mean = torch.stack(runs).mean(0)
    want = mean.square().sum() / torch.stack([(u - mean).square().sum() for u in runs]).mean()
    assert found["legacy_snr"] == pytest.approx(float(want))
    assert found["legacy_snr"] == pytest.approx(1 / 3, rel=0.1) and abs(found["snr"]) < 0.1
    base = tiny.save(tmp_path / "base")
    tuned = [Checkpoint.of(tiny.save(tmp_path / f"{s}", seed=s)) for s in (1, 2)]
    both = {on: run("update_spectrum", base=[Checkpoint.of(base)], tuned=tuned, by_head=False, legacy=on)
            for on in (True, False)}  # fmt: skip
    assert has(both[True], "legacy_snr") and not has(both[False], "legacy_snr")
    pd.testing.assert_frame_equal(both[True].table.drop(columns="legacy_snr"), both[False].table)


def test_published_neurons_are_those_of_the_first_item(base: Model) -> None:
    how: dict[str, Any] = {"layers": ("1",), "top_n": 2, "draws": 1, "placebos": ("random_neurons",)}
    items = tiny.twelve_items()
    first = run("mlp_key_steering", model=base, prompts=items, selection="first", read_at="last_prompt", **how)
    assert first.table["item"].nunique() == 12  # all are measured, the first too
    same = Prompts(
        (items.items[0], *(Item(f"x{n}", i.prompt, i.answer, i.group) for n, i in enumerate(items.items[1:])))
    )
    again = run("mlp_key_steering", model=base, prompts=same, selection="first", read_at="last_prompt", **how)
    of = f"item == {items.items[0].id!r} and alpha == 0 and arm == 'key_overlap'"
    at = [r.table.query(of)["metric"].item() for r in (first, again)]
    assert at[0] == pytest.approx(at[1], abs=1e-6)


def test_forms_that_are_always_there_are_there(base: Model, swept: Result, tmp_path: Path) -> None:
    assert has(swept, "legacy_arith")
    series = tiny.series(tmp_path, steps=(0, 10))
    start, later = Model.load(series / "checkpoint-0"), [Checkpoint.of(series / "checkpoint-10")]
    assert has(
        run("rotated_merge", model=start, checkpoints=later, prompts=tiny.twelve_items(), components=4), "rotated"
    )
