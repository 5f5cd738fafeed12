"""The notebooks, run: `python -m experiments.notebooks [name ...]` draws the questions' pages, renews the appendix.

What a notebook shows first becomes `<notebook>.svg` beside it; its README and its page show that. Needs the short lab
(`make demo`), and `where` the full lab's seed 0; the drawing needs a browser, as every static export of Plotly does.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from nbformat import NotebookNode
    from plotly.graph_objects import Figure

FOLDER = Path(__file__).parent
NOTEBOOKS = {
    "is-it-memory": FOLDER / "perplexity_paradox" / "is-it-memory.ipynb",
    "where": FOLDER / "circuit" / "circuit.ipynb",
    "why-entropy": FOLDER / "entropy_signals" / "why-entropy.ipynb",
    "which-checkpoint": FOLDER / "over_memorization" / "which-checkpoint.ipynb",
    "turn-it-off": FOLDER / "steering" / "steering.ipynb",
}
APPENDIX = {name: FOLDER / "appendix" / f"{name}.ipynb" for name in ("steer", "path_patching", "live", "diff")}
"""Notebooks of one technique each, kept with their outputs."""
DRAWN = "application/vnd.plotly.v1+json"


def executed(name: str, results: Path) -> NotebookNode:
    """The notebook of a question or of the appendix with its outputs; results are kept in `results`.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; the last one asserts what the notebook claims.
    """
    import nbclient
    import nbformat

    path = {**NOTEBOOKS, **APPENDIX}[name]
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(path.parent)}})
    client.execute(env={**os.environ, "PROBE_RESULTS": str(results), "OMP_NUM_THREADS": "1"})
    return notebook


def save(name: str, results: Path) -> None:
    """Run a notebook of the appendix and keep what it shows; no warnings of others, no paths of this machine."""
    import nbformat

    notebook = executed(name, results)
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    text = nbformat.writes(notebook).replace(f"{FOLDER.parent}{os.sep}", "").replace(str(FOLDER.parent), ".")
    APPENDIX[name].write_text(text + "\n", encoding="utf-8")


def figures(notebook: NotebookNode) -> list[Figure]:
    """Every Plotly figure among the outputs, in order."""
    import plotly.graph_objects as go

    outputs: list[Any] = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    drawn = [output["data"][DRAWN] for output in outputs if DRAWN in output.get("data", {})]
    return [go.Figure(data=one["data"], layout=one["layout"]) for one in drawn]


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Notebooks to run; without a name all of them.")] = None,
) -> None:
    """Run the named notebooks: draw what a question's shows first, keep what the appendix's show."""
    wanted = names or [*APPENDIX, *NOTEBOOKS]
    if unknown := [n for n in wanted if n not in {**APPENDIX, **NOTEBOOKS}]:
        raise typer.BadParameter(f"no notebook {', '.join(unknown)}; there are {', '.join([*NOTEBOOKS, *APPENDIX])}")
    with tempfile.TemporaryDirectory() as results:
        for name in wanted:
            if name in APPENDIX:
                save(name, Path(results))
            else:
                first, *_ = figures(executed(name, Path(results)))
                first.write_image(NOTEBOOKS[name].with_suffix(".svg"), width=900)


if __name__ == "__main__":
    typer.run(main)
