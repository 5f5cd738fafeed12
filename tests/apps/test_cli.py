"""The command line as a script sees it: one JSON line, exit codes, messages that say what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from apps.command.cli import main
from tests import tiny

ITEMS = [
    {"id": f"q{i}", "prompt": f"what is {i} plus 7 ?", "answer": f"ans {i}", "group": "ab"[i % 2]} for i in range(6)
]


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.series(tmp_path_factory.mktemp("cli"))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(i) + "\n" for i in ITEMS))
    return path


def probe(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return int(exit_.value.code or 0), captured.out, captured.err


def as_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    code, out, err = probe(capsys, *arguments, "--json")
    assert code == 0, err
    (line,) = out.splitlines()
    return json.loads(line)


def test_run_gives_one_json_line_and_the_rows_of_the_contract(
    capsys: pytest.CaptureFixture[str], series: Path, prompts: Path, tmp_path: Path
) -> None:
    model = series / "checkpoint-10"
    said = as_json(capsys, "run", "perplexity", "--model", model, "--prompts", prompts, "--results", tmp_path / "r")
    assert {"key", "folder", "summary", "warnings"} <= set(said)
    table = pd.read_parquet(Path(said["folder"]) / "table.parquet")
    assert {"item", "group", "mask", "answer_kind", "nll_nats", "n_tokens"} <= set(table)
    assert set(table["answer_kind"]) == {"given"}
    assert (table.groupby(["item", "mask"]).size() == 1).all()
    assert {"value", "ci_low", "ci_high", "n"} <= set(said["summary"][0])


def test_sweep_adds_the_step_and_members_are_reused(
    capsys: pytest.CaptureFixture[str], series: Path, prompts: Path, tmp_path: Path
) -> None:
    given = ("--prompts", prompts, "--results", tmp_path / "r", "--top-k", 2)
    said = as_json(capsys, "sweep", "logit_lens", "--checkpoints", series, *given)
    table = pd.read_parquet(Path(said["folder"]) / "table.parquet")
    assert {"step", "item", "layer", "pos", "target", "logprob_nats", "rank"} <= set(table)
    assert sorted(table["step"].unique()) == [0, 10, 20]
    again = as_json(capsys, "sweep", "logit_lens", "--checkpoints", series, *given)
    assert again["key"] == said["key"]
    one = as_json(capsys, "run", "logit_lens", "--model", series / "checkpoint-10", *given)
    member = pd.read_parquet(Path(one["folder"]) / "table.parquet")
    at_ten = table[table["step"] == 10].drop(columns="step").reset_index(drop=True)
    pd.testing.assert_frame_equal(at_ten[member.columns], member)


def test_show_list_and_query(capsys: pytest.CaptureFixture[str], series: Path, prompts: Path, tmp_path: Path) -> None:
    results = ("--results", tmp_path / "r")
    said = as_json(capsys, "run", "perplexity", "--model", series / "checkpoint-0", "--prompts", prompts, *results)
    _, shown, _ = probe(capsys, "show", said["key"][:6], *results)
    assert said["key"] in shown
    _, listed, _ = probe(capsys, "show", *results)
    assert "perplexity" in listed
    assert said["key"][:8] in listed
    _, rows, _ = probe(capsys, "query", "SELECT count(*) AS n FROM perplexity", *results, "--json")
    assert json.loads(rows)[0]["n"] == len(pd.read_parquet(Path(said["folder"]) / "table.parquet"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--model": "/nowhere"}, "/nowhere"),
        ({"--prompts": "/nowhere.jsonl"}, "/nowhere.jsonl"),
        ({"--boundary": "both"}, "'joint', 'concat', 'offsets'"),
        ({"--batch-size": "0"}, "batch_size"),
        ({"--batch-size": "many"}, "many"),
        ({"--frobnicate": "1"}, "frobnicate"),
    ],
)
def test_bad_input_is_exit_code_two_with_a_reason(
    capsys: pytest.CaptureFixture[str],
    series: Path,
    prompts: Path,
    tmp_path: Path,
    change: dict[str, str],
    message: str,
) -> None:
    given = {"--model": str(series / "checkpoint-0"), "--prompts": str(prompts), "--results": str(tmp_path), **change}
    code, out, err = probe(capsys, "run", "perplexity", *[part for pair in given.items() for part in pair])
    assert code == 2
    assert out == ""
    assert message in err


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"id": "a", "prompt": "x", "answer": "y"}\n{"id": "b", oops}\n', "line 2"),
        ('{"id": "a", "prompt": "x", "answer": ""}\n', "empty answer"),
        ("\n\n", "empty"),
        ('{"id": "a", "prompt": "' + "9 " * 200 + '", "answer": "y"}\n', "longer than the context"),
    ],
)
def test_bad_prompt_files_are_named(
    capsys: pytest.CaptureFixture[str], series: Path, tmp_path: Path, lines: str, message: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(lines)
    code, _, err = probe(
        capsys, "run", "perplexity", "--model", series / "checkpoint-0", "--prompts", path, "--results", tmp_path / "r"
    )
    assert code == 2
    assert message in err
    assert not list((tmp_path / "r").glob("*/*"))


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        ("svamp", {"ID": "c-1", "Body": "Jon has 3 figs.", "Question": "How many?", "Answer": 3.0, "Type": "Add"}),
        ('{"id": "#", "prompt": "{q} =", "answer": "a"}', {"q": "1 + 2", "a": "3"}),
    ],
)
def test_other_columns_are_mapped(
    capsys: pytest.CaptureFixture[str], series: Path, tmp_path: Path, columns: str, row: dict[str, Any]
) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text(json.dumps(row))
    given = ("--model", series / "checkpoint-0", "--prompts", path, "--results", tmp_path / "r")
    said = as_json(capsys, "run", "perplexity", *given, "--columns", columns)
    assert len(pd.read_parquet(Path(said["folder"]) / "table.parquet")["item"].unique()) == 1
    code, _, err = probe(capsys, "run", "perplexity", *given)
    assert code == 2, "without the mapping the columns are not guessed"
    assert "columns" in err


def test_truncated_weights_are_named(capsys: pytest.CaptureFixture[str], prompts: Path, tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "m")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    code, _, err = probe(capsys, "run", "perplexity", "--model", folder, "--prompts", prompts, "--results", tmp_path)
    assert code == 2
    assert "model.safetensors" in err


def test_an_unknown_analysis_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = probe(capsys, "run", "perplexty")
    assert code == 2
    assert "Did you mean perplexity" in err


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **extra}


def test_help_and_list_need_no_torch(tmp_path: Path) -> None:
    block = "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None; "
    block += "from apps.command.cli import main; "
    for arguments in (["--help"], ["list"], ["run", "perplexity", "--help"], ["sweep", "logit_lens", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", block + f"main({arguments!r})"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_an_unwritable_store_is_a_failure_that_says_so(
    capsys: pytest.CaptureFixture[str], series: Path, prompts: Path, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    code, _, err = probe(
        capsys, "run", "perplexity", "--model", series / "checkpoint-0", "--prompts", prompts, "--results", blocked
    )
    assert code in (1, 2)
    assert "Traceback" not in err
    assert str(blocked) in err


def test_several_analyses_are_swept_together(
    capsys: pytest.CaptureFixture[str], series: Path, prompts: Path, tmp_path: Path
) -> None:
    given = ("--checkpoints", series, "--prompts", prompts, "--results", tmp_path / "r", "--limit", 3)
    code, out, err = probe(capsys, "sweep", "perplexity", "weight-drift", "logit_lens", *given, "--json")
    assert code == 0, err
    found = {Path(one["folder"]).parent.name: one["key"] for one in json.loads(out)}
    assert list(found) == ["perplexity", "weight_drift", "logit_lens"]
    assert as_json(capsys, "sweep", "logit_lens", *given)["key"] == found["logit_lens"]
    code, out, err = probe(capsys, "sweep", "perplexity", "logit_lens", *given, "--top-k", 2)
    assert code == 0 and found["perplexity"] in out and found["logit_lens"] not in out, err
    assert len(out.splitlines()) <= 2 * 15 and "over steps" in out
    code, _, err = probe(capsys, "sweep", "perplexity", "logit_lens", *given, "--samples", 2)
    assert code == 2 and "--samples" in err
    code, _, err = probe(capsys, "sweep", "perplexity", "perplexity", *given)
    assert code == 2 and "named twice" in err


def test_warnings_that_steps_share_are_told_once() -> None:
    from apps.command.terminal import merged

    told = ["a", *(f"step {n}: all truncated" for n in (0, 10, 20)), "step 10: other"]
    assert merged(told) == ["a", "3 steps (0 to 20): all truncated", "step 10: other"]


def test_every_analysis_is_listed_under_a_question(capsys: pytest.CaptureFixture[str]) -> None:
    from analyses.core import analysis as registry
    from apps.command import listed

    groups = listed.by_question()
    assert listed.OTHER not in groups, "a new group of analyses is named in apps/command/listed.py"
    assert sorted(of.name for group in groups.values() for of in group) == registry.names()
    _, out, _ = probe(capsys, "list")
    assert "Where does it sit?\n  activation_patching" in out and max(map(len, out.splitlines())) <= 110


def test_a_list_says_of_an_analysis_what_the_analysis_says_of_itself() -> None:
    """The list reads source files only; importing them all is slow."""
    from analyses import get, names
    from analyses.core.homes import defaults, outline

    for name in names():
        assert defaults(name) == {o.name: o.default for o in get(name).options}
        assert (outline(name).title, outline(name).inputs) == (get(name).title, tuple(i.name for i in get(name).inputs))


@pytest.mark.parametrize("command", ["list", "show"])
def test_what_only_lists_imports_no_analysis_and_no_tables(
    command: str, capsys: pytest.CaptureFixture[str], series: Path, prompts: Path, tmp_path: Path
) -> None:
    options = ["--max-new-tokens", "2", "--results", tmp_path / "results"]
    probe(capsys, "run", "evaluate", "--model", series / "checkpoint-10", "--prompts", prompts, *options)
    arguments = [command, "--results", str(tmp_path / "results")] if command == "show" else [command]
    code = f"""
import sys
from apps.command.cli import main
try:
    main({arguments})
finally:
    slow = "pandas xarray torch plotly scipy pyarrow duckdb h5py".split()
    assert not set(slow) & set(sys.modules), sorted(set(slow) & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "evaluate" in done.stdout and ("max_new_tokens=2" in done.stdout) == (command == "show")
