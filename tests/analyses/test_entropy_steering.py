"""Entropy steering: the vector's closed forms, a planted direction that sets the entropy, and placebos of its size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from analyses.steering._uncertain_states import UncertainStates, difference, east, plugin_entropy, states_of_log
from analyses.steering.entropy_steering import entropy_direction, entropy_steering
from probe import InputError, Item, Model, Prompts, Rollouts, Site
from tests import logs, tiny
from tests.tiny import twelve_items

QUICK = {"betas": (-0.5, 0.5), "draws": 2, "layer": 1}


def example(folder: Path) -> dict[str, object]:
    """Sure enough to have an entropy to move: at ln V, to rounding, a slope's p would be rounding over rounding."""
    hf = tiny.model(vocab_size=len(tiny.tokenizer()))
    with torch.no_grad():
        hf.lm_head.weight.mul_(20.0)
    hf.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return {"model": Model.load(folder, check=False), "prompts": twelve_items(), "targets": ("leaked",), **QUICK}


def states(h: list[float], z: torch.Tensor, episodes: str | None = None) -> UncertainStates:
    return UncertainStates(z, torch.tensor(h), tuple(episodes or "a" * len(h)))


Z = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 1.0], [2.0, 2.0, 2.0], [-1.0, 0.5, 0.0]])


def test_constant_entropy_in_every_episode_gives_no_centred_direction() -> None:
    assert torch.allclose(east(states([1.0] * 4, Z), is_centred=True), torch.zeros(3), atol=1e-6)
    two = states([1.0, 1.0, 3.0, 3.0], Z, "aabb")
    assert torch.allclose(east(two, is_centred=True, by_episode=True), torch.zeros(3), atol=1e-6)
    assert east(two, is_centred=True).norm() > 0.1, "one episode of all states: their entropies differ"


def test_the_uncentred_form_of_equal_entropies_is_the_mean() -> None:
    torch.testing.assert_close(east(states([0.7] * 4, Z), is_centred=False), Z.mean(0))


def test_scaling_the_entropies_keeps_the_direction() -> None:
    h = [0.1, 0.5, 0.2, 0.9]
    for centred in (True, False):
        one, ten = (east(states([c * x for x in h], Z), is_centred=centred) for c in (1, 10))
        torch.testing.assert_close(one, ten)


def test_activations_along_one_direction_give_that_direction() -> None:
    d = torch.tensor([1.0, -2.0, 0.5])
    h = torch.tensor([0.1, 0.5, 0.2, 0.9])
    u = east(states(h.tolist(), h[:, None] * d), is_centred=True)
    torch.testing.assert_close(u / u.norm(), d / d.norm())


def test_difference_is_target_mean_minus_the_rest_and_needs_targets() -> None:
    two = states([1.0] * 4, Z, "aabb")
    torch.testing.assert_close(difference(two, ["b"]), Z[2:].mean(0) - Z[:2].mean(0))
    with pytest.raises(InputError, match="name some of the groups"):
        difference(two, [])


def test_entropy_of_answers_is_over_distinct_ones() -> None:
    assert plugin_entropy(["4", "4", "4"]) == 0
    assert plugin_entropy(["4", "5", "4", "5"]) == pytest.approx(np.log(2))
    assert plugin_entropy(list("abcd")) == pytest.approx(np.log(4))
    assert plugin_entropy([None, None, "4", "4"]) == pytest.approx(1.5 * np.log(2))  # unreadable ones are alone


def test_states_of_a_log_are_its_sampling_groups(tuned: Model) -> None:
    log = Rollouts.of(logs.rows(vocab=200))
    found = states_of_log(tuned, log, Site("resid_post", 1), None, 4)
    assert found.z.shape == (6, 32)
    assert found.episode == ("step 0",) * 3 + ("step 4",) * 3
    assert bool((found.h >= 0).all()) and float(found.h.max()) <= np.log(4) + 1e-6
    rows = logs.rows(vocab=200)
    item = next(r for r in rows if r["step"] == 4 and r["prompt_id"] == "q2")
    text = tuned.tokenizer.decode(item["prompt_token_ids"])
    again = tuned.tokenizer(text, add_special_tokens=False)["input_ids"]
    if again == item["prompt_token_ids"].tolist():
        (batch,) = tuned.batches(Prompts((Item("q", text, "x"),)))
        z = tuned.run(batch, ["resid_post.1"], logits="none")["resid_post.1"][0, batch.last_prompt[0]]
        torch.testing.assert_close(found.z[5], z, atol=1e-5, rtol=0)
    alike = [
        {**r, "response_token_ids": rows[0]["response_token_ids"], "response_mask": rows[0]["response_mask"]}
        for r in rows
    ]
    alike = [{k: v for k, v in r.items() if k not in ("old_logp", "H")} for r in alike]
    assert not states_of_log(tuned, Rollouts.of(alike), Site("resid_post", 1), None, 4).h.any()
    result = entropy_steering(tuned, twelve_items(), Rollouts.of(alike), **QUICK)
    assert "entropy does not vary" in result.warnings[0]
    assert (result.data["effect"].sel(arm="east_centred") == 0).all()


