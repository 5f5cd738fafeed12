"""`probe study` as somebody types it: folders or a file in, cards, a report and the exit code out."""

from __future__ import annotations

import json
from pathlib import Path, PurePath

import pytest

from analyses.core.running.study.arms import over_seeds
from analyses.core.store.naming import run_of
from analyses.core.store.store import Store
from apps.command import lines, study, study_file
from probe import discover
from probe.errors import InputError
from tests import tiny
from tests.apps.test_cli import probe


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with two checkpoints, and items beside it."""
    folder = tmp_path_factory.mktemp("study [1] 'ü'")
    tiny.series(folder / "my run", steps=(0, 10))
    rows = [{"id": f"q{i}", "prompt": f"what is {i} plus 7 ?", "answer": f"ans {i}", "group": "ab"[i % 2]}
            for i in range(4)]  # fmt: skip
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_folders_give_cards_a_report_and_a_file_that_gives_the_same(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["study", run / "my run", "--prompts", run / "items.jsonl", "--questions", "ship", "--max-new-tokens", "3"]
    code, out, err = probe(capsys, *asked, "--save", "study.toml", "--results", "r")
    assert code == 0, err
    assert "my run: 2 checkpoints, steps 0 to 10, 4 items" in out
    assert "runs perplexity, evaluate, over_memorization" in out
    assert "accuracy" in out and "Report:  report.html" in out and "--results r --open" in out
    assert (tmp_path / "report.html").is_file()
    written = (tmp_path / "study.toml").read_text()
    assert "device" not in written, "what was not said is not written"
    code, again, err = probe(capsys, "study", "study.toml", "--results", "r")
    assert (code, again) == (0, out), err
    (kept,) = (tmp_path / "r" / ".studies").glob("*.json")
    assert json.loads(kept.read_text())["file"] == written
    code, said, _ = probe(capsys, "study", "study.toml", "--results", "r", "--json")
    assert code == 0 and all({"run", "analysis", "answer", "sentence"} <= set(claim) for claim in json.loads(said))


def test_notes_are_about_what_somebody_could_change(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Not that the first checkpoint equals itself, nor that a control run is missing for which a study has no word."""
    asked = ["study", run / "my run", "--prompts", run / "items.jsonl", "--seen", "a", "--max-new-tokens", "2"]
    where = ["--questions", "memory,where", "--results", tmp_path / "r", "--report", tmp_path / "report.html"]
    code, out, err = probe(capsys, *asked, *where)
    assert code == 0, err
    assert "perplexity_paradox" in out and "identical" not in out and "without control" not in out


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, _ = probe(capsys, "study", run / "my run", "--dry-run", "--results", tmp_path / "r")
    assert code == 0 and "runs weight_drift" in out and "this needs a prompt file" in out
    assert not (tmp_path / "r").exists()


def test_a_quick_study_leaves_the_whole_answers(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "QUICK", 2)
    words = {"runs": [str(run / "my run")], "prompts": str(run / "items.jsonl"), "questions": ["memory"], "quick": True}
    store = Store(tmp_path)
    done = study.carried_out({**words, "max_new_tokens": 2}, store, quiet=True)
    keys = {result.key for answers in done.answers for result in answers.results.values()}
    assert {key for _, key in store.addresses()} == keys


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("runs = 3", "runs = "),
        ("prompts = 'x'", "runs = "),
        ("runs = ['a']\npromts = 'x'", "Did you mean prompts"),
        ("runs = [", "not TOML"),
        ("study = 3", r"\[\[study\]\]"),
    ],
)
def test_files_that_are_no_study_are_refused(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(InputError, match=told):
        study_file.read(tmp_path / "s.toml")


def test_a_file_holds_every_word_it_is_given(tmp_path: Path) -> None:
    given = {
        "runs": ["a b", "c'\"ü\\"],
        "stop": ["\n\nQ:"],
        "own": ["evaluate.ks=[1, 2]"],
        "template_options": {"enable_thinking": False},
        "bos": True,
        "batch_size": 4,
    }
    study_file.write(tmp_path / "s.toml", [given, {"runs": ["d"]}])
    assert study_file.read(tmp_path / "s.toml") == [given, {"runs": ["d"]}]


def test_options_of_one_analysis() -> None:
    found = study.own_options(["evaluate.samples=8", "evaluate.max-new-tokens=4", 'gains.seen=["a"]', "x.y=z=1"])
    assert found == {"evaluate": {"samples": 8, "max_new_tokens": 4}, "gains": {"seen": ("a",)}, "x": {"y": "z=1"}}
    with pytest.raises(InputError, match=r"ANALYSIS\.OPTION=VALUE"):
        study.own_options(["samples=8"])


def test_a_curve_in_a_line() -> None:
    assert lines.sparkline([0.0, 1.0, float("nan"), 0.5]) == "▁█·▅"
    assert lines.sparkline([2.0, 2.0]) == "▁▁" and lines.sparkline([]) == ""


def test_runs_are_seeds_of_an_arm(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("high-s1", "high-s2", "low-s1")
    for name in names:
        tiny.series(tmp_path / name, steps=(0, 10))
    shift = tmp_path / "high-s2" / "checkpoint-10"
    tiny.save(shift, seed=5)
    runs = [tmp_path / name for name in names]
    store = Store(tmp_path / "r")
    words = {"runs": list(map(str, runs)), "prompts": str(run / "items.jsonl"), "questions": ["memory"],
             "max_new_tokens": 2, "group_by": "(.*)-s[0-9]+"}  # fmt: skip
    done = study.carried_out(words, store)
    out = capsys.readouterr().out
    rows = over_seeds(done.answers, "(.*)-s[0-9]+", "perplexity", "ppl").query(
        "variant == 'micro' and mask == 'answer'"
    )
    high = rows[(rows["arm"] == "high") & (rows["step"] == 10)]
    values = [
        float(a.results["perplexity"].summary().query("quantity == 'ppl' and variant == 'micro' and mask == 'answer' "
              "and step == 10 and group == 'a'")["value"].iloc[0]) for a in done.answers[:2]
    ]  # fmt: skip
    found = high[high["group"] == "a"].iloc[0]
    assert values[0] != values[1]
    assert (found["mean"], found["seeds"]) == (pytest.approx(sum(values) / 2), 2)
    assert found["sd"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert rows[rows["arm"] == "low"]["sd"].isna().all(), "one seed has no spread"
    assert "Mean and spread over seeds" in out and "(sd)" in out and "nan" not in out
    for pattern, told in (("(", "no regular expression"), ("x(.*)", "matches none of the runs")):
        with pytest.raises(InputError, match=told):
            study.carried_out({**words, "group_by": pattern}, store)


@pytest.mark.parametrize(
    "pattern", ["checkpoint-{}", "global_step_{}/actor/huggingface", "global_step{}_hf", "step_{}", "weights/step_{}"]
)
def test_a_trainers_folder_is_one_run(
    pattern: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named by the run in a study, in the list of results and in SQL, whatever lies between it and the weights."""
    for step in (0, 10):
        place = tmp_path / "my-run" / pattern.format(step)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(run / "my run" / f"checkpoint-{step}")
    code, out, err = probe(capsys, "study", tmp_path / "my-run", "--dry-run")
    assert code == 0 and out.startswith("my-run: 2 checkpoints, steps 0 to 10"), err
    found = discover(tmp_path / "my-run")
    members = [{"step": c.step, "model": {"path": c.path}} for c in found]
    assert PurePath(run_of({"members": members})).name == "my-run"
