"""The average of two checkpoints, written as an ordinary checkpoint folder.

theta = (1 - w) theta_a + w theta_b for floating-point tensors, computed in float64 and rounded once, so that equal
checkpoints give themselves, w = 0 and w = 1 the ends bit for bit, and w = 1/2 is symmetric. Everything else (ids,
masks, integer buffers) must be equal. Folders only: a Hub repository is downloaded first.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

from probe.errors import InputError
from probe.lazily import torch

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = ".safetensors"
# Files that describe a training state, not a model, or would speak of the unmerged weights.
LEFT_OUT = ("optimizer", "scheduler", "rng_state", "trainer_state", "training_args", "stage.json", "README")


def merge_checkpoints(first: str | Path, second: str | Path, out: str | Path, weight: float = 0.5) -> Path:
    """Write (1 - weight) first + weight second to the folder ``out``, with first's configuration and tokenizer.

    Raises:
        InputError: a weight outside 0..1, a folder without safetensors, other tensor names, shapes or dtypes,
            tokenizers of unlike ids, a target that exists.
    """
    from safetensors.torch import save_file

    first, second, out = Path(first), Path(second), Path(out)
    if not 0 <= weight <= 1:
        raise InputError(f"weight {weight}; expected a share of the second checkpoint in 0..1")
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} exists and is not empty; choose another folder for the merged checkpoint")
    _same_tokenizer(first, second)
    files, other = _files(first), _where(second)
    named = {name for file in files for name in _names(file)}
    if named != set(other):
        unlike = sorted(named ^ set(other))
        raise InputError(f"{first} and {second} hold different tensors, for example {unlike[:3]}: not one architecture")
    out.mkdir(parents=True, exist_ok=True)
    for file in files:
        merged: dict[str, Tensor] = {}
        with safe_open(file, framework="pt") as a:
            for name in a.keys():  # noqa: SIM118
                with safe_open(other[name], framework="pt") as b:
                    merged[name] = _average(name, a.get_tensor(name), b.get_tensor(name), weight)
        save_file({k: v.contiguous() for k, v in merged.items()}, out / file.name, metadata={"format": "pt"})
    _copy_rest(first, out)
    return out


def _average(name: str, a: Tensor, b: Tensor, weight: float) -> Tensor:
    if a.shape != b.shape or a.dtype != b.dtype:
        raise InputError(f"{name}: {tuple(a.shape)} {a.dtype} against {tuple(b.shape)} {b.dtype}; not one architecture")
    if not a.is_floating_point():
        if not torch.equal(a, b):
            raise InputError(
                f"{name} ({a.dtype}) differs between the checkpoints and is no weight that can be averaged"
            )
        return a
    if weight in (0.0, 1.0):
        return a if weight == 0.0 else b
    return ((1 - weight) * a.double() + weight * b.double()).to(a.dtype)


def _files(folder: Path) -> list[Path]:
    files = sorted(folder.glob(f"*{WEIGHTS}"))
    if not files:
        raise InputError(f"no safetensors in {folder}; merging needs two checkpoint folders")
    return files


def _names(file: Path) -> list[str]:

    with safe_open(file, framework="pt") as handle:
        return list(handle.keys())


def _where(folder: Path) -> dict[str, Path]:
    return {name: file for file in _files(folder) for name in _names(file)}


def _same_tokenizer(first: Path, second: Path) -> None:
    """Ids must mean the same words; chat templates and padding may differ."""
    vocabularies = []
    for folder in (first, second):
        file = folder / "tokenizer.json"
        vocabularies.append(json.loads(file.read_text())["model"].get("vocab") if file.is_file() else None)
    if None not in vocabularies and vocabularies[0] != vocabularies[1]:
        raise InputError(f"{first} and {second} have different vocabularies: their embeddings cannot be averaged")


def _copy_rest(source: Path, target: Path) -> None:
    for file in sorted(source.iterdir()):
        if file.is_file() and file.suffix != WEIGHTS and not file.name.startswith(LEFT_OUT):
            shutil.copy2(file, target / file.name)
