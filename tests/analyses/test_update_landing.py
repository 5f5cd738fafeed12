"""Where updates land: closed forms, random updates at chance for any shape, planted subspaces, masks of two runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from analyses import run
from analyses.core.claim import sentence
from analyses.weights import _spectra
from analyses.weights.update_landing import (
    chance_interval,
    changed_mask,
    energy,
    largest_mask,
    overlap,
    rounded,
    subspace_size,
)
from probe import Checkpoint, InputError
from tests import tiny

SHAPES = [(24, 24), (60, 20), (20, 60)]


def example(folder: Path) -> dict[str, Any]:
    made = tiny.series(folder, steps=(0, 10))
    other = moved(made / "checkpoint-0", folder / "other" / "checkpoint-10", seed=5)
    return {"base": [Checkpoint.of(made / "checkpoint-0")], "tuned": [Checkpoint.of(made / "checkpoint-10")],
            "other": [Checkpoint.of(other)], "rank": 2}  # fmt: skip


def moved(base: Path, out: Path, seed: int = 0, change: Any = None, dtype: Any = torch.float32) -> Path:
    """A copy of a checkpoint, every matrix changed by `change(weight, generator)` (Gaussian noise by default)."""
    import shutil

    shutil.copytree(base, out)
    held, rng = load_file(base / "model.safetensors"), torch.Generator().manual_seed(seed)
    change = change or (lambda w, g: 0.02 * torch.randn(w.shape, generator=g))
    save_file({n: (w + change(w, rng)).to(dtype) for n, w in held.items()}, out / "model.safetensors", {"format": "pt"})
    return out


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("landing") / "base")


def landed(base: Path, *tuned: Path, **options: Any) -> Any:
    named = dict(zip(("tuned", "other"), ([Checkpoint.of(t)] for t in tuned), strict=False))
    return run("update_landing", base=[Checkpoint.of(base)], **named, **{"rank": 2, **options})


@pytest.mark.parametrize("shape", SHAPES)
def test_a_random_update_is_at_chance_and_planted_ones_are_found(shape: tuple[int, int]) -> None:
    rng, k = torch.Generator().manual_seed(0), 3
    w = torch.randn(shape, generator=rng)
    s, left, right = _spectra.singular(w, k)
    u, want, vt = torch.linalg.svd(w.double(), full_matrices=True)
    torch.testing.assert_close(s, want)
    low, high = chance_interval(subspace_size(*shape, k), w.numel())
    noise = [energy(torch.randn(shape, generator=rng), left, right) for _ in range(300)]
    shares = np.array([e["principal"] for e in noise])
    assert shares.mean() == pytest.approx(k * (sum(shape) - k) / w.numel(), abs=4 * shares.std() / 300**0.5)
    assert np.mean((shares > low) & (shares < high)) == pytest.approx(0.95, abs=0.04)
    assert np.mean([e["core"] for e in noise]) == pytest.approx(k * k / w.numel(), rel=0.15)
    inside = energy(u[:, :k] @ torch.randn(k, shape[1], generator=rng).double(), left, right)
    assert inside["principal"] == pytest.approx(1)
    outside = energy(u[:, k : k + 2] @ vt[k : k + 2], left, right)
    assert outside["principal"] == pytest.approx(0, abs=1e-12)


def test_entries_are_compared_as_rounded() -> None:
    one = torch.ones(4)
    assert changed_mask(one, one + torch.tensor([0, 1e-3, 1e-2, 1.0]), "bfloat16").tolist() == [
        False,
        False,
        True,
        True,
    ]
    assert rounded(torch.tensor([1.001]), "bfloat16").item() == 1.0
    assert changed_mask(one, one + 1e-6, "float32").all()
    at, chance = largest_mask(torch.tensor([1.0, -3.0, 2.0, 2.0]), 0.5)  # a tie at the edge is taken whole
    assert (at.tolist(), chance) == ([False, True, True, True], 0.75)


def test_masks_of_independent_runs_overlap_as_chance_says() -> None:
    rng = torch.Generator().manual_seed(1)
    base = torch.ones(50, 40)
    z = []
    for _ in range(200):
        one, two = (base + (torch.rand(base.shape, generator=rng) < p) for p in (0.3, 0.2))
        found = overlap(base, one, two, "bfloat16")
        assert found["expected_by_size"] == pytest.approx(found["expected"])
        z.append((found["both"] - found["expected"]) / found["spread"])
    assert abs(np.mean(z)) < 0.25 and np.std(z) == pytest.approx(1, abs=0.15)
    same = overlap(base, one, one, "bfloat16")
    assert same["both"] == same["other_changed"] > same["expected"] + 5 * same["spread"]


def test_rounding_alone_does_not_make_two_runs_alike() -> None:
    """Both runs change small weights only, as rounding has it: above chance, yet not above chance by size."""
    rng = torch.Generator().manual_seed(2)
    base = torch.cat([torch.full((2000,), 0.01), torch.full((2000,), 8.0)])
    one, two = (base + 1e-3 * (torch.rand(base.shape, generator=rng) < 0.5) for _ in range(2))
    found = overlap(base, one, two, "bfloat16")
    assert found["both"] > found["expected"] + 5 * found["spread"]
    assert abs(found["both"] - found["expected_by_size"]) < 4 * found["spread"]


def test_noise_is_none_found_and_a_planted_subspace_is(base: Path, tmp_path: Path) -> None:
    noise = landed(base, moved(base, tmp_path / "noise"), moved(base, tmp_path / "again", seed=9))
    assert {c.kind: c.answer for c in noise.claims} == dict.fromkeys(
        ("sparse", "principal", "largest", "overlap"), "none found"
    )

    def top(w: torch.Tensor, g: torch.Generator) -> torch.Tensor:
        if w.ndim < 2:
            return torch.zeros_like(w)
        u, _, _ = torch.linalg.svd(w, full_matrices=False)
        return 0.1 * u[:, :1] @ torch.randn(1, w.shape[1], generator=g)

    found = landed(base, moved(base, tmp_path / "top", change=top))
    assert (found.table["principal"].dropna() > 0.999).all()
    (said,) = [c for c in found.claims if c.kind == "principal"]
    assert said.is_found and sentence(said).startswith("The update prefers the principal subspace: +0.")
    assert (
        found.table["spectral_drift"].dropna() <= found.table["relative_norm"][found.table["principal"].notna()] + 1e-9
    ).all()


def test_a_sparse_update_is_found_and_a_shared_mask_too(base: Path, tmp_path: Path) -> None:
    def few(w: torch.Tensor, g: torch.Generator) -> torch.Tensor:
        mask = torch.rand(w.shape, generator=torch.Generator().manual_seed(w.numel())) < 0.05
        return mask * torch.randn(w.shape, generator=g)

    found = landed(base, *(moved(base, tmp_path / str(s), seed=s, change=few) for s in (1, 2)))
    answers = {c.kind: c.answer for c in found.claims}
    assert answers == {"sparse": "found", "principal": "none found", "largest": "none found", "overlap": "found"}


def test_the_same_checkpoint_twice_is_nothing(base: Path) -> None:
    same = landed(base, base)
    assert "identical weights" in same.warnings[0]
    assert (same.table[["changed", "relative_norm"]] == 0).all().all() and same.table["principal"].isna().all()
    assert [c.answer for c in same.claims] == ["none found"]


def test_what_was_stored_rounded_is_not_judged_sparse(base: Path, tmp_path: Path) -> None:
    low = landed(base, moved(base, tmp_path / "low", dtype=torch.bfloat16))
    assert low.table["changed_even"].isna().all()
    said = next(c for c in low.claims if c.kind == "sparse")
    assert said.answer == "cannot be judged" and said.needs == "checkpoints in float32"


def test_bad_input_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rank=0"):
        landed(base, base, rank=0)
    with pytest.raises(InputError, match="one checkpoint is what updates are counted from"):
        run("update_landing", base=[Checkpoint.of(base)] * 2, tuned=[Checkpoint.of(base)])
    nan = moved(base, tmp_path / "nan", change=lambda w, g: torch.full_like(w, torch.nan))
    with pytest.raises(InputError, match="is not finite"):
        landed(base, nan)
    wide = tiny.save(tmp_path / "wide", intermediate_size=64)
    with pytest.raises(InputError, match="not one model"):
        landed(base, wide)
    deep = tiny.save(tmp_path / "deep", num_hidden_layers=2)
    with pytest.raises(InputError, match="hold different weights"):
        landed(base, deep)
