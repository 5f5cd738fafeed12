"""The wheel in an environment of its own: what is installed runs, and says where the lab is to be had."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests import tiny
from tests.conftest import ROOT


def done(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, words)], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.verify
def test_a_wheel_runs_without_the_checkout(tmp_path: Path) -> None:
    """Dependencies are lent from this environment; the package itself comes from the wheel alone."""
    built = done(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, ROOT, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    assert done(sys.executable, "-m", "venv", tmp_path / "own", cwd=tmp_path).returncode == 0
    (wheel,) = tmp_path.glob("*.whl")
    packages = next((tmp_path / "own" / "lib").glob("python*")) / "site-packages"
    python, probe = (tmp_path / "own" / "bin" / name for name in ("python", "probe"))
    assert done(python, "-m", "pip", "install", "-q", "--no-deps", wheel, cwd=tmp_path).returncode == 0
    (packages / "lent.pth").write_text(sysconfig.get_paths()["purelib"])
    where = done(python, "-c", "import probe, analyses, apps; print(apps.__file__)", cwd=tmp_path)
    assert str(packages) in where.stdout
    assert "perplexity" in done(probe, "list", cwd=tmp_path).stdout
    refused = done(probe, "demo", cwd=tmp_path)
    assert refused.returncode == 2 and "make demo" in refused.stderr
    tiny.save(tmp_path / "model")
    (tmp_path / "items.jsonl").write_text('{"id": "a", "prompt": "What is 1 + 1?", "answer": " 2"}')
    ran = done(probe, "run", "perplexity", "--model", "model", "--prompts", "items.jsonl", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert done(probe, "report", "-o", "report.html", cwd=tmp_path).returncode == 0
