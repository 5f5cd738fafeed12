"""The picture of a graph: the largest edges, the same lines at every step, parts where their layers are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analyses.patching._wiring import MOST, wiring


def edges(steps: tuple[int, ...]) -> pd.DataFrame:
    """Sixty edges that grow with the step, in two checkpoints."""
    names = [(f"head.{n % 4}.{n % 3}", f"mlp.{n % 4}") for n in range(12)] + [(f"mlp.{n}", "final") for n in range(48)]
    return pd.DataFrame([
        {"sender": s, "receiver": r, "checkpoint": c, "step": step, "value": (-1) ** n * (n + 1) / 60 * (step + 1)}
        for n, (s, r) in enumerate(names) for c in ("base", "tuned") for step in steps
    ]).drop_duplicates(["sender", "receiver", "checkpoint", "step"])  # fmt: skip


def lines(traces: Any) -> list[Any]:
    return [t for t in traces if t.mode == "lines" and t.x is not None and len(t.x) > 1]


def test_only_the_largest_edges_are_drawn_by_sign() -> None:
    figure: Any = wiring(edges((0,)), facet="checkpoint", title="Edges", unit="nats")
    count = sum(sum(x is None for x in t.x) for t in lines(figure.data))
    assert 0 < count <= 2 * MOST
    told = {bool(t.customdata[0].split(": ")[1].startswith(("-", "−"))) for t in lines(figure.data)}
    assert told == {True, False}
    assert {t.line.color for t in lines(figure.data)} == {"rgb(33,102,172)", "rgb(178,24,43)"}


def test_the_graph_changes_with_the_slider() -> None:
    figure: Any = wiring(edges((0, 10, 20)), facet="checkpoint", title="Edges")
    assert [f.name for f in figure.frames] == ["0", "10", "20"]
    thick = [sum(t.line.width == 5 for t in lines(f.data)) for f in figure.frames]
    assert thick[0] == 0 and thick[-1] > 0
    sizes = {len(f.data) for f in figure.frames}
    assert sizes == {len(figure.data)}


def test_layers_are_rows_and_the_ends_lie_beyond_them() -> None:
    rows = pd.DataFrame({"sender": ["embed", "head.2.1"], "receiver": ["q.2.1", "final"], "value": [1.0, -1.0]})
    figure: Any = wiring(rows, title="Edges")
    (nodes,) = [t for t in figure.data if t.mode == "markers+text"]
    spots = dict(zip(nodes.text, zip(nodes.x, nodes.y, strict=True), strict=True))
    assert spots["embed"][1] == -1 and spots["final"][1] == 3 and spots["2.1"] == (1.0, 2.0)
    assert np.isfinite([y for _, y in spots.values()]).all()


def test_both_colours_are_told_once_and_parts_stay_where_they_are() -> None:
    """Also where a step has no edge of a colour, or none of the upper layers."""
    few = edges((0, 10))
    few = few[(few["step"] == 10) | (few["sender"] == "head.0.0")].assign(value=1.0)
    figure: Any = wiring(few, facet="checkpoint", title="Edges")
    for frame in [figure, *figure.frames]:
        told = [t.name for t in figure.data if t.showlegend is not False]
        assert told == ["for the answer", "against the answer"]
        ends = {y for t in lines(frame.data) for x, y in zip(t.x, t.y, strict=True) if x is not None}
        (nodes, _) = [t for t in frame.data if t.mode == "markers+text"]
        assert max(ends) <= max(nodes.y)


def test_an_edge_within_a_column_leaves_it() -> None:
    rows = pd.DataFrame({"sender": ["mlp.0", "mlp.0"], "receiver": ["mlp.3", "mlp.1"], "value": [1.0, 1.0]})
    (drawn,) = lines(wiring(rows).data)
    far = [x for x, y in zip(drawn.x, drawn.y, strict=True) if x is not None and y == 2.0]
    assert far and far[0] < 1 and drawn.x.count(None) == 2
    assert set(drawn.x[: drawn.x.index(None)]) == {1.0}  # its neighbour: nothing lies between
