"""Every code block of the README runs as printed, on the short lab (its folders) and on a stand-in `out`."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NOT_HERE = ("make ", "probe dashboard")  # the job itself; a server, opened by the browser tests


def blocks(kind: str) -> list[str]:
    return [text for k, text in BLOCK.findall((ROOT / "README.md").read_text()) if k == kind]


def commands() -> list[str]:
    lines = [line[2:].split("  #")[0] for text in blocks("console") for line in text.splitlines() if line[:2] == "$ "]
    return [line.strip() for line in lines if not line[2:].startswith(NOT_HERE) and not line.startswith(NOT_HERE)]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, lab: Path) -> Path:
    """A folder where the README's paths exist: the lab's runs, and `out` with a series."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "runs").symlink_to(ROOT / "runs")
    (folder / "out").mkdir()
    for number, step in enumerate((0, 100)):
        source = sorted((lab / "sft-low").glob("checkpoint-*"))[number]
        (folder / "out" / f"checkpoint-{step}").symlink_to(source)
    lines = (lab / "sft_test.jsonl").read_text().splitlines()[:8]
    (folder / "items.jsonl").write_text("\n".join(lines))
    return folder


@pytest.mark.lab
def test_python_blocks_run(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    found = blocks("python")
    assert found
    for source in found:
        exec(compile(source, "README.md", "exec"), {})


@pytest.mark.lab
def test_commands_run(workplace: Path) -> None:
    found = commands()
    assert len(found) >= 6
    script = "\n".join(f"{sys.executable} -m apps.cli {shlex.join(shlex.split(line)[1:])}" for line in found)
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=workplace,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (workplace / "report.html").is_file()
