"""Pairs: identical weights are noticed, models that cannot be compared are refused."""

from pathlib import Path

import pytest
import torch

from analyses.core.reading.comparable import IDENTICAL, identical, pair_warnings
from probe import Model
from probe.errors import InputError
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("pairs") / "m")


def test_one_changed_weight_ends_identity(folder):
    one, two = (Model.load(folder, check=False) for _ in range(2))
    assert identical(one, one) and pair_warnings(one, two) == [IDENTICAL]
    with torch.no_grad():
        two.weights()["model.layers.2.mlp.down_proj.weight"][0, 0] += 1e-3
    assert not identical(one, two) and pair_warnings(one, two) == []


def test_other_sizes_and_tokenizers_are_refused(folder, tmp_path):
    one = Model.load(folder, check=False)
    wide = Model.load(tiny.save(tmp_path / "wide", hidden_size=64), check=False)
    with pytest.raises(InputError, match="base has d_model 32 and tuned 64"):
        pair_warnings(one, wide)
    words = Model.load(tiny.save(tmp_path / "words", words=True, vocab_size=one.shape.d_vocab), check=False)
    with pytest.raises(InputError, match="different tokenizers"):
        pair_warnings(one, words)
