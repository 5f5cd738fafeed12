"""What must hold of every analysis in the registry, whoever wrote it.

Inputs come from ``example(folder)`` in the analysis's own test file (a dict of inputs, and of options that
keep it quick); an analysis of models and prompts needs none and gets the tiny models of conftest.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from analyses import Result, Store, get, names
from analyses.core.analysis import DOC_SECTIONS, Analysis
from analyses.core.result import DIMS
from analyses.core.running.run import run
from analyses.core.running.sweep import join
from probe import Model, Prompts, Rollouts
from tests import crowded
from tests.conftest import ROOT

Inputs = Callable[[str], dict[str, Any]]
Plain = Callable[[str], Result]


@pytest.fixture(scope="module")
def inputs(models: dict[str, Any], prompts: Prompts, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    made: dict[str, dict[str, Any]] = {}

    def of(name: str) -> dict[str, Any]:
        if name not in made:
            made[name] = _example(name, tmp_path_factory.mktemp(name)) or _by_kind(get(name), models, prompts)
        return made[name]

    return of


@pytest.fixture(scope="module")
def plain(inputs: Inputs) -> Plain:
    """The result of an analysis on its inputs, computed once for all tests here."""
    return cache(lambda name: run(name, **inputs(name)))


def _example(name: str, folder: Path) -> dict[str, Any] | None:
    module = f"tests.analyses.test_{name}"
    if importlib.util.find_spec(module) is None:
        pytest.fail(f"{name} has no test file tests/analyses/test_{name}.py")
    example = getattr(importlib.import_module(module), "example", None)
    return example(folder) if example else None


def _by_kind(of: Analysis, models: dict[str, Any], prompts: Prompts) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for wanted in of.inputs:
        if wanted.kind == "Model":
            given[wanted.name] = models[wanted.name]
        elif wanted.kind == "Prompts":
            given[wanted.name] = prompts
        elif wanted.kind == "Result" and not wanted.optional:
            given |= _by_kind(get(str(wanted.upstream)), models, prompts)
        elif not wanted.optional:
            pytest.fail(f"tests/analyses/test_{of.name}.py must define example(folder): input {wanted.name}")
    return given


def same(first: Result, second: Result, tolerance: float = 0.0) -> None:
    """Tables and arrays agree, row by row in any order of rows of equal content."""
    assert list(first.table.columns) == list(second.table.columns)
    a, b = _ordered(first.table), _ordered(second.table)
    if tolerance and "gap" in a:  # a share is as exact as what it is divided by: random weights have gaps near 0
        a, b = (t.assign(recovery=t["recovery"] * t["gap"]) for t in (a, b))
    pd.testing.assert_frame_equal(a, b, check_exact=tolerance == 0, rtol=tolerance, atol=tolerance)
    if tolerance == 0:
        xr.testing.assert_identical(first.data, second.data)
    else:
        xr.testing.assert_allclose(first.data, second.data, rtol=tolerance, atol=tolerance)


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    # List columns (top-k) are ordered by value and may swap on ties of 1e-7: the numbers are compared elsewhere.
    flat = table[[c for c in table if not table[c].map(lambda v: isinstance(v, list | np.ndarray)).any()]]
    identity = [c for c in flat if not pd.api.types.is_float_dtype(flat[c])]
    return flat.sort_values(identity, kind="stable").reset_index(drop=True) if identity else flat


every = pytest.mark.parametrize("name", names())
on_models = pytest.mark.parametrize("name", [n for n in names() if get(n).arity != "result"])
on_pairs = pytest.mark.parametrize("name", [n for n in names() if get(n).arity == "pair"])


@every
def test_documented(name: str) -> None:
    of = get(name)
    missing = [s for s in DOC_SECTIONS if not of.sections.get(s)]
    assert not missing, f"module docstring of {name} lacks {missing}"
    assert of.function.__doc__, f"{name} has no docstring"
    undocumented = [o.name for o in of.options if not o.help]
    assert not undocumented, f"{name}: options without a line under Args: {undocumented}"
    declared = {o.name for o in of.options}
    if of.arity != "result":
        assert {"batch_size", "seed"} <= declared


@every
def test_runs_twice_the_same_and_survives_the_store(name: str, inputs: Inputs, plain: Plain, tmp_path: Path) -> None:
    first = plain(name)
    second = run(name, store=Store(tmp_path), **inputs(name))
    same(first, second)
    assert first.key == second.key
    back = Store(tmp_path).get(name, first.key)
    same(second, back)
    json.dumps(dict(back.record))
    assert set(map(str, back.data.dims)) <= set(DIMS)
    back.summary()


@every
def test_figures_build_and_are_labelled(name: str, plain: Plain) -> None:
    result = plain(name)
    drawn = [result]
    if get(name).arity != "result":  # what a sweep over two checkpoints gives is drawn by the same function
        drawn.append(join([{"step": 0}, {"step": 10}], [result, result]).with_record(**result.record))
    for title, figure in (shown for each in drawn for shown in each.figures().items()):
        assert figure.to_json(), title
        assert figure.layout.title.text, f"{name}/{title} has no title"
    can_be_read(name, result, crowded.SMALL)


def can_be_read(name: str, result: Result, size: dict[str, int]) -> None:
    """Figures of a result of this size, as a sweep has it, have few panels, lines and pixels."""
    large = crowded.enlarged(result, size)
    large = large if get(name).arity == "result" else crowded.swept(large, size)
    for title, figure in large.figures().items():
        assert not crowded.unreadable(figure), f"{name}/{title}: {crowded.crowd(figure)}"


@every
@pytest.mark.verify
def test_figures_of_a_real_run_can_be_read(name: str, plain: Plain) -> None:
    can_be_read(name, plain(name), crowded.LARGE)


@every
def test_every_choice_and_switch_runs_and_some_change_something(name: str, inputs: Inputs, plain: Plain) -> None:
    """An option none of whose other values changes the result of these inputs says in `ALIKE` why."""
    given, idle = inputs(name), set[str]()
    for option in get(name).options:
        values = option.choices or ((True, False) if isinstance(option.default, bool) else ())
        needs_more = {given.get(option.name, option.default), *NEEDS_MORE.get((name, option.name), ())}
        results = [run(name, **{**given, option.name: value}) for value in values if value not in needs_more]
        if results and not any(differs(plain(name), result) for result in results):
            idle.add(option.name)
    assert idle == {option for analysis, option in ALIKE if analysis == name}


def differs(first: Result, second: Result) -> bool:
    """True where two results are not the same in rows, arrays, claims or warnings."""
    try:
        same(first, second)
    except AssertionError:
        return True
    return repr(first.claims) != repr(second.claims) or first.warnings != second.warnings


NEEDS_MORE: dict[tuple[str, str], tuple[Any, ...]] = {
    **{(n, "pooling"): ("rationale",) for n in names()},  # the items have none
    **{(n, "template"): ("chat",) for n in names()},  # the tiny tokenizer has no chat template: tested apart
}
NONE_STRADDLES = "no token of these items straddles: tests/analyses/test_boundary.py has some that do"
ALIKE = {
    **{
        (n, "boundary"): NONE_STRADDLES
        for n in names()
        if "boundary" in {o.name for o in get(n).options} and n != "path_patching"
    },
    ("attribution_patching", "qk_fix"): "q and k are not among the sites",
    ("entropy", "at_temperature"): "the log was sampled at temperature 1",
    ("entropy_change", "at_temperature"): "the log was sampled at temperature 1",
    ("forking_tokens", "at_temperature"): "the log was sampled at temperature 1",
    ("forking_tokens", "siren_form"): "no token is likelier than siren_p, and only there the two forms differ",
    ("entropy_attribution", "centre"): "advantages average to zero in their groups",
    ("evaluate", "skip_unreadable"): "every gold answer can be read",
    ("labels", "rule"): "every item is clear by every rule",
    ("mlp_key_steering", "role"): "no window of a verdict is steered",
    ("mlp_key_steering", "steer_at"): "nothing is generated",
    ("ood", "unparsed"): "every response has an answer",
    ("over_memorization", "unparsed"): "curves are given, no answers",
    ("path_patching", "corrupt"): "new is that of another checkpoint",
    ("path_patching", "kv"): "no key or value is a receiver",
}
"""(analysis, option) none of whose values changes the contract tests' result, and why."""


