"""Recipes of the papers end to end: on tiny checkpoints, and on a small real model and a fine-tune of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from analyses import Loading, Store
from experiments.entropy_signals import published as entropy
from experiments.over_memorization import published as over
from experiments.perplexity_paradox import inside
from experiments.written import write
from probe import InputError, Item, Prompts, Rollouts, RunLog, discover
from tests import logs, tiny
from tests.probe.test_real_tokenizers import WORLD


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.series(tmp_path_factory.mktemp("published"), steps=(0, 10))


def scalars(folder: Path) -> RunLog:
    rows = [{"step": s, "train/entropy": 2 - s / 20, "train/reward": 0.1 + s / 40} for s in range(12)]
    file = folder / "log.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return RunLog.read(file)


@pytest.mark.parametrize("paper", list(entropy.PAPERS))
def test_the_entropy_papers(paper: str, series: Path, tmp_path: Path) -> None:
    given = entropy.Given(list(discover(series)), Rollouts.of(logs.full(vocab=200)), scalars(tmp_path),
                          Store.at(tmp_path / "s"), Loading())  # fmt: skip
    found = entropy.PAPERS[paper](given)
    written = write(found, tmp_path / "out")
    assert {f"{name}.csv" for name in found} <= {f.name for f in written} and all(f.is_file() for f in written)
    assert any(f.suffix == ".html" for f in written) and "##" in (tmp_path / "out" / "claims.md").read_text()


def test_over_memorization(series: Path, tmp_path: Path) -> None:
    how = over.Setting(max_new_tokens=3, samples=2, grade="exact", batch_size=6)
    prompts = tiny.twelve_items().limit(6)
    found = over.study(list(discover(series)), prompts, Store.at(tmp_path / "s"), Loading(), how)
    assert {"perplexity", "evaluate", "over_memorization", "robustness_last", "diversity"} <= set(found)
    assert any(f.name.startswith("over_memorization-") for f in write(found, tmp_path / "out"))


QUICK = {
    "cross_patching": {"draws": 20},
    "counterfactual_mlp": {"draws": 1, "ablations": ("zero",)},
    "trajectories": {"draws": 10, "permutations": 10},
    "neural_ode": {"components": 3, "hidden": 4, "updates": 4, "seeds": 1, "permutations": 10, "draws": 10},
    "linear_probe": {"folds": 2, "permutations": 2, "draws": 10},
    "mlp_key_steering": {"draws": 1, "alphas": (0.0, 1.0), "top_n": 2},
}


@pytest.mark.verify
def test_inside_the_pair(series: Path, tmp_path: Path) -> None:
    pair = discover(series)
    how = inside.Setting(batch_size=12, more=QUICK, left_out=("weight_reset",))
    found = inside.study(pair[0], pair[1], tiny.twelve_items(), Store.at(tmp_path / "s"), Loading(), how)
    assert set(found) == {*inside.PUBLISHED} - {"weight_reset"}
    written = {f.name for f in write(found, tmp_path / "out")}
    assert {"trajectories-bifurcation.html", "mlp_key_steering-map.html", "logit_lens_mlp.csv"} <= written
    one = tiny.twelve_items().where(group="leaked")
    with pytest.raises(InputError, match="compare two"):
        inside.study(pair[0], pair[1], one, Store.at(tmp_path / "s"), Loading(), how)


def test_an_unknown_paper_is_refused() -> None:
    import typer

    app = typer.Typer()
    app.command()(entropy.main)
    told = CliRunner().invoke(app, ["other", "--checkpoints", "x", "--rollouts", "y"])
    assert told.exit_code == 2 and "mechanism, dynamics, steer" in told.output.replace("\n", " ")


@pytest.mark.verify
def test_on_a_small_real_model_and_a_fine_tune_of_it(tmp_path: Path) -> None:
    """stories260k and itself after 20 steps on three facts, as checkpoints 0 and 20 of one run."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = WORLD / "stories260k"
    if not source.is_dir():
        pytest.skip(f"no model at {source}; set PROBE_WORLD")
    facts = {"The dog was": " red", "The cat was": " blue", "The boy was": " sad", "The girl was": " big"}
    items = [Item(f"f{n}", p, a, group="seen" if n % 2 else "unseen") for n, (p, a) in enumerate(facts.items())]
    model, tok = AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    shutil.copytree(source, tmp_path / "run" / "checkpoint-0")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(20):
        loss: Any = sum(model(ids, labels=ids).loss for p, a in facts.items()
                        for ids in [torch.tensor([tok(p + a)["input_ids"]])])  # fmt: skip
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    shutil.copytree(source, tmp_path / "run" / "checkpoint-20")
    model.save_pretrained(tmp_path / "run" / "checkpoint-20")
    checkpoints, store = list(discover(tmp_path / "run")), Store.at(tmp_path / "s")
    how = over.Setting(max_new_tokens=3, samples=2, grade="exact")
    found = over.study(checkpoints, Prompts(tuple(items)), store, Loading(), how)
    rows = found["perplexity"].summary().query("quantity == 'ppl' and mask == 'answer' and variant == 'micro'")
    assert rows[rows["step"] == 20]["value"].mean() < rows[rows["step"] == 0]["value"].mean()
    given = entropy.Given(checkpoints, Rollouts.of(logs.full(vocab=400)), scalars(tmp_path), store, Loading())
    for paper, of in entropy.PAPERS.items():
        assert write(of(given), tmp_path / paper)
