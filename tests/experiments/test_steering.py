"""The steering experiment: its notebook runs and its claims hold there; README and numbers say the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.steering.report import END, FOLDER, START, tables


def test_the_notebook_is_kept_without_its_outputs() -> None:
    cells = json.loads((FOLDER / "steering.ipynb").read_text())["cells"]
    assert 20 <= len(cells) <= 30
    assert not any(cell.get("outputs") for cell in cells), "outputs are made where it runs, not committed"


@pytest.mark.verify
@pytest.mark.lab
def test_the_notebook_runs_and_its_checks_hold(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="notebooks are executed by nbclient")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("PROBE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(FOLDER / "steering.ipynb", as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(FOLDER)}})
    client.execute()  # the last cell holds the claims as assertions
    figures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "application/vnd.plotly.v1+json" in output.get("data", {})
    ]
    assert len(figures) == 3
    assert len(list((tmp_path / "results").glob("mlp_key_steering/*/record.json"))) == 4, "saved for the dashboard"


def test_the_readme_shows_the_numbers_of_results_json() -> None:
    path = FOLDER / "results.json"
    if not path.is_file():
        pytest.skip("no results.json: python -m experiments.steering")
    shown = (FOLDER / "README.md").read_text().partition(START)[2].partition(END)[0].strip()
    assert shown == tables(json.loads(path.read_text())).strip()
