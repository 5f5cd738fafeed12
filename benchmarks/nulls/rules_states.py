"""Rules of states, gradients and weights of two checkpoints, asked of arrays."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analyses.core.claim import Claim
from analyses.core.stats import subsamples
from analyses.states import activation_rotation, parallel_texts, similarity
from analyses.weights import (
    _conflict_claims,
    _landing_claims,
    _spectrum_claims,
    auxiliary_gradient,
    auxiliary_proxy,
    gradient_conflict,
    update_landing,
    update_spectrum,
)
from benchmarks.nulls import zoo_states as zoo
from benchmarks.nulls.rule import DEAR, Rule

DRAWS = 60
LANDING = ("bfloat16", 2, 0.1, 0)
COMPONENTS = 6


def rotated(pairs: zoo.Pairs) -> list[Claim]:
    n = len(pairs[0][0])
    k, halves = min(COMPONENTS, n // 3), np.random.default_rng(0).permutation(n) < n // 2
    rows = [
        pd.DataFrame({"item": range(n), "state": state, **activation_rotation.held_out(x, y, k, halves)})
        for state, (x, y) in enumerate(pairs)
    ]
    return [activation_rotation._claim(pd.concat(rows, ignore_index=True), n, "there")]


def alike(pairs: zoo.Pairs) -> list[Claim]:
    kept = subsamples(len(pairs[0][0]), DRAWS, 0, least=4)
    drawn = [similarity.compared(x, y, kept) for x, y in pairs]
    return [similarity._alike(similarity._curves(drawn, kept), "there")]


def shared(layers: list[np.ndarray]) -> list[Claim]:
    rows = [
        pd.DataFrame({"item": range(len(x)), "state": state, **parallel_texts.compared(x)})
        for state, x in enumerate(layers)
    ]
    return [parallel_texts._claim(pd.concat(rows, ignore_index=True), 0)]


def conflicts(given: zoo.Gradients) -> list[Claim]:
    g, ids, groups = given
    return _conflict_claims.claims(gradient_conflict._aggregates(g @ g.T, ids, groups, DRAWS, 0))


def helps(given: zoo.Two) -> list[Claim]:
    main, other = given
    names = [np.asarray([f"{s}{k}" for k in range(len(g))], object) for s, g in zip("ab", given, strict=True)]
    products = auxiliary_gradient._Products(main @ other.T, main @ main.T, other @ other.T, *names)
    data = auxiliary_gradient._aggregates(products, (0.1, 1.0, 1.0), DRAWS, 0)
    return [auxiliary_gradient._claim(data, min(map(len, given)), "kl")]


def pulls(tokens: pd.DataFrame) -> list[Claim]:
    table = auxiliary_proxy.of_items(tokens)
    return [auxiliary_proxy._claim(table, auxiliary_proxy._arrays(table, DRAWS, 0))]


def spectra(matrices: zoo.Weights) -> list[Claim]:
    import torch

    rows = [
        update_spectrum.spectrum(torch.from_numpy(base), [torch.from_numpy(w) for w in after], (5, 5))
        for base, after in matrices
    ]
    return _spectrum_claims.claims(pd.DataFrame(rows))


def landed(matrices: zoo.Weights) -> list[Claim]:
    import torch

    rows: list[dict[str, Any]] = []
    for number, (base, after) in enumerate(matrices):
        before, tuned, second = (torch.from_numpy(w) for w in (base, *after))
        entries = update_landing._entries(f"m{number}", before, tuned, LANDING)
        directions = update_landing._directions(before, tuned, update_landing._subspace(before, LANDING[1]))
        rows.append(entries | directions | update_landing.overlap(before, tuned, second, LANDING[0]))
    return _landing_claims.claims(pd.DataFrame(rows), LANDING[0], 0)


GRADIENTS = {"conflict": ("conflict",), "spill": ("spill",)}
SPECTRA = {"rank": ("rank",), "agreement": ("agreement",)}
LANDED = {"any": ("sparse", "principal", "largest", "overlap")}
RULES: dict[str, Rule[Any]] = {
    "activation_rotation": Rule({"rotation": ("rotation",)}, rotated, zoo.TURNED, zoo.TURNED_PLANTS),
    "similarity": Rule({"alike": ("alike",)}, alike, zoo.UNLIKE, zoo.UNLIKE_PLANTS, DEAR),
    "parallel_texts": Rule({"shared": ("shared",)}, shared, zoo.SENTENCES, zoo.SENTENCES_PLANTS),
    "gradient_conflict": Rule(GRADIENTS, conflicts, zoo.GRADIENTS, zoo.GRADIENTS_PLANTS, DEAR),
    "auxiliary_gradient": Rule({"auxiliary": ("auxiliary",)}, helps, zoo.LOSSES, zoo.LOSSES_PLANTS),
    "auxiliary_proxy": Rule({"auxiliary": ("auxiliary",)}, pulls, zoo.PULLED, zoo.PULLED_PLANTS),
    "update_spectrum": Rule(SPECTRA, spectra, zoo.MATRICES, zoo.SPECTRA_PLANTS),
    "update_landing": Rule(LANDED, landed, zoo.MATRICES, zoo.LANDED_PLANTS),
}
