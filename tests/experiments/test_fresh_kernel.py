"""How long a notebook's reader waits: a kernel that has just started, a model loaded, its first trace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import tiny
from tests.conftest import ROOT

FIRST = """
from probe import Model
model = Model.load({folder!r})
trace = model.run("what is 3 plus 7 ?", read="resid_post")
"""
SPENT = """
import json, resource
spent = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([spent.ru_utime + spent.ru_stime, len(trace.activations)]))
"""


@pytest.mark.verify
def test_the_first_trace_in_a_fresh_kernel_takes_at_most_five_seconds(tmp_path: Path) -> None:
    """Processor time of the whole kernel, its own start and all imports included."""
    nbclient = pytest.importorskip("nbclient", reason="a kernel is started by nbclient")
    nbformat = pytest.importorskip("nbformat")
    folder = str(tiny.save(tmp_path / "model"))
    cells = [nbformat.v4.new_code_cell(text) for text in (FIRST.format(folder=folder), SPENT)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(ROOT)}}).execute()
    seconds, sites = json.loads(notebook.cells[1].outputs[0]["text"])
    print(f"{seconds:.2f} s of processor time")
    assert sites == 3 and seconds <= 5.0
