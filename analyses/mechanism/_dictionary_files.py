"""Dictionaries that other programs trained, told by the names of their weights.

SAELens saves `W_enc`, `b_enc`, `W_dec`, `b_dec` (and `threshold`) beside a `cfg.json`; dictionary_learning saves
`encoder.weight`, `encoder.bias`, `decoder.weight` and `bias` or `b_dec` (a crosscoder: one matrix a checkpoint, base
first, and `decoder.bias`), with `k` and `threshold` where it has them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from safetensors.torch import load_file

from analyses.mechanism._dictionary import Dictionary
from probe.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Weights: TypeAlias = "Mapping[str, Tensor]"
Settings: TypeAlias = Mapping[str, object]

NAMES = ("sae_weights.safetensors", "model.safetensors", "ae.pt", "model.pt")
SETTINGS = ("cfg.json", "config.json")
KNOWN = ("standard", "topk", "batchtopk", "jumprelu")


def given(path: Path, d_model: int) -> Dictionary:
    """The dictionary in a file, or in a folder that holds one.

    Raises:
        InputError: no such file, a form that is not known, another width, or a normalisation of inputs.
    """
    file = next((path / n for n in NAMES if (path / n).is_file()), None) if path.is_dir() else path
    if file is None or not file.is_file():
        raise InputError(f"{path}: expected a dictionary's file, or a folder with one of {', '.join(NAMES)}")
    is_safe = file.suffix == ".safetensors"
    found = load_file(file) if is_safe else torch.load(file, map_location="cpu", weights_only=True)
    weights = {n: w.float() for n, w in found.items() if isinstance(w, torch.Tensor)}
    place = next((file.parent / n for n in SETTINGS if (file.parent / n).is_file()), None)
    settings: Settings = json.loads(place.read_text()) if place else {}
    form = next((form for names, form in FORMS.items() if set(names) <= weights.keys()), None)
    if form is None:
        raise InputError(
            f"{file}: weights {', '.join(sorted(weights))}: neither SAELens's names nor dictionary_learning's"
        )
    made = form(weights, settings, file)
    if made.decoder.shape[-1] != d_model:
        raise InputError(f"{file}: a dictionary of {made.decoder.shape[-1]} coordinates; this model has {d_model}")
    return made


def _saelens(weights: Weights, settings: Settings, file: Path) -> Dictionary:
    kind = str(settings.get("architecture", "standard")).removesuffix("_training")
    scaled = str(settings.get("normalize_activations", "none"))
    if kind not in KNOWN or scaled not in ("none", "None"):
        raise InputError(
            f"{file}: architecture {kind!r}, normalize_activations {scaled!r}; expected one of {', '.join(KNOWN)} and "
            "states as they are (SAELens folds a constant norm into the weights: fold_activation_norm_scaling_factor)"
        )
    encoder, center = weights["W_enc"], weights["b_dec"]
    bias = weights["b_enc"] if "b_enc" in weights else torch.zeros(encoder.shape[1])
    if settings.get("apply_b_dec_to_input", kind in ("standard", "topk")):
        bias = bias - center @ encoder
    most = int(str(settings.get("k", 0))) if kind == "topk" else 0
    return _alike(encoder, bias, weights["W_dec"], center, weights.get("threshold"), most)


def _autoencoder(weights: Weights, _: Settings, file: Path) -> Dictionary:
    if any(name in weights for name in ("r_mag", "gate_bias", "mag_bias")):
        raise InputError(f"{file}: a gated autoencoder; expected a plain or BatchTopK one")
    encoder, decoder = weights["encoder.weight"].T, weights["decoder.weight"].T
    center = weights["bias"] if "bias" in weights else weights["b_dec"]
    threshold = weights.get("threshold")
    is_on = threshold is not None and float(threshold.min()) >= 0
    most = 0 if is_on or "k" not in weights else int(weights["k"])
    return _alike(
        encoder, weights["encoder.bias"] - center @ encoder, decoder, center, threshold if is_on else None, most
    )


def _alike(
    encoder: Tensor, bias: Tensor, decoder: Tensor, center: Tensor, threshold: Tensor | None, most: int
) -> Dictionary:
    """An autoencoder of one checkpoint's states, for either."""
    least = torch.zeros_like(bias) if threshold is None else threshold.expand_as(bias)
    both = (x.expand(2, *x.shape) for x in (encoder, decoder, center))
    reads, writes, middle = both
    return Dictionary(reads, bias, writes, middle, least, joint=False, most=most)


def _crosscoder(weights: Weights, settings: Settings, file: Path) -> Dictionary:
    encoder, decoder = weights["encoder.weight"], weights["decoder.weight"]
    if encoder.ndim != 3 or len(encoder) != 2 or len(decoder) != 2:
        raise InputError(f"{file}: a crosscoder of {len(encoder)} states; expected 2, base's and tuned's")
    rule = str(settings.get("code_normalization", "CROSSCODER"))
    if rule not in ("CROSSCODER", "SAE"):
        raise InputError(f"{file}: code_normalization {rule!r}; expected CROSSCODER or SAE")
    norms = decoder.norm(dim=-1)
    size = norms.sum(0) if rule == "CROSSCODER" else norms.square().sum(0).sqrt()
    threshold = weights.get("threshold", torch.tensor(-1.0))
    least = threshold.clamp_min(0) / size.clamp_min(1e-12)
    most = int(weights["k"]) if "k" in weights and float(threshold.min()) < 0 else 0
    return Dictionary(encoder, weights["encoder.bias"], decoder, weights["decoder.bias"], least, most=most)


FORMS: dict[tuple[str, ...], Callable[[Weights, Settings, Path], Dictionary]] = {
    ("W_enc", "W_dec", "b_dec"): _saelens,
    ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"): _crosscoder,
    ("encoder.weight", "encoder.bias", "decoder.weight"): _autoencoder,
}
