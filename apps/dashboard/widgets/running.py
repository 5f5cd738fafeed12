"""Running a model from a page: whether it is allowed and possible here, and the model, loaded once."""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import TYPE_CHECKING

import streamlit as st

import probe

if TYPE_CHECKING:
    from probe import Model

OFF = "this dashboard can be reached from other machines. Start it with PROBE_STEER=1 to allow it."


def reason(*, thoroughly: bool = False) -> str:
    """Why no model can be run here, "" where one can.

    Args:
        thoroughly: import torch instead of looking whether it is installed, which takes seconds.
    """
    if os.environ.get("PROBE_DASHBOARD_OPEN") == "1" and os.environ.get("PROBE_STEER") != "1":
        return f"off: {OFF}"
    try:
        there = importlib.import_module("torch") if thoroughly else importlib.util.find_spec("torch")
    except ImportError:
        there = None
    return "" if there else "torch is not installed here"


@st.cache_resource(max_entries=2, show_spinner="Loading the model ...")
def model(path: str) -> Model:
    """The model at a path."""
    return probe.Model.load(path)
