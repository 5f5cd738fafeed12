"""The store at a terminal: listed by run, compared, shared and tidied; damage is named and stops nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analyses.core.store.naming import run_of
from analyses.core.store.store import Store
from apps.report import render
from tests.apps.test_cli import probe

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def copy(store: Store, tmp_path: Path) -> Store:
    """A store of one's own: two runs, perplexity and lens of each, stages of one, and an unknown analysis."""
    return Store(Path(shutil.copytree(store.root, tmp_path / "my [results] 'ü'")))


def test_results_are_listed_by_run(copy: Store, capsys: Capture) -> None:
    code, out, _ = probe(capsys, "show", "--results", copy.root)
    assert code == 0
    blocks = [block.splitlines() for block in out.strip().split("\n\n")]
    assert [b[0] for b in blocks] == ["high", "low", "no run"]
    assert {line.split()[0] for line in blocks[0][2:]} == {"logit_lens", "perplexity", "over_memorization"}
    assert blocks[1][1].split() == ["analysis", "steps", "items", "age", "size", "key"]
    assert "0–90" in blocks[1][2] and "Accuracy held while perplexity rose" in out
    _, one, _ = probe(capsys, "show", "--run", "low", "--results", copy.root, "--json")
    assert {entry["run"] for entry in json.loads(one)} == {"low"}
    _, none, _ = probe(capsys, "show", "--run", "lo", "--results", copy.root)
    assert "the runs are: high, low" in none


def test_damage_is_named_and_the_rest_is_read(copy: Store, capsys: Capture) -> None:
    """A record cut short, a table that is none, a result half written, beside good ones."""
    (lens,) = (k for _, k in [a for a in copy.addresses() if a[0] == "logit_lens"][:1])
    tables = [a for a in copy.addresses() if a[0] == "perplexity"]
    copy.folder("logit_lens", lens).joinpath("record.json").write_text("{")
    copy.folder(*tables[0]).joinpath("table.parquet").write_text("junk")
    copy.folder("over_memorization", "0" * 16).mkdir()
    damaged = (lens, tables[0][1], "0" * 16)
    code, out, err = probe(capsys, "show", "--results", copy.root)
    assert code == 0 and tables[1][1][:8] in out and lens in err and "0" * 16 in err
    code, out, err = probe(capsys, "query", "SELECT DISTINCT run FROM perplexity", "--results", copy.root)
    assert code == 0 and len(out.split()) == 2 and tables[0][1] in err
    code, _, err = probe(capsys, "query", "SELECT count(*) FROM over_memorization", "--results", copy.root)
    assert code == 0 and tables[0][1] not in err
    page = render(copy)
    assert all(key in page for key in damaged)


def test_two_steps_of_a_result_are_compared_by_item(copy: Store, capsys: Capture) -> None:
    key = next(k for name, k in copy.addresses() if name == "perplexity" and "high" in str(copy.record(name, k)))
    code, out, err = probe(capsys, "diff", f"{key}@0", f"{key}@60", "--results", copy.root)
    assert code == 0, err
    assert "step 0" in out and "step 60" in out
    answer = next(line.split() for line in out.splitlines() if "answer" in line and "leaked" in line)
    assert "0.3333" in answer, "rises by .5 nats every 30 steps, over 3 tokens"
    for given, told in ((("diff", f"{key}@1", key), "it has 0, 30, 60, 90"), (("diff", key, "."), "no folder")):
        code, _, err = probe(capsys, *given, "--results", copy.root)
        assert code == 2 and told in err


def test_results_are_removed_and_litter_is_collected(copy: Store, capsys: Capture) -> None:
    (name, key), *rest = copy.addresses()
    shutil.copytree(copy.folder(name, key), copy.shards.folder(name, key))
    copy.folder(name, "0" * 16).mkdir()
    code, out, _ = probe(capsys, "gc", "--dry-run", "--results", copy.root)
    assert code == 0 and "would be freed" in out and copy.shards.root.exists()
    assert probe(capsys, "gc", "--results", copy.root)[0] == 0
    assert not copy.shards.root.exists() and copy.broken() == []
    assert len(list(copy.addresses())) == len(rest) + 1
    assert probe(capsys, "rm", key, "--yes", "--results", copy.root)[0] == 0
    assert list(copy.addresses()) == rest
    assert probe(capsys, "rm", "--run", "low", "-y", "--results", copy.root)[0] == 0
    assert "low" not in probe(capsys, "show", "--results", copy.root)[1].split()
    assert probe(capsys, "rm", "-y", "--results", copy.root)[0] == 2


def test_an_export_is_a_dataset(copy: Store, tmp_path: Path, capsys: Capture) -> None:
    code, _, err = probe(capsys, "export", tmp_path / "shared", "--results", copy.root)
    assert code == 0, err
    tables = {path.stem: pd.read_parquet(path) for path in (tmp_path / "shared" / "data").iterdir()}
    assert {"perplexity", "made_elsewhere", "results", "claims"} <= set(tables)
    assert set(tables["perplexity"]["run"]) == {"high", "low"}
    assert set(tables["claims"]["answer"]) == {"found", "none found", "cannot be judged"}
    assert len(list((tmp_path / "shared" / "records").iterdir())) == len(list(copy.addresses()))
    head = (tmp_path / "shared" / "README.md").read_text().split("---")[1]
    assert all(f"data/{name}.parquet" in head for name in tables)
    code, _, err = probe(capsys, "export", tmp_path / "shared", "--results", copy.root)
    assert code == 2 and "holds something already" in err


def test_results_are_inputs_by_the_name_of_their_run(copy: Store, capsys: Capture) -> None:
    from apps.command.completion import run_names
    from apps.command.options import click

    code, _, err = probe(capsys, "run", "perplexity_paradox", "--run", "lo", "--results", copy.root)
    assert code == 2 and "no result of perplexity about a run 'lo'" in err
    code, _, err = probe(capsys, "run", "perplexity_paradox", "--run", "low", "--seen", "leaked", "--unseen", "unseen",
                         "--results", copy.root)  # fmt: skip
    assert "no result" not in err
    ctx = click.Context(click.Command("x"))
    ctx.params["results"] = str(copy.root)
    assert [item.value for item in run_names(ctx, None, "h")] == ["high"]


@pytest.mark.parametrize(
    ("inputs", "run"),
    [
        ({"rollouts": {"source": "out/a/rollouts/x.parquet"}}, "out/a"),
        ({"log": {"source": "out/a"}}, "out/a"),
        ({"log": {"source": "out/a/checkpoint-4/trainer_state.json"}}, "out/a"),
        ({"log": {"source": "elsewhere/log.csv"}}, ""),
        ({"model": {"path": "v/global_step_4/actor/huggingface"}}, "v"),
        ({}, ""),
    ],
)
def test_the_run_of_a_record(inputs: dict[str, Any], run: str) -> None:
    assert run_of({"inputs": inputs}) == run
