"""The notebooks, run: `python -m experiments.notebooks [name ...]` runs them and keeps what they show.

The first figure of a question's notebook becomes `<notebook>.svg` beside it too; its README and its page show that.
Needs the short lab (`make demo`); the drawing needs a browser, as every static export of Plotly does.
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
TECHNIQUES = ("steer", "path_patching", "live", "diff", "mechanism")
APPENDIX = {name: FOLDER / "appendix" / f"{name}.ipynb" for name in TECHNIQUES}
"""Notebooks of one technique each."""
DRAWN, WIDTH = "application/vnd.plotly.v1+json", 900


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
    """Run a notebook and keep what it shows; no bars or warnings of others, no paths of this machine."""
    import nbformat

    notebook = executed(name, results)
    drawn = figures(notebook)
    if name in NOTEBOOKS:
        drawn[0].write_image(NOTEBOOKS[name].with_suffix(".svg"), width=WIDTH)
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [_kept(output) for output in cell.outputs if output.get("name") != "stderr"]
    text = nbformat.writes(notebook).replace(f"{FOLDER.parent}{os.sep}", "").replace(str(FOLDER.parent), ".")
    {**NOTEBOOKS, **APPENDIX}[name].write_text(text + "\n", encoding="utf-8")


def _kept(output: NotebookNode) -> NotebookNode:
    """An output as it is kept: a figure as a picture, which a page without scripts shows too."""
    import plotly.graph_objects as go

    if DRAWN in output.get("data", {}):
        drawn = output["data"].pop(DRAWN)
        picture = go.Figure(data=drawn["data"], layout=drawn["layout"]).to_image("svg", width=WIDTH)
        output["data"] = {"image/svg+xml": picture.decode(), "text/plain": "Figure"}
    return output


def figures(notebook: NotebookNode) -> list[Figure]:
    """Every Plotly figure among the outputs, in order."""
    import plotly.graph_objects as go

    outputs: list[Any] = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    drawn = [output["data"][DRAWN] for output in outputs if DRAWN in output.get("data", {})]
    return [go.Figure(data=one["data"], layout=one["layout"]) for one in drawn]


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Notebooks to run; without a name all of them.")] = None,
) -> None:
    """Run the named notebooks and keep what they show."""
    wanted = names or [*APPENDIX, *NOTEBOOKS]
    if unknown := [n for n in wanted if n not in {**APPENDIX, **NOTEBOOKS}]:
        raise typer.BadParameter(f"no notebook {', '.join(unknown)}; there are {', '.join([*NOTEBOOKS, *APPENDIX])}")
    with tempfile.TemporaryDirectory() as results:
        for name in wanted:
            save(name, Path(results))


if __name__ == "__main__":
    typer.run(main)
