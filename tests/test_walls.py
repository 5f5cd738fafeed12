"""The walls of the house: every contract of pyproject.toml catches what it forbids, also through a lazy package."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import networkx
import pytest

from analyses.core import keys
from tests.conftest import ROOT
from tests.contract_types import hands_on

CODE = ("probe", "analyses", "apps", "experiments", "benchmarks")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
CONTRACTS = [c["name"] for c in SETTINGS["importlinter"]["contracts"]]
SHARED_LATER = {  # modules of core that one group uses: why they are in core all the same
    "analyses.core.reading.pooled": "pooled states of all items: what is read off a model, whoever asks",
    "analyses.core.reading.tangent": "the derivative along an update: what is read off a model, whoever asks",
    "analyses.core.figures.paths": "a kind of chart, beside the others",
}
RESULT_FILES = ("table.parquet", "arrays.nc", "record.json")

GROUPS = sorted(f.name for f in (ROOT / "analyses").iterdir() if f.is_dir() and f.name not in ("core", "__pycache__"))

PLANTED = {  # file that breaks a contract, the line that does it -> words of the contract, what is told
    ("probe/errors.py", "from analyses import get"): ("floors", "probe.errors -> analyses.core.analysis"),
    ("experiments/lab/world.py", "from apps import report"): ("floors", "experiments.lab.world -> apps.report"),
    ("analyses/answers/labels.py", "import analyses.memory.perplexity"): ("side by side", "analyses.memory.perplexity"),
    ("analyses/core/stats/max_t.py", "def f():\n    from analyses.core import progress"): (
        "core: running",
        "analyses.core.stats.max_t -> analyses.core.progress",
    ),
    ("analyses/core/reading/grading.py", "from analyses.core.figures import curve"): (
        "core: running",
        "analyses.core.reading.grading -> analyses.core.figures.charts",
    ),
    ("analyses/states/similarity.py", "from analyses.core.running.inputs import Loading"): (
        "no analysis runs",
        "analyses.states.similarity -> analyses.core.running.inputs",
    ),
    ("analyses/memory/memorization.py", "def f():\n    from analyses import sweep"): (
        "no analysis runs",
        "analyses.memory.memorization -> analyses.core.running.sweep",
    ),
    ("analyses/weights/weight_drift.py", "from analyses import Store"): (
        "no analysis runs",
        "analyses.weights.weight_drift -> analyses.core.store.store",
    ),
    ("apps/catalog.py", "from analyses.steering import _arms"): ("helpers of a group", "apps.catalog imports"),
    ("apps/drawn/maps.py", "from apps import report"): ("apps: commands", "apps.drawn.maps -> apps.report"),
    ("apps/dashboard/pages/token.py", "from apps.dashboard.pages import run"): (
        "no page imports",
        "pages.token -> apps.dashboard.pages.run",
    ),
    ("apps/dashboard/widgets/tables.py", "from apps.dashboard.pages import circuit"): ("dashboard: pages", "tables"),
    ("apps/drawn/curves.py", "import streamlit"): ("know no page", "apps.drawn.curves -> streamlit"),
    ("apps/drawn/strips.py", "def f():\n    from probe import Model"): ("know no page", "apps.drawn.strips ->"),
    ("analyses/core/claim.py", "import torch"): ("need no torch", "analyses.core.claim -> torch"),
    ("apps/command/terminal.py", "import streamlit"): ("streamlit only", "apps.command.terminal -> streamlit"),
    ("probe/sites.py", "import xarray"): ("never enter floor 1", "probe.sites -> xarray"),
    ("analyses/credit/advantage_modulation.py", "import transformer_lens"): (
        "only in probe.backends",
        "advantage_modulation -> transformer_lens",
    ),
    ("apps/notebook.py", "from experiments.lab import world"): ("nothing imports experiments", "apps.notebook ->"),
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the linter says of a copy of the house in which every wall is broken."""
    copy = tmp_path_factory.mktemp("walls")
    for name in (*CODE, "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.ipynb"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    for name, line in PLANTED:
        file = copy / name
        file.write_text(f"{file.read_text()}\n\n{line}\n")
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    quiet = {**os.environ, "PYTHONPATH": str(copy), "COLUMNS": "1000"}
    done = subprocess.run(command, cwd=copy, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", CONTRACTS)
def test_every_contract_can_break(told: str, name: str) -> None:
    assert f"{name} BROKEN" in " ".join(told.split()), "plant a violation of it"


@pytest.mark.parametrize("planted", PLANTED, ids=lambda p: f"{p[0]}: {p[1]}")
def test_what_breaks_a_wall_is_named(told: str, planted: tuple[str, str]) -> None:
    words, said = PLANTED[planted]
    sections = re.split(r"\n(.+)\n-{8,}\n", told)
    (section,) = [text for title, text in zip(sections[1::2], sections[2::2]) if words in title]
    assert said in section, section[:3000]


def modules() -> dict[str, Path]:
    """All modules of the three packages by name."""
    found = (f for package in ("probe", "analyses", "apps") for f in (ROOT / package).rglob("*.py"))
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in found}


def arrows(file: Path, *, typing_too: bool) -> Iterator[str]:
    """Modules a file takes names from, lazy packages seen through; without those it names for annotations only."""
    tree = ast.parse(file.read_text())
    checks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    for_typing = {id(inner) for node in checks for inner in ast.walk(node)}
    if hands_on(tree):
        return
    for node, package, name in keys.named_in(tree, file):
        if typing_too or id(node) not in for_typing:
            yield from keys.homes(package, name)


def circles(*, typing_too: bool) -> list[set[str]]:
    """Modules that import one another, at the head or in functions."""
    graph = networkx.DiGraph()
    for module, file in modules().items():
        graph.add_edges_from((module, other) for other in arrows(file, typing_too=typing_too) if other != module)
    return [found for found in networkx.strongly_connected_components(graph) if len(found) > 1]


def test_no_modules_import_one_another() -> None:
    assert circles(typing_too=False) == []


def test_circles_of_annotations_are_the_ones_that_were_agreed_on() -> None:
    agreed = [set(found) for found in SETTINGS["house"]["annotation_circles"]]
    assert sorted(map(sorted, circles(typing_too=True))) == sorted(map(sorted, agreed))


def taken(file: Path) -> Iterator[str]:
    """Modules a file takes names from, also by way of a package: `reading.batches` after `import reading`."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    asked: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            asked.setdefault(node.value.id, set()).add(node.attr)
    for node, package, name in keys.named_in(tree, file):
        yield from keys.homes(package, name)
        for alias in node.names if isinstance(node, ast.ImportFrom) else ():
            if alias.name == name:
                for attribute in asked.get(alias.asname or alias.name, ()):
                    yield from keys.homes(f"{package}.{name}", attribute)


def test_no_module_of_core_serves_one_group_only() -> None:
    users: dict[str, set[str]] = {}
    for module, file in modules().items():
        if not (module.startswith("analyses.core") and file.name == "__init__.py"):  # a face uses nothing itself
            for other in taken(file):
                users.setdefault(other, set()).add(".".join(module.split(".")[:2]))
    alone = {m for m, rooms in users.items() if m.startswith("analyses.core.") and len(rooms) == 1}
    apart = {m for m in alone if users[m] <= {f"analyses.{g}" for g in GROUPS} and m in modules()}
    assert {m for m in apart if modules()[m].name != "__init__.py"} == set(SHARED_LATER), "a group's helper is its own"


def test_nothing_but_the_store_spells_the_names_of_a_results_files() -> None:
    spelt = {
        str(file.relative_to(ROOT))
        for package in CODE
        for file in (ROOT / package).rglob("*.py")
        if ".envs" not in file.parts  # peers of the benchmarks
        if any(name in file.read_text() for name in RESULT_FILES)
    }
    assert {Path(name).parent for name in spelt} == {Path("analyses/core/store")}, spelt


def test_files_have_at_most_320_lines() -> None:
    lengths = {module: len(file.read_text(encoding="utf-8").splitlines()) for module, file in modules().items()}
    assert {module: n for module, n in lengths.items() if n > 320} == {}


def test_types_are_known_and_imports_stand_at_the_head() -> None:
    """At most 15 `Any` in 1,000 lines; at most 150 imports inside functions, where a library is slow to load."""
    lines, unknown, inside = 0, 0, set[tuple[str, int]]()
    for module, file in modules().items():
        text = file.read_text(encoding="utf-8")
        lines += text.count("\n")
        for node in ast.walk(ast.parse(text)):
            unknown += isinstance(node, ast.Name) and node.id == "Any"
            if isinstance(node, ast.FunctionDef):
                within = (n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom))
                inside |= {(module, n.lineno) for n in within}
    assert unknown <= 0.015 * lines
    assert len(inside) <= 150
