"""Tiny models of each family, built once per session."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from probe import Model, Prompts
from tests import tiny


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folder of a saved tiny model of a family; the same arguments give the same folder."""

    @cache
    def saved(family: str, seed: int = 0) -> Path:
        return tiny.save(tmp_path_factory.mktemp(f"fam-{family}"), family, seed=seed)

    return saved


@pytest.fixture(scope="session")
def model_of(folder_of: Callable[..., Path]) -> Callable[..., Model]:
    """A loaded tiny model of a family (shared: swap it back if you swap)."""

    @cache
    def loaded(family: str, backend: str = "transformer_lens") -> Model:
        return Model.load(folder_of(family), backend=backend)

    return loaded


@pytest.fixture(scope="session")
def llama(model_of: Callable[..., Model]) -> Model:
    return model_of("llama")


@pytest.fixture(scope="session")
def prompts() -> Prompts:
    """Five items of different lengths in two groups."""
    rows = [
        {
            "id": str(i),
            "prompt": f"what is {i} plus 7 ?" + " how many" * i,
            "answer": f" ans {i + 7}",
            "group": "ab"[i % 2],
        }
        for i in range(5)
    ]
    return Prompts.of(rows)
