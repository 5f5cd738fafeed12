"""Directions against planted ones, steering against edits by hand, placebos of equal norm."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from probe import Direction, InputError, Model, Neurons, Site, add, scale
from probe.directions import fitted, ordered
from probe.doses import strengths_of

PAIRS = [("the quick fox", "the lazy dog"), ("what is 3", "what is 7"), ("Ann has figs", "Ann has words")]
METHODS = ("mean difference", "pca", "logistic")


def planted(n: int = 12, noise: float = 0.1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States of two sides that differ by 3 along one axis, and noise."""
    rng = torch.Generator().manual_seed(0)
    axis = torch.nn.functional.normalize(torch.randn(16, generator=rng), dim=0)
    shared = torch.randn(n, 16, generator=rng)
    jitter = torch.randn(2, n, 16, generator=rng) * noise
    return shared + 1.5 * axis + jitter[0], shared - 1.5 * axis + jitter[1], axis


@pytest.mark.parametrize("method", METHODS)
def test_a_planted_axis_is_found_and_points_to_more(method: str) -> None:
    more, less, axis = planted()
    found = fitted(more, less, method)
    assert float(torch.cosine_similarity(found, axis, dim=0)) > 0.9
    assert float(found.norm()) == pytest.approx(3, rel=0.15)
    assert ordered(more, less, method) == 1
    back = fitted(less, more, method)
    assert float(torch.cosine_similarity(back, axis, dim=0)) < -0.9


def test_where_nothing_is_planted_held_out_pairs_are_in_no_order() -> None:
    rng = torch.Generator().manual_seed(1)
    shares = [ordered(*torch.randn(2, 20, 64, generator=rng), "mean difference") for _ in range(20)]
    assert abs(sum(shares) / len(shares) - 0.5) < 0.1
    assert math.isnan(ordered(*torch.randn(2, 1, 4), "pca"))


def test_a_direction_is_the_mean_difference_of_last_states(llama: Model) -> None:
    found = llama.direction(PAIRS, layer=1)
    more, less = (llama.run([p[n] for p in PAIRS], "resid_post.1")["resid_post.1"][:, -1] for n in (0, 1))
    torch.testing.assert_close(found.vector, (more - less).mean(0))
    assert found.site == Site("resid_post", 1) and found.record["pairs"] == [list(p) for p in PAIRS]
    assert len(repr(found)) < 200


def test_steering_is_adding_the_vector(llama: Model) -> None:
    found = llama.direction(PAIRS, layer=1)
    with llama.steered(found, 4):
        got = llama.logits("the fox")
    assert torch.equal(got, llama.run("the fox", edits=[add("resid_post.1", found.vector * 4)]).logits)
    assert not llama.open_edits


def test_placebos_have_its_norm_and_other_directions(llama: Model) -> None:
    found = llama.direction(PAIRS, layer=1)
    for seed in range(3):
        placebos = found.placebos(seed)
        assert all(p.norm == pytest.approx(found.norm, rel=1e-5) for p in placebos.values())
        assert abs(placebos["orthogonal"].cosine(found)) < 1e-5
    assert torch.equal(found.random(1).vector, found.random(1).vector)
    assert not torch.equal(found.random(1).vector, found.random(2).vector)


def test_a_saved_direction_comes_back_with_its_record(llama: Model, tmp_path: Path) -> None:
    found = llama.direction(PAIRS, layer=1, method="pca")
    back = Direction.load(found.save(tmp_path / "fox.safetensors"))
    assert torch.equal(back.vector, found.vector) and back.site == found.site
    assert back.record == found.record
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    for name in ("junk.safetensors", "none.safetensors"):
        with pytest.raises(InputError, match=r"Direction\.save"):
            Direction.load(tmp_path / name)


def test_directions_combine_and_come_apart() -> None:
    x, y = (Direction(torch.eye(3)[n], "resid_post.0") for n in (0, 1))
    both = 2 * x + y - y
    assert torch.equal(both.vector, torch.tensor([2.0, 0, 0]))
    assert torch.equal((x + y).without(y).vector, x.vector)
    assert x.cosine(y) == 0 and (-x).cosine(x) == pytest.approx(-1)
    with pytest.raises(InputError, match="wholly along the other"):
        x.without(3 * x)
    with pytest.raises(InputError, match="same site"):
        x.cosine(Direction(torch.eye(3)[0], "resid_post.1"))
    with pytest.raises(InputError, match="not 0"):
        Direction(torch.zeros(3), "resid_post.0")


