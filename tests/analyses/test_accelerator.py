"""Every analysis gives on an accelerator what it gives on the CPU, by either backend.

Without one the device is pretended (`tests/pretend.py`): a tensor left on the CPU is an error there as it would be on
a GPU. `make gpu` runs the same tests on `cuda:0` (PROBE_TEST_DEVICE).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from analyses import Result, get, names, run
from analyses.core.running.inputs import Loading
from probe import Model, Prompts
from tests import tiny
from tests.accelerator import DEVICE, accelerator, devices_map
from tests.analyses.test_contracts import same

pytestmark = pytest.mark.gpu
Made = Callable[[str, dict[str, Any]], Result]


def _reads_models(name: str) -> bool:
    of = get(name)
    return of.arity != "result" or any(i.kind in ("Model", "Checkpoints") for i in of.inputs)


MODELS = [n for n in names() if _reads_models(n)]
CLOSE = 1e-4  # kernels differ by device, and a share of a small gap magnifies their rounding
# All that go their own ways through blocks and weights. Not those with gradients: torch's autograd knows one device
# of a backend written in Python.
SPREAD = ("logit_lens", "divergence", "cross_patching", "path_patching", "mlp_key_steering", "evaluate", "weight_reset",
          "counterfactual_mlp", "semantic_entropy", "probe_gated_audit")  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.series(tmp_path_factory.mktemp("accelerator"), steps=(0, 20))


@pytest.fixture(scope="module")
def made(folders: Path, prompts: Prompts, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Runs an analysis on the inputs of its contract tests, its models loaded as the options say; once for each."""
    results: dict[str, Result] = {}
    handles: dict[str, Model] = {}

    def handle(step: int, options: dict[str, Any]) -> Model:
        key = f"{step} {options}"
        if key not in handles:
            handles[key] = Model.load(folders / f"checkpoint-{step}", check=False, **options)
        return handles[key]

    def inputs(name: str, options: dict[str, Any]) -> dict[str, Any]:
        (file,) = Path(__file__).parent.rglob(f"test_{name}.py")
        example = getattr(importlib.import_module(_dotted(file)), "example", None)
        if example is not None:
            defaults: Any = Model.load.__func__.__kwdefaults__  # type: ignore[attr-defined]
            with pytest.MonkeyPatch.context() as patch:
                for option, value in {**options, "check": False}.items():
                    patch.setitem(defaults, option, value)
                return example(tmp_path_factory.mktemp(name))
        steps = {"base": 0, "tuned": 20, "model": 20}
        given: dict[str, Any] = {}
        for wanted in get(name).inputs:
            if wanted.kind == "Model":
                given[wanted.name] = handle(steps[wanted.name], options)
            elif wanted.kind == "Prompts":
                given[wanted.name] = prompts
            elif wanted.kind == "Result" and not wanted.optional:
                given |= inputs(str(wanted.upstream), options)
        return given

    def of(name: str, options: dict[str, Any]) -> Result:
        key = f"{name} {options}"
        if key not in results:
            with accelerator() if options else nullcontext():
                results[key] = run(name, loading=Loading(**_loading(options)), **inputs(name, options))
        return results[key]

    return of


def _dotted(file: Path) -> str:
    return ".".join(("tests", "analyses", *file.relative_to(Path(__file__).parent).with_suffix("").parts))


def _loading(options: dict[str, Any]) -> dict[str, Any]:
    import json

    placed = {k: v for k, v in options.items() if k != "device_map"}
    return {**placed, "device": json.dumps(options["device_map"])} if "device_map" in options else placed


@pytest.mark.parametrize("name", MODELS)
def test_an_analysis_equals_the_cpus(name: str, made: Made) -> None:
    same(made(name, {}), made(name, {"device": DEVICE}), tolerance=CLOSE)


@pytest.mark.parametrize("name", MODELS)
def test_an_analysis_equals_the_cpus_under_nnsight(name: str, made: Made) -> None:
    same(made(name, {}), made(name, {"device": DEVICE, "backend": "nnsight"}), tolerance=CLOSE)


@pytest.mark.parametrize("name", SPREAD)
def test_an_analysis_equals_the_cpus_over_two_devices(name: str, made: Made) -> None:
    same(made(name, {}), made(name, {"device_map": devices_map()}), tolerance=CLOSE)