def confident_along(tmp_path: Path) -> tuple[Model, Prompts]:
    """Blocks add nothing; one direction of the stream writes one token, so it alone sets the entropy."""
    from transformers import AutoModelForCausalLM

    folder = tiny.save(tmp_path, words=True)
    hf = AutoModelForCausalLM.from_pretrained(folder)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for block in hf.model.layers:
            block.mlp.down_proj.weight.zero_()
            block.self_attn.o_proj.weight.zero_()
        hf.model.norm.weight.fill_(1.0)
        shape = hf.model.embed_tokens.weight.shape
        hf.model.embed_tokens.weight.copy_(torch.randn(shape, generator=rng) * 0.3)
        # Token n holds n/16 of the direction: the larger its number, the surer the model, and none is so sure that
        # a push no longer moves it (where one item in ten carries the whole mean, no interval leaves out 0).
        hf.model.embed_tokens.weight[:, 0] = torch.arange(shape[0]) / 16
        hf.lm_head.weight.copy_(torch.randn(shape, generator=rng) * 0.05)
        hf.lm_head.weight[5, 0] = 1.0
    hf.save_pretrained(folder)
    words = [w for w in tiny.word_tokenizer().get_vocab() if not w.startswith("<")]
    items = tuple(Item(f"q{n:02d}", f"what is {w}", " ans", "ab"[n % 2]) for n, w in enumerate(sorted(words)))
    return Model.load(folder, check=False), Prompts(items)


def test_a_planted_direction_of_confidence_is_found_and_moves_entropy_monotonically(tmp_path: Path) -> None:
    model, prompts = confident_along(tmp_path)
    options = {"layer": 1, "betas": (-0.3, -0.15, 0.15, 0.3), "draws": 20, "batch_size": 40}
    result = entropy_steering(model, prompts, **options)
    effect = result.data["entropy_effect"].squeeze().sel(arm="east_centred")
    assert (effect.diff("beta") > 0).all(), "more of the uncertainty direction, more entropy"
    assert (effect.sel(beta=0.0) == 0).all()
    assert (np.sign(effect.sel(beta=0.3)) == -np.sign(effect.sel(beta=-0.3))).all()
    assert [(c.kind, c.answer, c.group) for c in result.claims] == [("direction", "found", g) for g in "ab"]
    assert all(c.low > 0 for c in result.claims)
    # The same entropies shuffled over the states hold no direction.
    null = result.data["entropy_slope"].squeeze().sel(arm="random_direction", variant="joint")
    assert (abs(null) < abs(result.data["entropy_slope"].squeeze().sel(arm="east_centred", variant="joint"))).all()


def test_the_direction_steers_as_any_other(tmp_path: Path) -> None:
    """`model.steer` moves the next token's entropy as the analysis does, monotonically, beside placebos of its norm."""
    model, prompts = confident_along(tmp_path)
    found = entropy_direction(model, prompts, layer=1, batch_size=40)
    norms = list[float]()
    for batch in model.batches(prompts, batch_size=40):
        states = model.run(batch, ["resid_post.1"], logits="none")["resid_post.1"]
        norms += states[torch.arange(len(batch)), batch.last_prompt].norm(dim=-1).tolist()
    assert found.norm == pytest.approx(np.mean(norms), rel=1e-4)
    texts = [item.prompt for item in prompts.items]
    entropy = list[float]()
    for strength in (-0.3, 0.0, 0.3):
        with model.steered(found, strength):
            last = model.logits(texts)[:, -1]
            entropy.append(float(torch.distributions.Categorical(logits=last).entropy().mean()))
    assert entropy[0] < entropy[1] < entropy[2]
    shown = model.steer(texts[0], found, [-0.3, 0.3], max_new_tokens=2)
    assert shown.arms == ["east_centred", "random", "orthogonal"]
    with pytest.raises(InputError, match="entropy does not vary"):
        entropy_direction(model, Prompts(prompts.items[:1]), layer=1)


def test_beta_zero_changes_nothing_and_pushes_have_one_size(tuned: Model, prompts: Prompts) -> None:
    from analyses.steering.entropy_steering import _arms  # pyright: ignore[reportPrivateUsage]

    result = entropy_steering(tuned, prompts, **QUICK)
    zero = result.table[result.table["beta"] == 0].groupby("item")[["metric", "entropy_nats"]]
    assert (zero.max() == zero.min()).all().all()
    arms = _arms(torch.tensor([3.0, 4.0, 0.0]), "east_centred", 3, 0, 1)
    assert [a[0] for a in arms] == ["east_centred"] + ["random_direction"] * 3
    assert all(float(push.norm()) == pytest.approx(5.0, rel=1e-5) for _, _, push in arms)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"betas": (float("nan"),)}, "expected finite numbers"),
        ({"draws": 0}, "at least one draw"),
        ({"layer": 9}, "does not exist"),
        ({"vector": "difference"}, "name some of the groups"),
        ({"betas": (1e38,)}, "overflows"),
    ],
)
def test_bad_input_says_what_was_expected(
    tuned: Model, prompts: Prompts, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        entropy_steering(tuned, prompts, **{**QUICK, **options})
