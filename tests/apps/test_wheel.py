"""The wheel and the sdist, each in an environment of its own: what is installed runs, and says where the lab is."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import tiny
from tests.conftest import ROOT


def done(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    own = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}  # no checkout may stand in for what is installed
    return subprocess.run([*map(str, words)], cwd=cwd, env=own, capture_output=True, text=True, check=False)


def test_every_requirement_is_pinned_within_its_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (line.partition("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    pins = {canonicalize_name(name): version for name, _, version in lines}
    for line in chain(project["dependencies"], *project["optional-dependencies"].values()):
        need = Requirement(line)
        if need.name != project["name"]:
            assert need.specifier.contains(pins[canonicalize_name(need.name)]), line


def test_the_citation_is_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist and the wheel built from it, as for a release."""
    folder = tmp_path_factory.mktemp("dist")
    made = done(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    assert made.returncode == 0, made.stdout + made.stderr
    return folder


@pytest.mark.verify
def test_an_sdist_holds_the_packages_and_nothing_else(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        tops = {name.split("/")[1] for name in packed.getnames() if "/" in name}
    metadata = {"LICENSE", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg", "posttrain_probe.egg-info"}
    assert tops == {"probe", "analyses", "apps"} | metadata


@pytest.mark.verify
@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_what_is_installed_runs_without_the_checkout(built: Path, kind: str, tmp_path: Path) -> None:
    """Dependencies are lent from this environment; the package itself comes from the wheel or sdist alone."""
    assert done(sys.executable, "-m", "venv", tmp_path / "own", cwd=tmp_path).returncode == 0
    (package,) = built.glob(kind)
    packages = next((tmp_path / "own" / "lib").glob("python*")) / "site-packages"
    python, probe = (tmp_path / "own" / "bin" / name for name in ("python", "probe"))
    assert done(python, "-m", "pip", "install", "-q", "--no-deps", package, cwd=tmp_path).returncode == 0
    (packages / "lent.pth").write_text(sysconfig.get_paths()["purelib"])
    where = done(python, "-c", "import probe, analyses, apps; print(apps.__file__)", cwd=tmp_path)
    assert str(packages) in where.stdout
    assert "perplexity" in done(probe, "list", cwd=tmp_path).stdout
    refused = done(probe, "demo", cwd=tmp_path)
    assert refused.returncode == 2 and "make demo" in refused.stderr
    tiny.save(tmp_path / "model")
    (tmp_path / "items.jsonl").write_text('{"id": "a", "prompt": "What is 1 + 1?", "answer": " 2"}')
    ran = done(probe, "run", "perplexity", "--model", "model", "--prompts", "items.jsonl", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert done(probe, "report", "-o", "report.html", cwd=tmp_path).returncode == 0
