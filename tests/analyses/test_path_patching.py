"""Path patching: the closed form against the three steps done literally, and what must be exactly 0."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyses.core.running.run import run
from analyses.patching._paths import Paths, Receiver, direct_logits
from probe import Edit, InputError, Item, Model, Prompts, Site, patch
from probe.replay import Clean, answer_logprob, clean_metric, logit_difference, replay
from tests import tiny
from tests.probe.test_replay import full


def example(folder: Path) -> dict[str, Any]:
    pair = {"base": tiny.save(folder / "a", words=True), "tuned": tiny.save(folder / "b", words=True, seed=3)}
    return {**pair, "prompts": pairs_of_prompts()}


def pairs_of_prompts() -> Prompts:
    items = [
        Item(f"q{n}", f"what is {n} plus 7 ?" + " how many" * (n % 3), f"ans {9 - n}", group="ab"[n % 2],
             meta={"corrupt": f"what is {9 - n} plus 3 ?" + " how many" * (n % 3)})
        for n in range(6)
    ]  # fmt: skip
    return Prompts(tuple(items))


def made_of(family: str, **changes: Any) -> Model:
    words = tiny.word_tokenizer()
    return Model.wrap(tiny.model(family, vocab_size=len(words), **changes), words, check=False)


@pytest.fixture(scope="module")
def model_of() -> Callable[[str], Model]:
    made: dict[str, Model] = {}

    def of(family: str) -> Model:
        if family not in made:
            made[family] = made_of(family)
        return made[family]

    return of


def two_runs(model: Model, new: Model | None = None) -> tuple[Clean, Clean]:
    prompts = pairs_of_prompts()
    corrupt = Prompts(tuple(replace(i, prompt=i.meta["corrupt"]) for i in prompts.items))
    batches = [model.batches(p, batch_size=6)[0] for p in (prompts, corrupt)]
    if new is not None:
        return Clean(model, batches[0]), Clean(new, batches[0])
    return Clean(model, batches[0]), Clean(model, batches[1])


def three_steps(orig: Clean, new: Clean, sender: Site, receiver: Receiver, freeze_mlps: bool) -> torch.Tensor:
    """Path patching as it is defined: freeze, record the receiver's input, set it, run."""
    model, layers = orig.model, range(orig.n_layers)
    frozen = [patch(Site("z", n), orig.value(Site("z", n))) for n in layers]
    if freeze_mlps:
        frozen += [patch(Site("mlp_out", n), orig.value(Site("mlp_out", n))) for n in layers]
    sent = patch(sender, new.value(sender))
    kept = [e for e in frozen if e.site != sender]
    layer = receiver.layer if receiver.layer is not None else orig.n_layers - 1
    # Step 2: what arrives. q, k and v are read there; an MLP's output stands for its input.
    site = {"final": Site("resid_post", layer), "mlp": Site("mlp_post", layer)}.get(receiver.kind)
    site = site or Site(receiver.kind, layer)
    value = model.run(orig.batch, read=[site], edits=[*kept, sent])[site]
    # Step 3.
    if receiver.kind in ("k", "v") and not receiver.group:
        raise NotImplementedError
    last = Site(receiver.kind, layer, receiver.head) if receiver.kind in "qkv" else site
    part = value if last.head is None else value.select(last.head_dim, last.head)
    return full(model, orig.batch, [patch(last, part)], answer_logprob(orig.batch))[0]


RECEIVERS = [Receiver("final"), Receiver("mlp", 2), Receiver("q", 2, 3), Receiver("k", 2, 1, True),
             Receiver("v", 1, 0, True)]  # fmt: skip


FROZEN = [(f, True) for f in ("llama", "qwen3", "gpt2", "olmo2", "gemma3_text", "gpt_neox")]
LIVE = [(f, False) for f in ("llama", "gpt2", "olmo2", "gemma3_text")]  # refused where MLPs run beside attention


