"""What CONTRIBUTING.md says of a new analysis, followed literally in a copy of the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny
from tests.conftest import ROOT

BLOCK = re.compile(r"^## Add an analysis\n.*?^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGE = """
import sys
from streamlit.testing.v1 import AppTest
app = AppTest.from_file("apps/dashboard.py", default_timeout=60)
app.query_params.update({"page": "Results", "analysis": "resid_norm"})
app.run()
assert not app.exception, app.exception
print(app.subheader[0].value, len(app.get("plotly_chart")))
"""
REFERENCE = "import sys; sys.path.insert(0, 'docs'); import reference; print(reference._overview())"
IDENTITY = '''
"""Scaling what is read scales its norm."""

import torch

from analyses import run


def test_norms_are_those_of_the_states(models, prompts):
    model = models["model"]
    found = run("resid_norm", model=model, prompts=prompts).table
    assert (found["norm"] > 0).all() and set(found["layer"]) == set(range(model.shape.n_layers))
'''


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with the page's analysis in it, and a checkpoint with prompts beside it."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("probe", "analyses", "apps", "tests", "docs", "experiments"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "CONTRIBUTING.md", "README.md", "mkdocs.yml"):
        shutil.copy(ROOT / name, folder / name)
    (page,) = BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text())
    (folder / "analyses" / "resid_norm.py").write_text(page)
    (folder / "tests" / "analyses" / "test_resid_norm.py").write_text(IDENTITY)
    tiny.save(folder / "model")
    lines = [f'{{"id": "q{n}", "prompt": "What is {n} + 1?", "answer": " {n + 1}"}}' for n in range(4)]
    (folder / "items.jsonl").write_text("\n".join(lines))
    return folder


def done(checkout: Path, *words: str) -> str:
    """Output of a Python command in the copy."""
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PROBE_RESULTS": str(checkout / "results")}
    out = subprocess.run(
        [sys.executable, *words],
        cwd=checkout,
        env={**os.environ, **quiet, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.returncode == 0, (out.stdout + out.stderr)[-3000:]
    return out.stdout


def test_the_pages_analysis_is_everywhere_it_says(checkout: Path) -> None:
    assert "resid_norm" in done(checkout, "-m", "apps.cli", "list")
    assert "batch_size" in done(checkout, "-m", "apps.cli", "run", "resid_norm", "--help").replace("-", "_")
    told = done(checkout, "-m", "apps.cli", "run", "resid_norm", "--model", "model", "--prompts", "items.jsonl")
    assert "norm" in told
    title, drawn = done(checkout, "-c", PAGE).strip().rsplit(" ", 1)
    assert "residual stream" in title and int(drawn) == 1
    assert "resid_norm" in done(checkout, "-c", REFERENCE)


def test_the_pages_analysis_passes_the_contracts(checkout: Path) -> None:
    words = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/analyses/test_resid_norm.py")
    assert "passed" in done(checkout, *words, "tests/analyses/test_contracts.py", "-k", "resid_norm")
