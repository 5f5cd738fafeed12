"""Merged checkpoints: ends and equal checkpoints bit for bit, symmetry at one half, folders that read as any other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from analyses.answers._checkpoint_average import merge_checkpoints
from probe import Model
from probe.errors import InputError
from tests import tiny


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tiny.series(tmp_path_factory.mktemp("pair"), steps=(0, 10))
    return folder / "checkpoint-0", folder / "checkpoint-10"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_ends_and_equal_checkpoints_are_bitwise(pair: tuple[Path, Path], tmp_path: Path):
    a, b = pair
    assert same(weights(merge_checkpoints(a, b, tmp_path / "0", 0.0)), weights(a))
    assert same(weights(merge_checkpoints(a, b, tmp_path / "1", 1.0)), weights(b))
    for weight in (0.25, 0.5, 0.9):
        assert same(weights(merge_checkpoints(a, a, tmp_path / f"a{weight}", weight)), weights(a))


def test_one_half_is_symmetric_and_the_mean(pair: tuple[Path, Path], tmp_path: Path):
    a, b = pair
    ab, ba = (weights(merge_checkpoints(x, y, tmp_path / n)) for x, y, n in ((a, b, "ab"), (b, a, "ba")))
    assert same(ab, ba)
    first, second = weights(a), weights(b)
    for name, tensor in ab.items():
        torch.testing.assert_close(tensor, (first[name] + second[name]) / 2)


def test_the_folder_is_an_ordinary_checkpoint(pair: tuple[Path, Path], tmp_path: Path):
    out = merge_checkpoints(*pair, tmp_path / "m", 0.3)
    model = Model.load(out)
    assert model.tokenizer.get_vocab() == Model.load(pair[0]).tokenizer.get_vocab()


def test_what_cannot_be_averaged_is_refused(pair: tuple[Path, Path], tmp_path: Path):
    a, b = pair
    with pytest.raises(InputError, match=r"in 0\.\.1"):
        merge_checkpoints(a, b, tmp_path / "x", 1.5)
    wide = tiny.save(tmp_path / "wide", num_hidden_layers=4)
    with pytest.raises(InputError, match="different tensors"):
        merge_checkpoints(a, wide, tmp_path / "x")
    with pytest.raises(InputError, match="different vocabularies"):
        merge_checkpoints(a, tiny.save(tmp_path / "words", words=True), tmp_path / "x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no safetensors"):
        merge_checkpoints(a, tmp_path / "empty", tmp_path / "x")
    with pytest.raises(InputError, match="not empty"):
        merge_checkpoints(a, b, shutil.copytree(a, tmp_path / "taken"))
