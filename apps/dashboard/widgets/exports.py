"""What a reader takes from a page: its figures and their numbers as files, and code that makes the view again.

Both are made when their box is open, files when their button is pressed: closed boxes cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from apps.catalog import Entry
from apps.dashboard.widgets import address
from apps.drawn.reproduction import commands

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MAX_COMMANDS = 12
Views = Mapping[str, tuple[Any, pd.DataFrame]]  # name -> (figure, the rows behind it)


@dataclass(frozen=True)
class File:
    """A file to be saved."""

    label: str
    name: str
    mime: str
    data: Callable[[], bytes | str]


def show(page: str, views: Views, made: Callable[[], str], of: Iterable[Entry]) -> None:
    """Export and code of a page.

    Args:
        page: begins the names of files.
        views: the figures on it.
        made: the code.
        of: the results drawn.
    """
    if views:
        offer(lambda: [f for name, view in views.items() for f in files(f"{page}-{name}", *view)])
        code(made, of)


def files(name: str, figure: Figure, rows: pd.DataFrame) -> list[File]:
    """A figure as a page that opens offline, and the rows behind it."""
    label = name.partition("-")[2].replace("-", " ").capitalize()
    return [page(label, name, figure), *tables(label, name, rows)]


def page(label: str, name: str, figure: Figure) -> File:
    """A figure as one HTML file with all it needs."""
    return File(f"{label}, HTML", f"{name}.html", "text/html", lambda: figure.to_html(include_mathjax=False))


def tables(label: str, name: str, rows: pd.DataFrame) -> list[File]:
    """Rows as CSV and as Parquet."""
    return [
        File(f"{label}, CSV", f"{name}.csv", "text/csv", lambda: rows.to_csv(index=False)),
        File(
            f"{label}, Parquet",
            f"{name}.parquet",
            "application/vnd.apache.parquet",
            lambda: rows.to_parquet(index=False),
        ),
    ]


def offer(made: Callable[[], Sequence[File]]) -> None:
    """The box with the files."""
    box = address.folded("Export", key="export", icon=":material/download:", popover=True)
    if not box.open:
        return
    with box:
        address.select("Camera button of a figure saves", ["png", "svg"], key="image", radio=True, horizontal=True)
        for file in made():
            key = f"save-{file.name}"
            st.download_button(file.label, file.data, file.name, file.mime, key=key, on_click="ignore")
        st.caption("HTML opens without a network.")


def code(made: Callable[[], str], of: Iterable[Entry]) -> None:
    """The box with the code, and the commands that computed the results again."""
    box = address.folded("Code to reproduce this view", key="code", icon=":material/code:")
    if not box.open:
        return
    with box:
        st.code(made(), language="python", wrap_lines=True)
        if computed := commands(of):
            st.caption("Computed by")
            st.code("\n".join(computed[:MAX_COMMANDS]), language="bash", wrap_lines=True)
            if len(computed) > MAX_COMMANDS:
                st.caption(f"{MAX_COMMANDS} of {len(computed)} commands")
