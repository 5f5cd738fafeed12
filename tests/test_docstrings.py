"""What docstrings say of functions: their parameters are named, their examples run."""

from __future__ import annotations

import ast
import doctest
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

import analyses
from probe import Model
from probe.interventions import patch
from tests import tiny
from tests.conftest import ROOT

FILES = sorted(f for package in ("probe", "analyses", "apps") for f in (ROOT / package).rglob("*.py"))
WITH_EXAMPLES = [str(f.relative_to(ROOT)) for f in FILES if ">>> " in f.read_text(encoding="utf-8")]
SHARE = 0.7  # of public functions of three parameters and more


def public(body: list[ast.stmt]) -> Iterator[ast.FunctionDef]:
    """Public functions of a module and of its public classes; analyses, whose options the registry checks, are not."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public(node.body)
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            marked = {ast.unparse(d).partition("(")[0] for d in node.decorator_list}
            if not marked & {"overload", "analysis"}:
                yield node


def parameters(node: ast.FunctionDef) -> list[str]:
    given = node.args
    found = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return [a.arg for a in found if a and a.arg not in ("self", "cls") and not a.arg.startswith("_")]


def named(node: ast.FunctionDef) -> bool:
    """True where every parameter has a line under `Args:`."""
    section = (ast.get_docstring(node) or "").partition("Args:")[2]
    return all(re.search(rf"^\s+(?:\w+, )*{p}(?:, \w+)*:", section, re.MULTILINE) for p in parameters(node))


def test_functions_of_three_parameters_and_more_name_them() -> None:
    wide = [
        node
        for file in FILES
        if file.parts[len(ROOT.parts)] != "apps" and not re.match(r"_[a-z]", file.name)
        for node in public(ast.parse(file.read_text(encoding="utf-8")).body)
        if len(parameters(node)) > 2
    ]
    without = [node.name for node in wide if not named(node)]
    assert len(without) <= (1 - SHARE) * len(wide), f"{len(without)} of {len(wide)}: {sorted(without)}"


@pytest.mark.parametrize("file", WITH_EXAMPLES)
def test_examples_give_what_they_say(file: str) -> None:
    module = import_module(file.removesuffix(".py").replace("/", "."))
    failed, tried = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE, extraglobs={"np": np})
    assert tried and not failed


def test_there_are_examples() -> None:
    assert len(WITH_EXAMPLES) >= 10


def shown(module: str) -> str:
    """The indented lines of a module's docstring, as a program."""
    doc = import_module(module).__doc__ or ""
    return "\n".join(line[4:] for line in doc.splitlines() if line.startswith("    "))


def test_the_package_shows_a_call_that_runs(tmp_path: Path) -> None:
    place = "runs/lab-short/sft-high/checkpoint-60"
    program = shown("analyses").replace(place, str(tiny.save(tmp_path / "m")))
    assert place in shown("analyses") and 'prompts="prompts.jsonl"' in program
    names = {"prompts": tiny.twelve_items().limit(2)}
    exec(program.replace('"prompts.jsonl"', "prompts"), names)
    assert isinstance(names["result"], analyses.Result)


def test_replay_shows_a_call_that_runs(tmp_path: Path) -> None:
    import probe.replay

    model = Model.load(tiny.save(tmp_path / "m"))
    (batch,) = model.batches(tiny.twelve_items().limit(2), batch_size=2)
    program = shown("probe.replay").replace("resid_post.3", "resid_post.1").replace("range(10)", "range(2)")
    names = {**vars(probe.replay), "model": model, "batch": batch, "patch": patch}
    exec(program, names | {"value": torch.zeros(model.shape.d_model)}, names)
    assert names["effects"].shape == (2, 2)
