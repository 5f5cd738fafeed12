"""What the docs say of a new analysis, reader, checkpoint format, site, page and family, followed in a copy."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny
from tests.conftest import ROOT

NEW_FAMILIES = ("smollm3", "starcoder2")  # transformers and TransformerLens know them; the second has no gate
PAGE = """
import sys
from streamlit.testing.v1 import AppTest
app = AppTest.from_file("apps/dashboard/app.py", default_timeout=600)
app.query_params.update({"page": "Results", "analysis": "resid_norm"})
app.run()
assert not app.exception, app.exception
print(app.subheader[0].value, sum('"figure"' in chart.proto.json for chart in app.get("bidi_component")))
"""
REFERENCE = "import sys; sys.path.insert(0, 'docs'); import reference; print(reference._overview())"
CHANGED = {"probe/readers/run_files.py", "probe/checkpoints/shards.py"}  # by the other sections
SITES = REFERENCE.replace("_overview", "_sites")


def blocks(section: str) -> list[str]:
    """The Python blocks of a section of CONTRIBUTING.md."""
    _, _, text = (ROOT / "CONTRIBUTING.md").read_text().partition(f"\n## {section}\n")
    return re.findall(r"^```python\n(.*?)^```", text.partition("\n## ")[0], re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with the page's analysis in it, and a checkpoint with prompts beside it."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("probe", "analyses", "apps", "tests", "docs", "experiments"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "CONTRIBUTING.md", "README.md", "mkdocs.yml"):
        shutil.copy(ROOT / name, folder / name)
    page, test = blocks("Add an analysis")
    (folder / "analyses" / "states" / "resid_norm.py").write_text(page)
    (folder / "tests" / "analyses" / "test_resid_norm.py").write_text(test)
    tiny.save(folder / "model")
    lines = [f'{{"id": "q{n}", "prompt": "What is {n} + 1?", "answer": " {n + 1}"}}' for n in range(4)]
    (folder / "items.jsonl").write_text("\n".join(lines))
    return folder


def done(checkout: Path, *words: str) -> str:
    """Output of a Python command in the copy."""
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PROBE_RESULTS": str(checkout / "results")}
    out = subprocess.run(
        [sys.executable, *words],
        cwd=checkout,
        env={**os.environ, **quiet, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.returncode == 0, (out.stdout + out.stderr)[-3000:]
    return out.stdout


def test_the_pages_analysis_is_everywhere_it_says(checkout: Path) -> None:
    assert "resid_norm" in done(checkout, "-m", "apps.command.cli", "list")
    assert "batch_size" in done(checkout, "-m", "apps.command.cli", "run", "resid_norm", "--help").replace("-", "_")
    told = done(checkout, "-m", "apps.command.cli", "run", "resid_norm", "--model", "model", "--prompts", "items.jsonl")
    assert "norm" in told
    title, drawn = done(checkout, "-c", PAGE).strip().rsplit(" ", 1)
    assert "residual stream" in title and int(drawn) == 1
    assert "resid_norm" in done(checkout, "-c", REFERENCE)


def test_the_pages_analysis_passes_the_contracts(checkout: Path) -> None:
    """By the page's own test and command."""
    (command,) = re.findall(r"^\$ pytest (.*-k resid_norm)$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    told = done(checkout, "-m", "pytest", "-q", "-p", "no:cacheprovider", *shlex.split(command))
    assert "passed" in told


def put(file: Path, new: str, before: str) -> None:
    """Write text before the one place that reads so."""
    head, mark, tail = file.read_text().partition(before)
    assert mark and before not in tail
    file.write_text(head + new + mark + tail)


def test_the_pages_reader_reads(checkout: Path) -> None:
    function, line, test = blocks("Add a reader")
    readers, tests = checkout / "probe" / "readers" / "run_files.py", checkout / "tests" / "probe" / "test_runlog.py"
    put(readers, f"{function}\n\n", before="BY_NAME: ")
    put(readers, line, before='    (r"\\bstep:')
    add(tests, test)
    done(checkout, "-m", "ruff", "check", "--no-cache", str(readers), str(tests))
    assert "passed" in done(checkout, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/probe/test_runlog.py")


def pytest_of(checkout: Path, section: str) -> str:
    """What the command of a section of CONTRIBUTING.md prints."""
    _, _, text = (ROOT / "CONTRIBUTING.md").read_text().partition(f"\n## {section}\n")
    (command,) = re.findall(r"^\$ pytest (.*)$", text.partition("\n## ")[0], re.MULTILINE)
    return done(checkout, "-m", "pytest", "-q", "-p", "no:cacheprovider", *shlex.split(command))


def add(file: Path, new: str) -> None:
    """Write text at a file's end."""
    file.write_text(f"{file.read_text()}\n\n{new}")


def changed(checkout: Path, *folders: str) -> set[str]:
    """Files of the copy that are not as here."""
    found = (f.relative_to(checkout) for name in folders for f in (checkout / name).rglob("*.py"))
    return {str(f) for f in found if not (ROOT / f).exists() or (ROOT / f).read_bytes() != (checkout / f).read_bytes()}


def test_the_pages_checkpoint_format_loads_by_one_entry(checkout: Path) -> None:
    entry, test = blocks("Add a checkpoint format")
    shards, tests = checkout / "probe/checkpoints/shards.py", checkout / "tests/probe/test_shards.py"
    put(shards, entry, before='    "zero": ')
    add(tests, test)
    done(checkout, "-m", "ruff", "check", "--no-cache", str(shards), str(tests))
    told = done(checkout, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests), "-k", "dpo")
    assert "1 passed" in told and changed(checkout, "probe/checkpoints") == {"probe/checkpoints/shards.py"}


def test_the_pages_site_is_read_and_replayed_by_two_files(checkout: Path) -> None:
    line, finder, test = blocks("Add a site")
    sites, parts = checkout / "probe/sites.py", checkout / "probe/backends/parts.py"
    put(sites, line, before='    "mlp_pre": ')
    put(parts, f"{finder}\n\n", before="FINDERS: ")
    put(parts, ", mlp_input", before=", experts)\n")
    add(checkout / "tests/probe/test_model.py", test)
    done(checkout, "-m", "ruff", "check", "--no-cache", str(sites), str(parts))
    assert "3 passed" in pytest_of(checkout, "Add a site")  # its own, and the replay of either padding
    assert "`mlp_in`" in done(checkout, "-c", SITES)
    assert changed(checkout, "probe") - CHANGED == {"probe/sites.py", "probe/backends/parts.py"}


def test_the_pages_page_opens_by_one_file(checkout: Path) -> None:
    page, test = blocks("Add a page")
    (checkout / "apps/dashboard/pages/costs.py").write_text(page)
    add(checkout / "tests/apps/test_dashboard.py", test)
    done(checkout, "-m", "ruff", "check", "--no-cache", "apps", "tests/apps/test_dashboard.py")
    assert "3 passed" in pytest_of(checkout, "Add a page")
    assert changed(checkout, "apps") == {"apps/dashboard/pages/costs.py"}


def test_the_pages_family_loads_and_passes(checkout: Path) -> None:
    """Both commands of the page; the second family has no gate, which the page says where to say."""
    page = (ROOT / "docs" / "add-a-model-family.md").read_text()
    load, tests = (shlex.split(line) for line in re.findall(r"^ {7}(py\w+ .*)$", page, re.MULTILINE))
    named = [word for word in tests if word.endswith(".py")]
    assert (load[:2], tests[0], tests[-2:]) == (["python", "-c"], "pytest", ["-k", "my_family"])
    for family in NEW_FAMILIES:
        tiny.save(checkout / family, family)
        assert "resid_post.0" in done(checkout, "-c", load[2].replace("path/to/model", family))
    names = ", ".join(f'"{family}"' for family in NEW_FAMILIES)
    put(checkout / "tests" / "tiny.py", f"{names}, ", before='"llama", "qwen2", "gpt2"')
    put(checkout / "tests" / "probe" / "test_families.py", '"starcoder2", ', before='"gpt_neox", "gpt2"}')
    assert "passed" in done(
        checkout, "-m", "pytest", "-q", "-p", "no:cacheprovider", *named, "-k", " or ".join(NEW_FAMILIES)
    )
