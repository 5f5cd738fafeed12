"""Weights read one by one as they lie: the same numbers as a loaded model's, in every format, under every name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from probe import Checkpoint, InputError, Model
from probe.checkpoints.stored import StoredWeights, aligned
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("stored") / "m")


def test_they_are_those_of_the_loaded_model(folder: Path) -> None:
    stored, loaded = StoredWeights(Checkpoint.of(folder)), Model.load(folder, check=False).weights()
    assert set(stored) == set(loaded)
    assert all(torch.equal(stored[n], loaded[n]) for n in stored)


def test_pickles_need_leave_and_prefixes_are_seen_through(folder: Path, tmp_path: Path) -> None:
    held = load_file(folder / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    # A wrapper's prefix, a table that no training moves, no head (as where it is tied).
    named = {f"module.{n}": t for n, t in held.items() if "lm_head" not in n} | {"module.x.inv_freq": torch.ones(2)}
    torch.save(named, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickles"):
        StoredWeights(Checkpoint.of(tmp_path))
    base, other = StoredWeights(Checkpoint.of(folder)), StoredWeights(Checkpoint.of(tmp_path), allow_pickle=True)
    names = aligned(base, other)
    assert names["model.norm.weight"] == "module.model.norm.weight" and "lm_head.weight" not in names
    assert all(torch.equal(base[n], other[m]) for n, m in names.items())


def test_packed_and_unlike_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    held = load_file(folder / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    packed = {**held, "model.norm.weight": torch.ones(4, dtype=torch.int32), "extra.weight": torch.ones(2)}
    save_file(packed, tmp_path / "model.safetensors", {"format": "pt"})
    other = StoredWeights(Checkpoint.of(tmp_path))
    with pytest.raises(InputError, match="packed weights"):
        other["model.norm.weight"]
    with pytest.raises(InputError, match="hold different weights"):
        aligned(StoredWeights(Checkpoint.of(folder)), other)
