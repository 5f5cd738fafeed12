"""Each question's notebook runs, shows a figure and a verdict, and holds its own claims; its page names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT

QUESTIONS = {
    "is-it-memory": "perplexity_paradox/is-it-memory.ipynb",
    "where": "circuit/circuit.ipynb",
    "why-entropy": "entropy_signals/why-entropy.ipynb",
    "which-checkpoint": "over_memorization/which-checkpoint.ipynb",
    "turn-it-off": "steering/steering.ipynb",
}
FULL_LAB = {"where"}  # the others need the short lab alone


def notebook_of(question: str) -> Path:
    return ROOT / "experiments" / QUESTIONS[question]


@pytest.mark.verify
@pytest.mark.lab
@pytest.mark.parametrize("question", QUESTIONS)
def test_the_notebook_shows_a_figure_and_a_verdict_and_its_claims_hold(
    question: str, lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    if question in FULL_LAB and not (ROOT / "runs" / "lab" / "seed-0").is_dir():
        pytest.skip("no full lab: python -m experiments.lab --seed 0")
    monkeypatch.setenv("PROBE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path = notebook_of(question)
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(path.parent)}})
    client.execute()  # the last cell holds the claims as assertions
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs)
    printed = [cell for cell in notebook.cells if "verdict" in cell.source and cell.source.count("print(")]
    assert any(output.get("name") == "stdout" for cell in printed for output in cell.outputs)


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_page_names_its_notebook_which_says_what_would_overturn_it(question: str) -> None:
    page = (ROOT / "docs" / "questions" / f"{question}.md").read_text()
    path = notebook_of(question)
    assert f"experiments/{path.parent.name}/README.md" in page
    assert f"]({path.name})" in (path.parent / "README.md").read_text()
    cells = json.loads(path.read_text())["cells"]
    assert 12 <= len(cells) <= 25
    assert not any(cell.get("outputs") for cell in cells), "outputs are made where it runs, not committed"
    texts = ["".join(cell["source"]) for cell in cells]
    assert any("## What would overturn this" in text for text in texts)
    assert "\nassert " in texts[-1]
