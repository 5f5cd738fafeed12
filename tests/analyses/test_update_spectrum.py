"""Spectra of updates: tabled closed forms, planted ranks and signals found, noise not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyses import run
from analyses.weights import _newton_schulz, _spectra
from analyses.weights._attention_heads import head_parts
from analyses.weights.update_spectrum import chance_rank, signal_to_noise
from probe import Checkpoint, InputError
from tests import tiny
from tests.analyses.test_update_landing import moved


def example(folder: Path) -> dict[str, Any]:
    made = tiny.series(folder, steps=(0, 10))
    return {"base": [Checkpoint.of(made / "checkpoint-0")], "tuned": [Checkpoint.of(made / "checkpoint-10")]}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("spectrum") / "base")


def spectra(base: Path, *tuned: Path, **options: Any) -> Any:
    return run("update_spectrum", base=[Checkpoint.of(base)], tuned=[Checkpoint.of(t) for t in tuned], **options)


def test_effective_rank_and_angles() -> None:
    assert _spectra.effective_rank(torch.ones(7).double()) == pytest.approx(7)
    assert _spectra.effective_rank(torch.tensor([3.0, 0, 0])) == pytest.approx(1)
    assert np.isnan(_spectra.effective_rank(torch.zeros(3)))
    half = torch.tensor([0.5, 0.25, 0.25]).double()
    assert _spectra.effective_rank(half) == pytest.approx(np.exp(1.5 * np.log(2)))
    turn = torch.tensor(0.4).double()
    plane = torch.eye(4, 2).double()
    turned = torch.tensor([[turn.cos(), 0], [0, 1], [turn.sin(), 0], [0, 0]]).double()
    angles = torch.deg2rad(_spectra.principal_angles(plane, turned))
    torch.testing.assert_close(angles, torch.tensor([0, 0.4]).double(), atol=1e-12, rtol=0)


def by_products(matrix: torch.Tensor, promotions: int, suppressions: int) -> torch.Tensor:
    """The matrix with its singular values mapped, computed with products alone, as an optimiser does.

    It is divided by its Frobenius norm first, so that all values lie in [0, 1].
    """
    x = matrix / matrix.norm()
    for a, b, c in [_newton_schulz.PROMOTION] * promotions + [_newton_schulz.SUPPRESSION] * suppressions:
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x


def test_the_maps_have_the_tabled_cut_offs() -> None:
    assert [round(_newton_schulz.cut_off(n), 4) for n in range(6)] == [0.8165, 0.5230, 0.2957, 0.1605, 0.0860, 0.0459]
    near = torch.tensor([0.2957 - 1e-3, 0.2957 + 1e-3]).double()
    torch.testing.assert_close(_newton_schulz.mapped(near, 2, 30), torch.tensor([0.0, 1.0]).double(), atol=1e-6, rtol=0)
    matrix = torch.randn(6, 9, generator=torch.Generator().manual_seed(0)).double()
    found = torch.linalg.svdvals(by_products(matrix, 3, 1))
    s = torch.linalg.svdvals(matrix)
    want = _newton_schulz.mapped(s / matrix.norm(), 3, 1)
    torch.testing.assert_close(found, want.sort(descending=True).values)


@pytest.mark.parametrize("shape", [(60, 60), (120, 40), (40, 120), (1, 9)])
def test_the_rank_of_chance_is_that_of_gaussian_matrices(shape: tuple[int, int]) -> None:
    rng = torch.Generator().manual_seed(0)
    drawn = [_spectra.effective_rank(torch.linalg.svdvals(torch.randn(shape, generator=rng))) for _ in range(8)]
    assert chance_rank(*shape) == pytest.approx(np.mean(drawn), rel=0.02)


def test_signal_to_noise_is_unbiased() -> None:
    rng = torch.Generator().manual_seed(0)
    truth = torch.randn(30, 20, generator=rng)
    noise, signal = [], []
    for _ in range(200):
        drawn = [2.0 * torch.randn(30, 20, generator=rng) for _ in range(3)]
        noise.append(signal_to_noise(drawn)["snr"])
        signal.append(signal_to_noise([truth + d for d in drawn])["snr"])
    assert abs(np.mean(noise)) < 3 * np.std(noise) / 200**0.5  # the plug-in estimate would give 1/2
    assert np.mean(signal) == pytest.approx(float(truth.square().mean()) / 4, rel=0.05)
    assert signal_to_noise([truth, truth])["agreement"] == pytest.approx(1)


def test_noise_is_full_and_apart_a_planted_direction_is_low_and_shared(base: Path, tmp_path: Path) -> None:
    noise = spectra(base, *(moved(base, tmp_path / f"n{s}" / "checkpoint-5", seed=s) for s in range(2)))
    assert {c.kind: c.answer for c in noise.claims} == {"rank": "none found", "agreement": "none found"}

    def rank_one(w: torch.Tensor, g: torch.Generator) -> torch.Tensor:
        fixed = torch.Generator().manual_seed(w.shape[0])
        u, v = (torch.randn(n, generator=fixed) for n in (w.shape[0], w.shape[-1]))
        return 0.05 * torch.outer(u, v) + 1e-4 * torch.randn(w.shape, generator=g) if w.ndim == 2 else 0.0 * w

    planted = [moved(base, tmp_path / f"p{s}" / "checkpoint-5", seed=s, change=rank_one) for s in range(2)]
    found = spectra(base, *planted)
    assert all(c.is_found for c in found.claims) and len(found.claims) == 2
    whole = found.table[found.table["head"].isna()]
    assert (whole["erank"] < 2.5).all() and (whole["kept"] == 1).all() and (whole["n_runs"] == 2).all()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_heads_are_told_apart_in_every_family(family: str) -> None:
    model = tiny.model(family)
    heads = {
        (_part.part, _part.head): _part.of(w).shape
        for name, w in model.named_parameters()
        for _part in head_parts(name, tuple(w.shape), model.config)
    }
    kv = 2 if family == "llama" else 4
    assert {p for p, _ in heads} == {"q", "k", "v", "o"}
    assert {h for p, h in heads if p == "k"} == set(range(kv)) and len(heads) == 8 + 2 * kv
    assert {sorted(shape)[0] for shape in heads.values()} == {8} and {sorted(s)[1] for s in heads.values()} == {32}


def test_the_same_checkpoint_twice_is_nothing(base: Path) -> None:
    same = spectra(base, base)
    assert "identical" in same.warnings[0] and same.claims[0].answer == "none found"
    assert same.table["erank"].isna().all() and (same.table["erank_base"] == same.table["erank_tuned"]).all()
    with pytest.raises(InputError, match="promotions=-1"):
        spectra(base, base, promotions=-1)
