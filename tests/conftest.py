"""Fixtures every floor shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("PROBE_PROGRESS", "0")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def benchmarks() -> Path:
    """Folder of public benchmark files; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("PROBE_BENCHMARKS", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no benchmark files at {folder}; set PROBE_BENCHMARKS")
    return folder


@pytest.fixture(scope="session")
def lab() -> Path:
    """A finished short lab run (made by `make demo`)."""
    folder = ROOT / "runs" / "lab-short" / "seed-0"
    if not folder.is_dir():
        pytest.skip(f"no lab run at {folder}; make one with `make demo`")
    return folder