@on_models
def test_batch_size_changes_nothing(name: str, inputs: Inputs, plain: Plain) -> None:
    same(plain(name), run(name, **{**inputs(name), "batch_size": 3}), tolerance=1e-5)


@on_models
def test_padding_side_changes_nothing(name: str, inputs: Inputs, plain: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    left = plain(name)
    batches = Model.batches
    monkeypatch.setattr(Model, "batches", lambda self, p, **o: batches(self, p, **{**o, "padding": "right"}))
    same(left, run(name, **inputs(name)), tolerance=1e-5)


@on_pairs
def test_identical_checkpoints_are_a_warning(name: str, inputs: Inputs) -> None:
    given = inputs(name)
    assert run(name, **{**given, "tuned": given["base"]}).warnings


WITHOUT_TORCH = """
import pickle, sys
from importlib.machinery import PathFinder
found = PathFinder.find_spec
PathFinder.find_spec = lambda name, *more: None if name.partition(".")[0] == "torch" else found(name, *more)
import pyarrow as pa
from analyses import run
from probe import Rollouts
for name, inputs in pickle.load(sys.stdin.buffer).items():
    run(name, **{k: Rollouts.of(v) if isinstance(v, pa.Table) else v for k, v in inputs.items()})
    print(name)
"""


def test_analyses_of_logs_and_results_run_without_torch(inputs: Inputs) -> None:
    """All that take neither models nor checkpoints, in a process that has no torch (a log goes there as a table)."""
    light = [n for n in names() if not {"Model", "Checkpoints"} & {i.kind for i in get(n).inputs}]
    given = {n: {k: v.data.to_table() if isinstance(v, Rollouts) else v for k, v in inputs(n).items()} for n in light}
    called = [sys.executable, "-c", WITHOUT_TORCH]
    done = subprocess.run(called, input=pickle.dumps(given), capture_output=True, check=False, cwd=ROOT)
    assert done.stdout.decode().split() == light, done.stderr.decode()
