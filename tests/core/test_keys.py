"""What a key covers: the code an analysis imports, lazy packages seen through; nothing that decides no number."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from analyses.core import keys
from analyses.core.homes import homes as analyses_by_name
from tests.conftest import ROOT

LEFT_OUT = ("running/run.py", "progress.py", "store/store.py", "cost/fleet.py", "cost/plan.py", "figures/charts.py")
HELPERS = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("analyses/*/_[a-z]*.py"))
Touched = Callable[[str], set[str]]


def forget() -> None:
    for cached in vars(keys).values():
        if hasattr(cached, "cache_clear"):
            cached.cache_clear()


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, str]], Path]]:
    """Write files of a repository of its own, which keys are then made of."""
    monkeypatch.setattr(keys, "REPOSITORY", tmp_path)

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        forget()
        return tmp_path

    yield write
    forget()


FACE = """
from importlib import import_module
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from probe.model import Model
    from probe.prompts import Prompts
def __getattr__(name):
    return getattr(import_module("probe." + {"Model": "model", "Prompts": "prompts"}[name]), name)
"""
_FILES = dict.fromkeys((f"probe/{name}.py" for name in ("backends/__init__", "backends/one", "tokens")), "")
_HANDED = {"probe/model.py": "from probe import backends", "probe/prompts.py": "import json"}
PROBE = {"probe/__init__.py": FACE, **_HANDED, **_FILES}
MODEL = {"probe.model", "probe.backends", "probe.backends.one"}


@pytest.mark.parametrize(
    ("line", "reached"),
    [
        ("from probe import Model", MODEL),
        ("from probe import Prompts", {"probe.prompts"}),
        ("from probe.prompts import Prompts", {"probe.prompts"}),
        ("import probe.tokens", {"probe.tokens"}),
        ("from probe import tokens", {"probe.tokens"}),
        ("import probe\nprobe.Prompts", {"probe.prompts"}),
        ("import probe as p\ndef f(x: p.Prompts): return p.tokens.plan", {"probe.prompts", "probe.tokens"}),
        ("import probe\ngetattr(probe, kind)", {"probe", "probe.prompts", *MODEL}),
        ("import probe", set()),
        ("from probe import *", {"probe", "probe.prompts", *MODEL}),
        ("from probe import unheard_of", {"probe", "probe.prompts", *MODEL}),
        ("def f():\n    from probe import Prompts", {"probe.prompts"}),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from probe import Prompts", {"probe.prompts"}),
        ("from importlib import import_module\nimport_module('probe.tokens')", {"probe.tokens"}),
        ("from analyses.memory import _rule", {"analyses.memory._rule"}),
        ("from . import _rule", {"analyses.memory._rule"}),
        ("from ._rule import bound", {"analyses.memory._rule"}),
        ("from analyses.core import figures\nfrom analyses.core.store import Store", set()),
        ("import json, numpy\nfrom apps import report", set()),
    ],
)
def test_what_a_line_reaches(planted: Callable[[dict[str, str]], Path], line: str, reached: set[str]) -> None:
    rest = dict.fromkeys(("analyses/__init__.py", "analyses/memory/__init__.py", "analyses/memory/_rule.py"), "")
    rest |= dict.fromkeys((f"analyses/core/{p}/__init__.py" for p in ("figures", "store")), "from probe import Model")
    root = planted({**PROBE, **rest, "analyses/memory/recall.py": line})
    assert keys.reached(keys.imported(root / "analyses/memory/recall.py")) == reached


def test_a_package_of_core_counts_as_a_whole_and_so_does_what_it_imports(
    planted: Callable[[dict[str, str]], Path],
) -> None:
    reading = {"__init__.py": "", "grading.py": "", "readouts.py": "from analyses.core import work"}
    files = {f"analyses/core/reading/{n}": t for n, t in reading.items()}
    files |= dict.fromkeys(("analyses/core/__init__.py", "analyses/core/work.py", "analyses/core/keys.py"), "")
    root = planted({**files, "analyses/memory/recall.py": "from analyses.core.reading import grading"})
    whole = {"analyses.core.reading", *(f"analyses.core.reading.{n}" for n in ("grading", "readouts"))}
    assert keys.reached(keys.imported(root / "analyses/memory/recall.py")) == {*whole, "analyses.core.work"}


@pytest.fixture(scope="module")
def touched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Touched]:
    """Analyses whose key another comment in a file of ours changes; in a copy of the whole house."""
    copy = tmp_path_factory.mktemp("house")
    for package in ("analyses", "probe"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))

    def hashes() -> dict[str, str]:
        keys.source_hash.cache_clear()  # a comment changes no import: what was parsed stays
        files = {name: copy / (module.replace(".", "/") + ".py") for name, module in analyses_by_name().items()}
        return {name: keys.source_hash(file) for name, file in files.items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "REPOSITORY", copy)
        forget()
        before = hashes()

        def changed(name: str) -> set[str]:
            file = copy / name
            text = file.read_text()
            file.write_text(text + "\n# another comment\n")
            try:
                return {n for n, h in hashes().items() if h != before[n]}
            finally:
                file.write_text(text)

        yield changed
    forget()


def naming(words: str, files: Iterator[Path]) -> set[str]:
    """Stems of the files in whose import lines a word stands, by the text alone."""
    found = [
        f for f in files if re.search(rf"^\s*(from|import)\b[^#]*\b{words}\b", joined(f.read_text()), re.MULTILINE)
    ]
    return {f.stem for f in found}


def joined(text: str) -> str:
    """Imports over several lines as one line."""
    return re.sub(r"\(([^)]*)\)", lambda m: " ".join(m[1].split()), text)


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_runs_stores_costs_and_draws_changes_no_key(touched: Touched, name: str) -> None:
    assert touched(f"analyses/core/{name}") == set()


@pytest.mark.parametrize("name", HELPERS)
def test_a_helper_of_a_group_changes_the_keys_of_its_users_and_no_others(touched: Touched, name: str) -> None:
    helper = ROOT / name
    users, more = set[str](), {helper.stem}
    while more:  # helpers of helpers
        found = set().union(*(naming(word, helper.parent.glob("*.py")) for word in more))
        more = {f for f in found if f.startswith("_")} - users
        users |= found
    assert touched(name) == {u for u in users if not u.startswith("_")}


def test_an_analysis_changes_its_own_key_alone(touched: Touched) -> None:
    for name, module in list(analyses_by_name().items())[::8]:
        assert touched(module.replace(".", "/") + ".py") == {name}


def test_what_every_model_goes_through_changes_the_keys_of_all_that_take_one(touched: Touched) -> None:
    from analyses import get, names

    takes = {n for n in names() if any(i.kind == "Model" for i in get(n).inputs)}
    for name in ("probe/model.py", "probe/backends/transformer_lens.py", "probe/sites.py", "probe/errors.py"):
        assert takes <= touched(name), name
    assert "labels" not in touched("probe/backends/transformer_lens.py"), "it reads a table"


@pytest.mark.parametrize("package", ["analyses", "probe"])
def test_a_name_is_where_its_package_says_it_lives(package: str) -> None:
    """The walk believes the imports under TYPE_CHECKING: what is handed on at run time is that very object."""
    faces = [f for f in (ROOT / package).rglob("__init__.py") if "__getattr__" in f.read_text()]
    assert faces
    for file in faces:
        face = ".".join(file.parent.relative_to(ROOT).parts)
        for name in import_module(face).__all__:
            (home,) = keys.homes(face, name)
            assert home != face, f"{face}.{name} has no home the walk could see"
            assert getattr(import_module(home), name) is getattr(import_module(face), name)


@pytest.mark.parametrize("file", [*ROOT.glob("analyses/**/__init__.py"), ROOT / "probe/__init__.py"], ids=str)
def test_packages_that_count_for_nothing_do_nothing(file: Path) -> None:
    """An analysis is imported through its packages: what these did would be in no key."""
    inside = ".".join(file.parent.relative_to(ROOT).parts)
    if any(inside.startswith(f"{ground}.") for ground in keys.GROUNDS):
        return  # counts as a whole
    for node in ast.parse(file.read_text()).body:
        plain = isinstance(node, ast.Expr | ast.Import | ast.ImportFrom | ast.Assign | ast.AnnAssign)
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        lazy = isinstance(node, ast.FunctionDef) and node.name in ("__getattr__", "__dir__")
        assert plain or typing_only or lazy, f"{file}: {ast.unparse(node)[:80]}"


LOADED = """
import sys
from pathlib import Path
from analyses import get
from analyses.core import keys
from probe import Item, Model, Prompts
from tests import tiny
name, folder = sys.argv[1], Path(sys.argv[2])
model = Model.load(tiny.save(folder / "model"))
get(name)(model, Prompts((Item("a", "what is 2 plus 2 ?", "ans 4"), Item("b", "what is 3 plus 2 ?", "ans 5"))))
file = Path(sys.modules[get(name).function.__module__].__file__)
seen = keys.reached(keys.imported(file)) | {get(name).function.__module__}
ours = {m for m in sys.modules if m.partition(".")[0] in ("analyses", "probe")}
packages = {m for m in ours if hasattr(sys.modules[m], "__path__")}
left_out = {m for m in ours if any(m.startswith(p) for p in keys.LEFT_OUT)}
print(*sorted(ours - seen - packages - left_out))
"""


def test_all_that_is_loaded_while_an_analysis_computes_is_in_its_key(tmp_path: Path) -> None:
    """Python itself as the oracle: modules loaded by a process that does nothing else."""
    command = [sys.executable, "-c", LOADED, "perplexity", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # What looks an analysis up and hashes its code is no part of what it computes.
    assert set(done.stdout.split()) <= {"analyses.core.homes", "analyses.core.keys"}
