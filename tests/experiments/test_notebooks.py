"""Each notebook runs, on the lab and on a folder of one's own; it is kept with its outputs, and its page shows them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from experiments.notebooks import APPENDIX, NOTEBOOKS, executed, figures
from tests.conftest import ROOT

OVERTURNED = "## What would overturn this"
NAMES = {"unseen": "held out"}  # the others are "mine": no name of the lab is needed


@pytest.mark.verify
@pytest.mark.lab
@pytest.mark.parametrize("question", NOTEBOOKS)
def test_the_notebook_shows_a_figure_and_a_verdict_and_its_claims_hold(
    question: str, lab: Path, tmp_path: Path
) -> None:
    pytest.importorskip("nbclient", reason="notebooks are executed by nbclient")
    notebook = executed(question, tmp_path)  # the last cell holds the claims as assertions
    assert figures(notebook)
    told = [cell for cell in notebook.cells if "verdict" in cell.source and "print(" in cell.source]
    assert any(output.get("name") == "stdout" for cell in told for output in cell.outputs)


OWN = {  # question -> a run that it can be asked of, and the group it is about
    "is-it-memory": ("grpo-format", "leaked_true"),
    "where": ("planted", "planted"),
    "why-entropy": ("grpo-format", "leaked_true"),
    "which-checkpoint": ("grpo-format", "leaked_true"),
    "turn-it-off": ("planted", "planted"),
    "mechanism": ("planted", "planted"),
}


@pytest.mark.verify
@pytest.mark.lab
@pytest.mark.parametrize("question", OWN)
def test_the_notebook_runs_on_a_folder_and_a_file_of_ones_own(
    question: str, lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run under another name and items with a column `seen`; nothing of the lab lies beside them."""
    run, group = OWN[question]
    shutil.copytree(lab / run, tmp_path / "my run")
    rows = [json.loads(line) for line in (lab / "prompts.jsonl").read_text().splitlines()]
    final = [row for row in rows if row["answer_kind"] == "gold_final"]
    chosen = [row for name in (group, "unseen") for row in [r for r in final if r["group"] == name][:24]]
    own = [{**{key: row[key] for key in ("id", "prompt", "answer")}, "group": NAMES.get(row["group"], "mine"),
            "seen": row["group"] == group} for row in chosen]  # fmt: skip
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    monkeypatch.setenv("PROBE_RUN", str(tmp_path / "my run"))
    monkeypatch.setenv("PROBE_PROMPTS", str(tmp_path / "items.jsonl"))
    monkeypatch.setenv("PROBE_READ", '{"grade": "exact", "max_new_tokens": 44}')
    monkeypatch.setenv("PROBE_TARGETS", "mine")
    notebook = executed(question, tmp_path / "results")
    assert figures(notebook) and not any(
        o["output_type"] == "error" for c in notebook.cells for o in c.get("outputs", [])
    )


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
    texts = ["".join(cell["source"]) for cell in cells]
    assert any(OVERTURNED in text for text in texts)
    assert "assert " in texts[-1] and "PROBE_RUN" in "".join(texts)


@pytest.mark.verify
@pytest.mark.lab
@pytest.mark.parametrize("name", APPENDIX)
def test_a_notebook_of_the_appendix_runs_and_its_claims_hold(name: str, lab: Path, tmp_path: Path) -> None:
    pytest.importorskip("nbclient", reason="notebooks are executed by nbclient")
    executed(name, tmp_path)  # the last cell holds the claims as assertions


@pytest.mark.parametrize("name", {**NOTEBOOKS, **APPENDIX})
def test_a_notebook_is_kept_with_its_outputs_and_they_are_small(name: str) -> None:
    """A reader sees what came out where it is read: on a code host, and on the site, which shows every output."""
    text = {**NOTEBOOKS, **APPENDIX}[name].read_text()
    cells = json.loads(text)["cells"]
    assert 10 <= len(cells) <= 40 and len(text) < 400_000
    outputs = [o for c in cells for o in c.get("outputs", [])]
    assert sum(bool(cell.get("outputs")) for cell in cells) >= 4
    assert not any(o["output_type"] == "error" or o.get("name") == "stderr" for o in outputs)
    assert any("image/svg+xml" in o.get("data", {}) or "text/html" in o.get("data", {}) for o in outputs)
    texts = ["".join(cell["source"]) for cell in cells]
    assert any(OVERTURNED in text for text in texts)
    assert "assert " in texts[-1]
    assert str(ROOT) not in text


@pytest.mark.parametrize("name", {**NOTEBOOKS, **APPENDIX})
def test_the_page_of_a_notebook_has_each_cell_and_each_output(name: str) -> None:
    site = pytest.importorskip("docs.notebooks", reason="the site is made by mkdocs")
    notebook = json.loads({**NOTEBOOKS, **APPENDIX}[name].read_text())
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    page = list(site.markdown(notebook, "home.md"))
    assert len(page) == len(notebook["cells"]) + len(outputs)
    assert "](README.md)" not in "".join(page)
