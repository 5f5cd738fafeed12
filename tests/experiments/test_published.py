"""Recipes of the papers end to end: on tiny checkpoints, and on a small real model and a fine-tune of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import typer
from typer.testing import CliRunner

from analyses import Loading, Store, run
from experiments.entropy_signals import published as entropy
from experiments.over_memorization import published as over
from experiments.perplexity_paradox import inside
from experiments.perplexity_paradox import published as paradox
from experiments.written import command, write
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


def test_bad_input_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text(json.dumps({"id": "a", "prompt": "one", "answer": " two"}) + "\n")
    monkeypatch.setattr("sys.argv", ["over", "--checkpoints", str(tmp_path / "no"), "--prompts", str(file)])
    with pytest.raises(SystemExit) as ended:
        command("over_memorization", lambda: typer.run(over.main))
    told = capsys.readouterr().err.strip()
    assert ended.value.code == 2 and told.startswith("over_memorization: ") and "\n" not in told


def test_claims_say_whose_they_are(tmp_path: Path) -> None:
    curves = {"step": [0, 1] * 2, "accuracy": [0.2, 0.5] * 2, "perplexity": [2.0, 2.1] * 2, "n": [50] * 4}
    found = run("over_memorization", curves=pd.DataFrame({**curves, "run": ["slow"] * 2 + ["fast"] * 2}))
    write({"one": found}, tmp_path)
    told = (tmp_path / "claims.md").read_text()
    assert all(f"- {name}: Ship step 1" in told for name in ("slow", "fast"))


def test_an_unknown_paper_is_refused() -> None:
    app = typer.Typer()
    app.command()(entropy.main)
    told = CliRunner().invoke(app, ["other", "--checkpoints", "x", "--rollouts", "y"])
    assert told.exit_code == 2 and "mechanism, dynamics, steer" in told.output.replace("\n", " ")


NOUNS = ["dog", "cat", "boy", "girl", "bird", "fox", "bear", "frog", "tree", "ball", "car", "sun"]
SAID = ["red", "blue", "sad", "big", "happy", "small", "green", "hot", "cold", "nice", "old", "new"]
FACTS = Prompts(tuple(
    Item(f"f{n:02d}", f"The {a} was", f" {c}", group="seen" if n % 2 else "unseen")
    for n, (a, c) in enumerate(zip(NOUNS, SAID, strict=True))
))  # fmt: skip


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """stories260k and itself after 30 steps on six facts, as checkpoints 0 and 30 of one run."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, folder = WORLD / "stories260k", tmp_path_factory.mktemp("stories") / "run"
    if not source.is_dir():
        pytest.skip(f"no model at {source}; set PROBE_WORLD")
    facts = [i.prompt + i.answer for i in FACTS.items if i.group == "seen"]
    model, tok = AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    shutil.copytree(source, folder / "checkpoint-0")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(30):
        loss: Any = sum(model(ids, labels=ids).loss for text in facts
                        for ids in [torch.tensor([tok(text)["input_ids"]])])  # fmt: skip
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    shutil.copytree(source, folder / "checkpoint-30")
    model.save_pretrained(folder / "checkpoint-30")
    return folder


@pytest.mark.verify
def test_over_memorization_and_entropy_on_a_small_real_model(stories: Path, tmp_path: Path) -> None:
    checkpoints, store = list(discover(stories)), Store.at(tmp_path / "s")
    how = over.Setting(max_new_tokens=3, samples=2, grade="exact")
    found = over.study(checkpoints, FACTS, store, Loading(), how)
    rows = found["perplexity"].summary().query("quantity == 'ppl' and mask == 'answer' and variant == 'micro'")
    of_seen = rows[rows["group"] == "seen"].set_index("step")["value"]
    assert of_seen[30] < of_seen[0] / 2
    assert write(found, tmp_path / "over")
    given = entropy.Given(checkpoints, Rollouts.of(logs.full(vocab=400)), scalars(tmp_path), store, Loading())
    for paper, of in entropy.PAPERS.items():
        assert write(of(given), tmp_path / paper)


@pytest.mark.verify
def test_the_paradox_on_a_small_real_model(stories: Path, benchmarks: Path, tmp_path: Path) -> None:
    """The published questions; a model without a chat template is asked without one, and refused with it."""
    short = {"max_new_tokens": 8, "samples": 2, "batch_size": 8, "limit": 2, "partial_tokens": 8, "controls": 2}
    given = (list(discover(stories)), benchmarks, Store.at(tmp_path / "s"), Loading())
    found = paradox.study(*given, paradox.Setting(**short, templates=("none",)))
    assert set(found) == {"perplexity", "perplexity_paradox", "evaluate_none", "labels", "partial_prompt"}
    written = {f.name for f in write(found, tmp_path / "paradox")}
    assert {"claims.md", "perplexity.csv", "partial_prompt-rouge_l.html"} <= written
    with pytest.raises(InputError, match="no chat template"):
        paradox.study(*given, paradox.Setting(**short))


@pytest.mark.verify
def test_inside_a_small_real_model(stories: Path, tmp_path: Path) -> None:
    how = inside.Setting(batch_size=12, more=QUICK)
    found = inside.study(*discover(stories), FACTS, Store.at(tmp_path / "s"), Loading(), how)
    assert set(found) == {*inside.PUBLISHED}
    assert {f.name for f in write(found, tmp_path / "inside")} >= {"claims.md", "cross_patching.csv", "key_size.csv"}
