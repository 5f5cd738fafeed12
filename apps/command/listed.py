"""The analyses by the question they help to answer, as `probe list` and the help of `run` and `sweep` show them."""

from __future__ import annotations

import shutil
import textwrap

from analyses.core import analysis as registry
from analyses.core.analysis import Analysis
from analyses.core.homes import homes

QUESTIONS = {  # group of analyses -> what they help to answer; a new group is named here
    "memory": "Is this gain memory? Which checkpoint should I ship?",
    "answers": "How good are the answers?",
    "patching": "Where does it sit?",
    "states": "What do the states hold?",
    "attention": "What does attention do?",
    "weights": "What changed in the weights?",
    "entropy": "Why did entropy fall?",
    "credit": "What does the training signal teach?",
    "teaching": "What did the teacher pass on?",
    "steering": "Can I turn it off?",
}
OTHER = "Others"


def by_question() -> dict[str, list[Analysis]]:
    """Analyses by question, in the order of `QUESTIONS`, those of an unknown group last."""
    found: dict[str, list[Analysis]] = {}
    for name in registry.names():
        group = homes()[name].split(".")[-2]
        found.setdefault(QUESTIONS.get(group, OTHER), []).append(registry.get(name))
    return {question: found[question] for question in (*QUESTIONS.values(), OTHER) if question in found}


def row(of: Analysis) -> dict[str, object]:
    """An analysis as `--json` lists it."""
    return {"analysis": of.name, "inputs": [i.name for i in of.inputs], "title": of.title}


def line(of: Analysis) -> str:
    """An analysis on a line of the terminal's width."""
    inputs = textwrap.shorten(", ".join(i.name for i in of.inputs), 40, placeholder=" ...")
    width = shutil.get_terminal_size((100, 24)).columns
    room = max(width - 26 - len(inputs) - 3, 20)
    return f"  {of.name:<23} {textwrap.shorten(of.title.rstrip('.'), room, placeholder=' ...')} [{inputs}]"
