"""Weights by part: complete, replaced in place, restored bit for bit whatever happens; ties are refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from probe import InputError, Model
from probe.check import prove_logits
from probe.identity import weights_hash
from probe.weights import (
    Place,
    check_same_parameters,
    down_rows,
    gaussian,
    is_tied,
    mixed_with,
    places,
    replaced,
    revised,
    select,
    taken_from,
)

Pair = Callable[[str], tuple[Model, Model]]
FAMILIES = ("llama", "gpt2", "gpt_neox", "olmo2")


@pytest.fixture(scope="module")
def pair_of(folder_of: Callable[..., object]) -> Pair:
    """Two models of a family with different weights."""

    def pair(family: str) -> tuple[Model, Model]:
        return (Model.load(str(folder_of(family, 3)), check=False), Model.load(str(folder_of(family, 4)), check=False))

    return pair


def logits(model: Model) -> torch.Tensor:
    from probe import Prompts

    prompts = Prompts.of([{"id": "a", "prompt": "what is 3 plus 7 ?", "answer": " ans 10"}])
    out = model.run(model.batches(prompts)[0]).logits
    assert out is not None
    return out


@pytest.mark.parametrize("family", FAMILIES)
def test_places_are_a_partition_of_the_weights(model_of: Callable[..., Model], family: str) -> None:
    model = model_of(family)
    counts = {name: torch.zeros(value.shape) for name, value in model.weights().items()}
    for slots in places(model).values():
        for slot in slots:
            seen = counts[slot.name]
            counts[slot.name] = slot.write(seen, slot.read(seen) + 1)
    assert all(bool((c == 1).all()) for c in counts.values())
    assert {p.layer for p in places(model)} == {None, 0, 1, 2}


@pytest.mark.parametrize("family", FAMILIES)
def test_taking_all_parts_is_the_other_model_and_leaving_restores(pair_of: Pair, family: str) -> None:
    base, tuned = pair_of(family)
    before, want = weights_hash(tuned.weights()), weights_hash(base.weights())
    own, other = logits(tuned), logits(base)
    with replaced(tuned, revised(tuned, select(tuned, ["all"]), taken_from(base))):
        assert weights_hash(tuned.weights()) == want
        assert torch.equal(logits(tuned), other)
    assert weights_hash(tuned.weights()) == before
    assert torch.equal(logits(tuned), own)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_fused_q_is_exchanged_without_k_and_v(pair_of: Pair, family: str) -> None:
    base, tuned = pair_of(family)
    batch = tuned.batches(_prompts())[0]
    sites = ["q.0", "k.0", "v.0"]
    chosen = select(tuned, ["attn.q", "norms", "embed", "unembed"])
    with replaced(tuned, revised(tuned, chosen, taken_from(base))):
        mixed = tuned.run(batch, sites, logits="none")
    theirs = base.run(batch, sites, logits="none")
    torch.testing.assert_close(mixed["q.0"], theirs["q.0"])
    assert not torch.allclose(mixed["k.0"], theirs["k.0"])
    assert not torch.allclose(mixed["v.0"], theirs["v.0"])


def _prompts():
    from probe import Prompts

    return Prompts.of([{"id": "a", "prompt": "what is 3 plus 7 ?", "answer": " ans 10"}])


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_leaves_the_model_as_it_was(pair_of: Pair, error: type[BaseException]) -> None:
    base, tuned = pair_of("llama")
    before = weights_hash(tuned.weights())
    inside: list[str] = []

    def interrupted() -> None:
        with replaced(tuned, revised(tuned, select(tuned, ["mlp"], [1]), taken_from(base))):
            inside.append(weights_hash(tuned.weights()))
            raise error

    with pytest.raises(error):
        interrupted()
    assert inside != [before]
    assert weights_hash(tuned.weights()) == before


def test_a_load_cut_short_is_undone(pair_of: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = pair_of("llama")
    before = weights_hash(tuned.weights())
    load, calls = tuned.backend.load_weights, []

    def cut(values: dict[str, torch.Tensor]) -> None:
        calls.append(1)
        load(values)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(tuned.backend, "load_weights", cut)
    with pytest.raises(KeyboardInterrupt), replaced(tuned, revised(tuned, select(tuned, ["all"]), taken_from(base))):
        pytest.fail("the block must not run")
    assert weights_hash(tuned.weights()) == before


def test_mixing_has_both_ends_bitwise(pair_of: Pair) -> None:
    base, tuned = pair_of("llama")
    everything = select(tuned, ["all"])
    for share, want in ((0.0, base), (1.0, tuned)):
        values = revised(tuned, everything, mixed_with(base, share))
        assert all(torch.equal(v, want.weights()[n]) for n, v in values.items())


def test_noise_keeps_every_norm_and_its_draw(model_of: Callable[..., Model]) -> None:
    model = model_of("gpt_neox")
    alone = revised(model, [Place("attn.q", 1)], gaussian(0, 2))
    (slot, _) = places(model)[Place("attn.q", 1)]
    own = slot.read(model.weights()[slot.name])
    torch.testing.assert_close(slot.read(alone[slot.name]).norm(), own.norm())
    together = revised(model, select(model, ["attn"], [1]), gaussian(0, 2))
    assert torch.equal(slot.read(alone[slot.name]), slot.read(together[slot.name]))
    other = revised(model, [Place("attn.q", 1)], gaussian(0, 3))
    assert not torch.equal(slot.read(alone[slot.name]), slot.read(other[slot.name]))


def test_half_a_tie_is_refused(model_of: Callable[..., Model]) -> None:
    tied, free = model_of("gpt2"), model_of("llama")
    assert is_tied(tied)
    assert not is_tied(free)
    with pytest.raises(InputError, match="tied"):
        select(tied, ["embed"])
    assert select(free, ["embed"]) == [Place("embed", None)]
    both = revised(tied, select(tied, ["embed", "unembed"]), gaussian(0))
    assert both["lm_head.weight"] is both["transformer.wte.weight"]
    half = {"lm_head.weight": both["lm_head.weight"]}
    with pytest.raises(InputError, match=r"one \(tied\) matrix"), replaced(tied, half):
        pass


@pytest.mark.parametrize(
    ("parts", "layers", "message"),
    [(["mlp.side"], None, "it has embed"), ([], None, "none"), (["mlp"], [3], r"layers \[3\] do not exist")],
)
def test_bad_parts_and_layers_say_what_there_is(
    model_of: Callable[..., Model], parts: list[str], layers: list[int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        select(model_of("llama"), parts, layers)
    with pytest.raises(InputError, match=r"it has embed, attn\.q"):
        select(model_of("gpt2"), ["mlp.gate"])


def test_wrong_shapes_and_other_architectures_are_refused(model_of: Callable[..., Model]) -> None:
    llama = model_of("llama")
    with pytest.raises(InputError, match="differ in architecture"):
        check_same_parameters(llama, model_of("gpt2"))
    short = {"model.norm.weight": torch.zeros(3)}
    with pytest.raises(InputError, match=r"expected torch\.float32"), replaced(llama, short):
        pass
    with pytest.raises(InputError, match="no parameter"), replaced(llama, {"no.such": torch.zeros(3)}):
        pass


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_down_rows_write_what_the_keys_say(model_of: Callable[..., Model], family: str) -> None:
    model = model_of(family)
    trace = model.run(model.batches(_prompts())[0], ["mlp_post.1", "mlp_out.1"], logits="none")
    rows = down_rows(model, 1)
    assert rows.shape == (model.shape.d_mlp, model.shape.d_model)
    written = trace["mlp_post.1"] @ rows
    constant = trace["mlp_out.1"] - written  # the bias, where there is one: the same at every position
    torch.testing.assert_close(constant, constant[:, :1].expand_as(constant), atol=1e-4, rtol=0)


def test_the_proofs_hold_after_a_replacement(model_of: Callable[..., Model]) -> None:
    model = model_of("gpt2")
    with replaced(model, revised(model, select(model, ["attn"], [0]), gaussian(0))):
        pass
    prove_logits(model)
