"""Names of places."""

from __future__ import annotations

import pytest

from probe.errors import InputError
from probe.sites import GLOBAL_KINDS, KINDS, Site, is_module_spelling


@pytest.mark.parametrize(
    ("text", "site"),
    [
        ("resid_post.5", Site("resid_post", 5)),
        ("z.5.3", Site("z", 5, 3)),
        ("L5H3", Site("z", 5, 3)),
        ("logits", Site("logits")),
        ("blocks.5.hook_resid_pre", Site("resid_pre", 5)),
        ("blocks.0.attn.hook_pattern", Site("pattern", 0)),
        ("blocks.11.mlp.hook_post", Site("mlp_post", 11)),
        ("hook_embed", Site("embed")),
        ("model.layers.5.mlp", Site("mlp_out", 5)),
        ("model.layers.5", Site("resid_post", 5)),
        ("transformer.h.2.attn", Site("attn_out", 2)),
        ("gpt_neox.layers.7.attention", Site("attn_out", 7)),
    ],
)
def test_spellings_name_the_same_place(text: str, site: Site) -> None:
    assert Site.parse(text) == site
    assert Site.parse(str(site)) == site


@pytest.mark.parametrize(
    "text", ["resid.5", "resid_post", "resid_post.x", "logits.2", "resid_post.1.2", "L5", "blocks.1.hook_foo", "z.1.-2"]
)
def test_other_text_is_refused_with_the_kinds(text: str) -> None:
    with pytest.raises(InputError):
        Site.parse(text)


def test_normalized_is_refused_because_it_names_two_tensors() -> None:
    # Before the gain for RMSNorm, after it for LayerNorm in TransformerLens.
    with pytest.raises(InputError):
        Site.parse("ln_final.hook_normalized")


def test_a_head_takes_its_axis_out_of_the_dims() -> None:
    assert Site("z", 1).dims == ("item", "pos", "head", "d_head")
    assert Site("z", 1, 2).dims == ("item", "pos", "d_head")
    assert Site("pattern", 1, 2).dims == ("item", "pos", "key_pos")
    assert Site("k", 1).dims[2] == "kv_head"


def test_order_is_the_order_of_the_pass() -> None:
    names = ["logits", "resid_post.1", "embed", "resid_pre.1", "resid_post.0", "z.1"]
    ordered = [str(s) for s in sorted(Site.parse(n) for n in names)]
    assert ordered == ["embed", "resid_post.0", "resid_pre.1", "resid_post.1", "z.1", "logits"]


def test_every_kind_has_item_and_pos() -> None:
    for kind, dims in KINDS.items():
        assert dims[0] == "item"
        assert "pos" in dims
        assert Site(kind, None if kind in GLOBAL_KINDS else 0).dims == dims


def test_module_spellings_are_known() -> None:
    assert is_module_spelling("model.layers.5.mlp")
    assert is_module_spelling("blocks.5.attn.hook_out")
    assert not is_module_spelling("model.layers.5")
    assert not is_module_spelling("blocks.5.hook_mlp_out")