@pytest.mark.parametrize(("family", "freeze_mlps"), [*FROZEN, *LIVE])
def test_the_closed_form_is_the_three_steps(family: str, freeze_mlps: bool, model_of: Callable[[str], Model]) -> None:
    orig, new = two_runs(model_of(family))
    paths = Paths(orig, new, orig.batch.mask, freeze_mlps=freeze_mlps)
    metric = answer_logprob(orig.batch)
    for sender in (Site("z", 0, 1), Site("mlp_out", 0)):
        for receiver in RECEIVERS:
            got = replay(orig, [paths.edit(sender, receiver)], metric)[0]
            want = three_steps(orig, new, sender, receiver, freeze_mlps)
            torch.testing.assert_close(got, want, atol=1e-5, rtol=0, msg=f"{family} {sender} {receiver}")
            # A first MLP beside attention reads its own token only, which is the same in both prompts.
            if (sender.kind, receiver.kind) == ("mlp_out", "final") and family != "gpt_neox":
                assert (want - clean_metric(orig, metric)).abs().max() > 1e-5


def test_one_query_head_of_a_group(model_of: Callable[[str], Model]) -> None:
    """Keys of one query head: as if it had its own copy of the group's keys."""
    model = model_of("llama")
    orig, new = two_runs(model)
    paths = Paths(orig, new, orig.batch.mask)
    delta = paths.write(Site("mlp_out", 0))
    metric = answer_logprob(orig.batch)
    whole = paths.edit(Site("mlp_out", 0), Receiver("k", 2, 1, True))  # query heads 2 and 3
    alone = [paths.edit(Site("mlp_out", 0), Receiver("k", 2, h)) for h in (2, 3)]
    got = replay(orig, [[whole], alone], metric)
    torch.testing.assert_close(got[0], got[1], atol=1e-6, rtol=0)
    changed = model.run(orig.batch, read=["z.2"], edits=[Edit(Site("resid_pre", 2), lambda x: x + delta)])["z.2"]
    assert not torch.allclose(paths.z(2, delta, "k")[orig.batch.mask], changed[orig.batch.mask])


def test_direct_writes_add_up_to_the_change_of_the_last_state(model_of: Callable[[str], Model]) -> None:
    for family in ("llama", "olmo2", "gpt_neox"):
        orig, new = two_runs(model_of(family))
        paths = Paths(orig, new, orig.batch.mask)
        senders = [Site("embed"), *(Site(k, n) for n in range(3) for k in ("attn_out", "mlp_out"))]
        total = sum(paths.write(s) for s in senders)
        change = (new.inputs[-1] - orig.inputs[-1])[orig.batch.mask]
        torch.testing.assert_close(total[orig.batch.mask], change, atol=1e-4, rtol=0)
        if family != "olmo2":  # before a norm, a block's heads and its attention write the same
            heads = sum(paths.write(Site("z", 1, h)) for h in range(4))
            torch.testing.assert_close(heads, paths.write(Site("attn_out", 1)), atol=1e-5, rtol=0)


def test_between_two_checkpoints(model_of: Callable[[str], Model]) -> None:
    """Everything that is written, along the direct path: the base's head reading the tuned last state."""
    base, tuned = model_of("llama"), made_of("llama", seed=4)
    orig, new = two_runs(base, tuned)
    paths = Paths(orig, new, orig.batch.mask)
    senders = [Site("embed"), *(Site(k, n) for n in range(3) for k in ("attn_out", "mlp_out"))]
    total = orig.inputs[-1] + sum(paths.write(s) for s in senders)
    metric = answer_logprob(orig.batch)
    got = replay(orig, [patch("resid_post.2", total), patch("resid_post.2", new.inputs[-1])], metric)
    torch.testing.assert_close(got[0], got[1], atol=1e-5, rtol=0)
    normed = Paths(*two_runs(made_of("olmo2"), made_of("olmo2", seed=1)), orig.batch.mask)
    with pytest.raises(InputError, match="not separable between two checkpoints"):
        normed.write(Site("z", 0, 0))


def test_new_equal_to_orig_is_exactly_nothing(model_of: Callable[[str], Model]) -> None:
    orig, _ = two_runs(model_of("llama"))
    paths = Paths(orig, orig, orig.batch.mask)
    metric = answer_logprob(orig.batch)
    edits = [paths.edit(Site("z", 0, 1), r) for r in (Receiver("final"), Receiver("mlp", 1))]
    assert torch.equal(replay(orig, edits, metric), clean_metric(orig, metric).expand(2, -1))