def test_what_is_removed_is_gone(llama: Model) -> None:
    found = llama.direction(PAIRS, layer=1)
    state = llama.run("the fox", "resid_post.1", [found.removed()])["resid_post.1"]
    assert float((state @ found.vector).abs().max()) < 1e-3


def test_a_direction_moves_to_another_checkpoint(llama: Model, folder_of) -> None:
    other, found = Model.load(folder_of("llama", 1)), llama.direction(PAIRS, layer=1)
    moved, again = other.transferred(found), other.transferred(found, refit=True)
    assert torch.equal(moved.vector, found.vector)
    assert torch.equal(again.vector, other.direction(PAIRS, layer=1).vector)
    assert again.record["transferred"]["cosine"] == pytest.approx(again.cosine(found))
    with pytest.raises(InputError, match="holds no pairs"):
        other.transferred(Direction(found.vector, found.site), refit=True)
    with pytest.raises(InputError, match="width 3"):
        other.transferred(Direction(torch.ones(3), "resid_post.1"))


def test_completions_stand_beside_placebos(llama: Model) -> None:
    found = llama.direction(PAIRS, layer=1)
    seen = llama.steer("the fox", found, [-4, 4], max_new_tokens=4, target=" dog", draws=2)
    assert seen.text(0) == llama.generate("the fox", max_new_tokens=4)[0].text
    with llama.steered(found, 4):
        assert seen.text(4) == llama.generate("the fox", max_new_tokens=4)[0].text
        whole = llama.logits("the fox dog")[0].log_softmax(-1)
        n = len(llama.run("the fox").tokens[0])
        last = whole[n - 1]
        answer = llama.run("the fox dog").batch.ids[0, n:]
    base = llama.logits("the fox")[0, -1].log_softmax(-1)
    row = next(t for t in seen.texts if (t.arm, t.strength) == ("direction", 4))
    assert row.kl_nats == pytest.approx(float((last.exp() * (last - base)).sum()), rel=1e-3)
    assert row.logprob == pytest.approx(float(whole[n - 1 : -1].gather(-1, answer[:, None]).mean()), abs=1e-4)
    assert seen.unchanged.kl_nats == 0 and not llama.open_edits
    assert len(seen.texts) == 1 + 2 * (1 + 2 * 2)
    assert set(seen.response()) == {"direction", "random", "orthogonal"}
    assert {"arm", "draw", "strength", "text", "kl_nats", "logprob", "is_changed"} == set(seen.frame())
    assert "<svg" in seen._repr_html_() and len(repr(seen)) < 1500


def test_neurons_are_scaled_and_held_against_others(llama: Model) -> None:
    dose = Neurons(1, (0, 5), llama.shape.d_mlp)
    seen = llama.steer("the fox", dose, [0, 3], max_new_tokens=3)
    (done,) = llama.generate("the fox", max_new_tokens=3, edits=[scale("mlp_post.1", 0.0, [0, 5])])
    assert seen.text(0) == done.text
    (placebo,) = dose.placebos(0).values()
    assert len(placebo.neurons) == 2 and not set(placebo.neurons) & {0, 5}
    with pytest.raises(InputError, match=r"0\.\.47"):
        Neurons(1, (48,), 48)


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([], "expected a list of"),
        ("ab", "expected a list of"),
        (["ab"], r"pairs\[0\]"),
        ([("a", "b", "c")], r"pairs\[0\]"),
        ([("the fox", "the fox")], "no direction between them"),
        ([("the fox", "")], "is empty"),
    ],
)
def test_what_are_no_pairs_is_told(llama: Model, pairs: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        llama.direction(pairs, layer=1)


def test_options_out_of_range_are_told(llama: Model) -> None:
    with pytest.raises(InputError, match="'mean difference', 'pca', 'logistic'"):
        llama.direction(PAIRS, layer=1, method="mean")
    with pytest.raises(InputError, match="does not exist"):
        llama.direction(PAIRS, layer=9)
    for bad in ([], [math.nan], [math.inf]):
        with pytest.raises(InputError, match="finite"):
            strengths_of(bad, 0.0)
