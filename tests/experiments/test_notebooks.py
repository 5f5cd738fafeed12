"""Each question's notebook runs, shows a figure and a verdict, and holds its own claims; its page shows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.notebooks import APPENDIX, NOTEBOOKS, executed, figures
from tests.conftest import ROOT

FULL_LAB = {"where"}  # the others need the short lab alone


@pytest.mark.verify
@pytest.mark.lab
@pytest.mark.parametrize("question", NOTEBOOKS)
def test_the_notebook_shows_a_figure_and_a_verdict_and_its_claims_hold(
    question: str, lab: Path, tmp_path: Path
) -> None:
    pytest.importorskip("nbclient", reason="notebooks are executed by nbclient")
    if question in FULL_LAB and not (ROOT / "runs" / "lab" / "seed-0").is_dir():
        pytest.skip("no full lab: python -m experiments.lab --seed 0")
    notebook = executed(question, tmp_path)  # the last cell holds the claims as assertions
    assert figures(notebook)
    told = [cell for cell in notebook.cells if "verdict" in cell.source and "print(" in cell.source]
    assert any(output.get("name") == "stdout" for cell in told for output in cell.outputs)


@pytest.mark.parametrize("question", NOTEBOOKS)
def test_the_page_shows_the_notebook_its_figure_and_what_would_overturn_it(question: str) -> None:
    path = NOTEBOOKS[question]
    page = (ROOT / "docs" / "questions" / f"{question}.md").read_text()
    assert f"experiments/{path.parent.name}/README.md" in page
    readme = (path.parent / "README.md").read_text()
    assert f"]({path.name})" in readme
    assert f"]({path.stem}.svg)" in readme
    assert path.with_suffix(".svg").is_file()
    cells = json.loads(path.read_text())["cells"]
    assert 12 <= len(cells) <= 25
    assert not any(cell.get("outputs") for cell in cells), "outputs are made where it runs, not committed"
    texts = ["".join(cell["source"]) for cell in cells]
    assert any("## What would overturn this" in text for text in texts)
    assert "\nassert " in texts[-1]


@pytest.mark.verify
@pytest.mark.lab
@pytest.mark.parametrize("name", APPENDIX)
def test_a_notebook_of_the_appendix_runs_and_its_claims_hold(name: str, lab: Path, tmp_path: Path) -> None:
    pytest.importorskip("nbclient", reason="notebooks are executed by nbclient")
    executed(name, tmp_path)  # the last cell holds the claims as assertions


@pytest.mark.parametrize("name", APPENDIX)
def test_the_appendix_is_kept_with_its_outputs_and_they_are_small(name: str) -> None:
    text = APPENDIX[name].read_text()
    cells = json.loads(text)["cells"]
    assert len(cells) <= 40 and len(text) < 400_000
    assert sum(bool(cell.get("outputs")) for cell in cells) >= 4
    assert not any(
        o["output_type"] == "error" or o.get("name") == "stderr" for c in cells for o in c.get("outputs", [])
    )
    texts = ["".join(cell["source"]) for cell in cells]
    assert any("## What would overturn this" in text for text in texts)
    assert texts[-1].startswith(("assert ", "last = ", "fall = ")) and "assert " in texts[-1]
    assert str(ROOT) not in text