def test_direct_logits_of_all_heads(model_of: Callable[[str], Model]) -> None:
    for family in ("llama", "gpt2", "gpt_neox"):
        model = model_of(family)
        orig, new = two_runs(model)
        n = len(orig.batch)
        metric = logit_difference(orig.batch, torch.full((n,), 5), torch.full((n,), 9))
        logits = direct_logits(orig, new, metric.rows, [5, 9])
        paths = Paths(orig, new, orig.batch.mask)
        for layer, head in ((0, 0), (1, 3), (2, 2)):
            path = replay(orig, [paths.edit(Site("z", layer, head), Receiver("final"))], metric)[0]
            got = (logits[:, layer, head, 0] - logits[:, layer, head, 1]).float()
            torch.testing.assert_close(got, path, atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="norms what attention adds"):
        direct_logits(*two_runs(model_of("olmo2")), metric.rows)


def test_attention_alone_in_one_layer_is_activation_patching() -> None:
    """One block, MLP writing nothing: a head's paths to the last state are all of its effect."""
    model = made_of("llama", num_hidden_layers=1)
    model.weights()["model.layers.0.mlp.down_proj.weight"].data.zero_()
    orig, new = two_runs(model)
    paths = Paths(orig, new, orig.batch.mask)
    metric = answer_logprob(orig.batch)
    for sender in (Site("z", 0, 2), Site("attn_out", 0)):
        edits = [paths.edit(sender, Receiver("final")), patch(sender, new.value(sender))]
        path, activation = replay(orig, edits, metric)
        torch.testing.assert_close(path, activation, atol=1e-6, rtol=0)


def test_a_receiver_that_contains_the_last_state_is_the_last_state(model_of: Callable[[str], Model]) -> None:
    orig, new = two_runs(model_of("llama"))
    paths = Paths(orig, new, orig.batch.mask)
    direct = paths.edit(Site("z", 0, 1), Receiver("final"))
    others = [paths.edit(Site("z", 0, 1), r) for r in (Receiver("mlp", 1), Receiver("q", 2, 3))]
    got = replay(orig, [[direct], [*others, direct]], answer_logprob(orig.batch))
    torch.testing.assert_close(got[0], got[1], atol=1e-6, rtol=0)


def test_the_table_holds_every_pair_and_zero_where_there_is_no_path(model_of: Callable[[str], Model]) -> None:
    given = {"base": model_of("llama"), "prompts": pairs_of_prompts()}
    options = {"senders": ("z", "mlp_out.1", "embed"), "receivers": ("final", "mlp", "q.1.2", "k.2", "v")}
    result = run("path_patching", **given, **options)
    table = result.table
    assert len(table) == 6 * 14 * (1 + 3 + 1 + 2 + 6)
    late = table[(table["sender"] == "z.2.0") & table["receiver"].isin(["mlp.1", "q.1.2", "k.2.0"])]
    assert (late["effect"] == 0).all()
    assert (table[(table["sender"] == "z.2.0") & (table["receiver"] == "mlp.2")]["effect"] != 0).all()
    np.testing.assert_allclose(table["effect"], table["metric_path"] - table["metric_orig"])
    same = run("path_patching", **given, **{**options, "batch_size": 2}).table
    np.testing.assert_allclose(same["metric_path"], table["metric_path"], atol=1e-5)


def test_bad_input_is_refused(model_of: Callable[[str], Model]) -> None:
    given = {"base": model_of("llama"), "prompts": pairs_of_prompts()}
    plain = Prompts(tuple(Item(str(n), f"what is {n} ?", "ans") for n in range(3)))
    for options, message in (
        ({"senders": ("q.1.0",)}, "expected z, mlp_out, attn_out or embed"),
        ({"senders": ("z.1.9",)}, "heads"),
        ({"receivers": ("q.9.0",)}, "3 blocks"),
        ({"receivers": ("head.1",)}, "expected final, mlp, q, k or v"),
        ({"prompts": plain}, "no column 'corrupt'"),
    ):
        with pytest.raises(InputError, match=message):
            run("path_patching", **{**given, **options})
