"""A place whose own weights training left alone is downstream: which those are, and that none of them is named."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from analyses import run
from analyses.patching import _own_weights
from probe import Model, Prompts
from tests import tiny
from tests.analyses.test_cross_patching import effects, told

KINDS = ("attn_out", "z", "mlp_out", "mlp_post", "resid_pre", "resid_mid", "resid_post")


def pair(*names: str) -> tuple[Model, Model]:
    """A random model, and a copy in which these weights are others."""
    words = tiny.word_tokenizer()
    first = tiny.model(vocab_size=len(words))
    second = copy.deepcopy(first)
    with torch.no_grad():
        for name in names:
            weight = second.get_parameter(name)
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(5)))
    return Model.wrap(first, words, check=False), Model.wrap(second, words, check=False)


def changed(base: Model, tuned: Model) -> set[str]:
    sites = [s for kind in KINDS for s in base.sites(kind)]
    same = _own_weights.unchanged(base, tuned, sites)
    return {f"{s.kind}.{s.layer}" for s in sites if (s.kind, s.layer) not in same}


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("model.layers.1.mlp.up_proj.weight", {"mlp_out.1", "mlp_post.1"}),
        ("model.layers.1.self_attn.v_proj.weight", {"attn_out.1", "z.1", "resid_mid.1"}),
        ("model.layers.1.input_layernorm.weight", {"attn_out.1", "z.1", "mlp_out.1", "mlp_post.1", "resid_mid.1"}),
        ("model.embed_tokens.weight", {f"{kind}.{n}" for kind in ("resid_pre", "resid_mid") for n in range(4)}),
    ],
)
def test_the_parts_that_changed_are_told(name: str, own: set[str]) -> None:
    base, tuned = pair(name)
    n = base.shape.n_layers
    after = {f"{kind}.{k}" for kind in ("resid_pre", "resid_mid") for k in range(2, n)}
    after |= {f"resid_post.{k}" for k in range(0 if "embed" in name else 1, n)}
    assert changed(base, tuned) == {s for s in own | after if int(s[-1]) < n}
    assert changed(base, base) == set()


def test_an_open_edit_says_that_weights_do_not_tell() -> None:
    from probe import scale

    base, tuned = pair("model.layers.1.mlp.up_proj.weight")
    with tuned.edited([scale(tuned.site("mlp_out.0"), 0.5)]):
        assert _own_weights.unchanged(base, tuned, base.sites("mlp_out")) == frozenset()


def test_only_the_changed_block_is_named(prompts: Prompts) -> None:
    base, tuned = pair("model.layers.1.mlp.down_proj.weight")
    result = run("cross_patching", base=base, tuned=tuned, prompts=prompts, sites=("attn_out", "mlp_out"))
    after = result.table[(result.table["layer"] > 1) | (result.table["site"] != "mlp_out")]
    assert (after["effect"] != 0).any(), "later blocks do carry it on"
    assert {c.place for c in result.claims if c.place} <= {"the MLP output of layer 1 from tuned into base"}
    n = base.shape.n_layers
    assert all(c.family.startswith("1 places") for c in result.claims if c.family)
    assert all(f"{2 * n - 1} of {2 * n} parts have the same weights" in c.assumptions[-1] for c in result.claims)


def test_an_effect_of_an_unchanged_place_is_no_finding() -> None:
    """The second place passes on what the first did: clear in itself, and not where training changed anything."""
    values = np.random.default_rng(0).normal([0.0, 0.4], 0.2, (40, 2))
    table = effects(("unseen", values))
    (plain,) = told(table)
    (own,) = told(table, unchanged=frozenset({("mlp_out", 1)}))
    assert plain.is_found and plain.place is not None and "layer 1" in plain.place
    assert own.answer == "none found" and own.family == "1 places, 1 groups"
    every: Any = frozenset({("mlp_out", 0), ("mlp_out", 1)})
    assert told(table, unchanged=every)[0].is_found, "of equal weights nothing tells: all places are looked at"
