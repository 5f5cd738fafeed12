"""Tiny models and prompts that every analysis of models and prompts must run on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from probe import Model, Prompts
from tests import planted, tiny


@pytest.fixture(scope="session")
def prompts() -> Prompts:
    return tiny.twelve_items()


@pytest.fixture(scope="session")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three checkpoints of one tiny run: checkpoint-0, -10, -20."""
    return tiny.series(tmp_path_factory.mktemp("series"))


@pytest.fixture(scope="session")
def base(series: Path) -> Model:
    return Model.load(series / "checkpoint-0")


@pytest.fixture(scope="session")
def tuned(series: Path) -> Model:
    return Model.load(series / "checkpoint-20")


@pytest.fixture(scope="session")
def models(base: Model, tuned: Model) -> dict[str, Any]:
    """By the names analyses give their model inputs."""
    return {"model": tuned, "base": base, "tuned": tuned}


@pytest.fixture(scope="session")
def copying(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """A base of random weights, and the same trained to say the digit that stands among letters (`planted.copying`)."""
    base, tuned = planted.copying(tmp_path_factory.mktemp("copying"))
    return {"base": Model.load(base), "tuned": Model.load(tuned)}
