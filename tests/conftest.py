"""Fixtures every floor shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("PROBE_PROGRESS", "0")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def every_claim_is_short() -> None:
    """Whatever claim any test makes is one sentence of at most 25 words; a name (group, place) counts as one."""
    from analyses.core.claim import MOST_WORDS, Claim, words

    checked = Claim.__post_init__

    def short(claim: Claim) -> None:
        checked(claim)
        assert words(claim) <= MOST_WORDS, f"{words(claim)} words, at most {MOST_WORDS}: {claim}"

    Claim.__post_init__ = short


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
