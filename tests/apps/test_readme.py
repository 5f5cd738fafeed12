"""Every code block of the README and the docs runs as printed, on the short lab and on stand-ins for a user's files.

CONTRIBUTING.md and docs/add-a-model-family.md are followed in a copy of the checkout by test_contributing.py. Commands
of the experiments' pages train for minutes: their options are parsed here, and test_notebooks.py runs the notebooks.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

BLOCK = re.compile(r"^```(python|console|json)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NOT_HERE = ("make ", "probe dashboard")  # the job itself; a server, opened by the browser tests
PAGES = sorted(p for p in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")) if "```" in p.read_text())
ELSEWHERE = {
    "record-with-verl.md",  # needs verl: run on a stand-in for its batch by tests/probe/test_recording.py
    "bring-your-data.md",  # writes files of its own: test_bring_your_data.py
}
# Commands of a page in one process: each would import torch anew.
ONE_AFTER_ANOTHER = """
import json, sys
from apps.command.cli import main
for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit as ended:
        if ended.code:
            sys.exit(f"probe {' '.join(words)}: exit code {ended.code}")
"""
LAYOUTS = {
    "out": "checkpoint-{}",
    "verl-run": "global_step_{}/actor/huggingface",
    "openrlhf-run": "global_step{}_hf",
    "open-instruct-run": "step_{}",
}


def blocks(page: Path, kind: str) -> list[str]:
    return [text for k, text in BLOCK.findall(page.read_text()) if k == kind]


def commands(page: Path) -> list[str]:
    lines = [x[2:].split("  #")[0] for text in blocks(page, "console") for x in text.splitlines() if x[:2] == "$ "]
    lines = [line.removeprefix(".venv/bin/").strip() for line in lines]
    return [line for line in lines if not line.startswith(NOT_HERE)]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, lab: Path) -> Path:
    """A folder where the README's paths exist: the lab's runs, and `out` with a series."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "runs").symlink_to(ROOT / "runs")
    for name, pattern in LAYOUTS.items():
        for number, step in enumerate((0, 100)):
            source = sorted((lab / "sft-low").glob("checkpoint-*"))[number]
            place = folder / name / pattern.format(step)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(source)
    checkpoints = sorted((lab / "sft-low").glob("checkpoint-*"))
    (folder / "base").symlink_to(checkpoints[0])
    (folder / "out" / "final").symlink_to(checkpoints[1])
    lines = (lab / "sft_test.jsonl").read_text().splitlines()[:8]
    (folder / "items.jsonl").write_text("\n".join(lines))
    gsm8k = {"question": "Ann has 2 figs . buys 3 . how many ?", "answer": "2 + 3 = 5\n#### 5"}
    (folder / "gsm8k_test.jsonl").write_text(json.dumps(gsm8k))
    (folder / "mine.csv").write_text("context,question,label\nAnn has 2 figs .,how many ?,2\n")
    return folder


@pytest.fixture(scope="module")
def done_before() -> set[str]:
    """Commands that another page had run in this workplace: word for word the same, they are not run again."""
    return set()


@pytest.mark.lab
@pytest.mark.parametrize("page", [p for p in PAGES if p.name not in ELSEWHERE], ids=lambda p: p.name)
def test_blocks_run(page: Path, workplace: Path, done_before: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    for source in blocks(page, "python"):
        exec(compile(source, page.name, "exec"), {})
    for text in blocks(page, "json"):
        assert all(json.loads(line) for line in text.splitlines())
    found = [line for line in commands(page) if line not in done_before]
    assert all(line.startswith("probe ") for line in found)
    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_ANOTHER, json.dumps([shlex.split(line)[1:] for line in found])],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    done_before.update(found)


def test_no_block_goes_untested() -> None:
    """Fences of other kinds, indented ones and commands in bare ones would not be seen above."""
    for page in PAGES:
        opened = re.findall(r"^( *)(```+|~~~+)(.*)$", page.read_text(), re.MULTILINE)[::2]
        assert {(indent, fence) for indent, fence, _ in opened} == {("", "```")}, page
        assert {kind.partition(" ")[0] for *_, kind in opened} <= {"python", "console", "json", ""}, page
        bare = re.findall(r"^```\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        assert not any(re.search(r"^ *(\$|probe|python|pip|make) ", text, re.MULTILINE) for text in bare), page


def test_blocks_set_in_by_four_spaces_are_the_experiments_commands() -> None:
    """The one other page that has them is followed by test_contributing.py."""
    fenced = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        if page.name != "add-a-model-family.md":
            text = fenced.sub("", page.read_text())
            assert not re.search(r"\n\n {4,}(?![-*])\S", text), page


@pytest.mark.parametrize("page", sorted((ROOT / "experiments").glob("*/README.md")), ids=lambda p: p.parent.name)
def test_commands_of_experiments_are_understood(page: Path) -> None:
    """With --help at the end an unknown command or option is still an error, and nothing is trained."""
    text = page.read_text().replace("\\\n", " ")
    assert "```" not in text
    found = [line.split("  #")[0] for line in re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)]
    assert found
    for line in dict.fromkeys(found):
        python, *words = shlex.split(line)
        assert python == "python"
        done = subprocess.run([sys.executable, *words, "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
