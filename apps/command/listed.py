"""The analyses by the question they help to answer, as `probe list` and the help of `run` and `sweep` show them."""

from __future__ import annotations

import shutil
import textwrap

from analyses.core.homes import Outline, homes, outline

QUESTIONS = {  # group of analyses -> what they help to answer; a new group is named here
    "memory": "Is this gain memory? Which checkpoint should I ship?",
    "answers": "How good are the answers?",
    "patching": "Where does it sit?",
    "mechanism": "What changed in the mechanism?",
    "states": "What do the states hold?",
    "attention": "What does attention do?",
    "weights": "What changed in the weights?",
    "entropy": "Why did entropy fall?",
    "credit": "What does the training signal teach?",
    "teaching": "What did the teacher pass on?",
    "steering": "Can I turn it off?",
}
OTHER = "Others"


def by_question() -> dict[str, list[Outline]]:
    """Analyses by question, in the order of `QUESTIONS`, those of an unknown group last."""
    found: dict[str, list[Outline]] = {}
    for of in map(outline, homes()):
        found.setdefault(QUESTIONS.get(of.group, OTHER), []).append(of)
    return {question: found[question] for question in (*QUESTIONS.values(), OTHER) if question in found}


def row(of: Outline) -> dict[str, object]:
    """An analysis as `--json` lists it."""
    return {"analysis": of.name, "inputs": list(of.inputs), "title": of.title}


def line(of: Outline) -> str:
    """An analysis on a line of the terminal's width."""
    inputs = textwrap.shorten(", ".join(of.inputs), 40, placeholder=" ...")
    width = shutil.get_terminal_size((100, 24)).columns
    room = max(width - 26 - len(inputs) - 3, 20)
    return f"  {of.name:<23} {textwrap.shorten(of.title.rstrip('.'), room, placeholder=' ...')} [{inputs}]"
