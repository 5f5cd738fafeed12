"""Continuations: the same as transformers', seeded, stopped and edited."""

# pyright: basic

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from probe import Edit, Model, Prompts, Site, add, caches, patch, sampling, zero
from probe.errors import InputError
from probe.sampling import Sampling, sample
from tests import tiny

N = 12


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_greedy_is_that_of_transformers(
    family: str, model_of: Callable[..., Model], folder_of: Callable[..., Path], prompts: Prompts
) -> None:
    model = model_of(family)
    plain: Any = AutoModelForCausalLM.from_pretrained(folder_of(family)).eval()
    for done in model.generate(prompts, max_new_tokens=N):
        ids = model.tokenizer(done.item.prompt, return_tensors="pt")
        out = plain.generate(**ids, max_new_tokens=N, do_sample=False, pad_token_id=0)
        assert list(done.ids) == out[0, ids["input_ids"].shape[1] :].tolist(), done.item.id


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_cache_gives_the_logits_of_a_full_pass(family: str, model_of: Callable[..., Model], prompts: Prompts) -> None:
    # Teacher-forced over what was generated, with the same steering, every token is the argmax again.
    model = model_of(family)
    push = torch.randn(tiny.D_MODEL, generator=torch.Generator().manual_seed(3)) * 0.3
    steer = add("resid_post.1", push, positions="from_last_prompt")
    done = model.generate(prompts, max_new_tokens=N, edits=[steer])
    for c in done:
        whole = Prompts.of([{"id": c.item.id, "prompt": c.item.prompt, "answer": "x"}])
        batch = model.batches(whole)[0]
        prompt = int(batch.last_prompt[0]) + 1
        ids = torch.cat([batch.ids[:, :prompt], torch.tensor([c.ids])], 1)
        span = torch.tensor([[2] * prompt + [4] * len(c.ids)], dtype=torch.int8)
        full = type(batch)(ids, torch.ones_like(ids, dtype=torch.bool), span, batch.items)
        whole_logits = model.run(full, edits=[steer]).logits
        assert whole_logits is not None
        logits = whole_logits[0, prompt - 1 : -1]
        got = logits.gather(1, torch.tensor(c.ids)[:, None])[:, 0]
        assert (logits.max(-1).values - got).max() < 1e-4


def test_batch_and_order_change_nothing(llama: Model, prompts: Prompts) -> None:
    together = llama.generate(prompts, max_new_tokens=N, temperature=1.0, n_samples=3, seed=5)
    apart = llama.generate(prompts, max_new_tokens=N, temperature=1.0, n_samples=3, seed=5, batch_size=1)
    assert together == apart
    assert [c.item.id for c in together] == [i.id for i in prompts.items for _ in range(3)]
    backwards = Prompts(prompts.items[::-1])
    again = llama.generate(backwards, max_new_tokens=N, temperature=1.0, n_samples=3, seed=5, batch_size=2)
    assert sorted(again, key=lambda c: (c.item.id, c.sample)) == together
    other = llama.generate(prompts, max_new_tokens=N, temperature=1.0, n_samples=3, seed=6)
    assert [c.ids for c in other] != [c.ids for c in together]
    assert len({c.ids for c in together}) > 3


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "gemma3_text"])
def test_prompts_join_as_others_end(
    family: str, model_of: Callable[..., Model], prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Rows of three places, ended at every length, over windows of 16 tokens: each text is that of the prompt alone.
    model, n = model_of(family), 24
    steer = add("resid_post.1", torch.randn(tiny.D_MODEL, generator=torch.Generator().manual_seed(3)) * 0.3)
    how: dict[str, Any] = {"max_new_tokens": n, "edits": [steer], "temperature": 0.8, "seed": 2}
    alone = model.generate(prompts, batch_size=1, **how)
    ends = frozenset(c.ids[1 + 2 * at] for at, c in enumerate(alone))
    monkeypatch.setattr(model, "eos_ids", ends)
    lots: list[tuple[int, int]] = []
    joined = caches.join
    monkeypatch.setattr(caches, "join", lambda a, b: (joined(a, b), lots.append(a.layers[0].keys.shape[::2]))[0])
    for c, whole in zip(model.generate(prompts, batch_size=3, **how), alone, strict=True):
        cut = next((at + 1 for at, token in enumerate(whole.ids) if token in ends), n)
        assert c.ids == whole.ids[:cut], c.item.id
    assert len(lots) >= 2 and max(rows for rows, _ in lots) <= 3
    assert max(width for _, width in lots) < model.shape.n_ctx  # columns no row reads are dropped


def test_ranking_a_part_draws_what_ranking_all_does() -> None:
    draw = torch.Generator().manual_seed(1)
    uniform = torch.rand(64, generator=draw, dtype=torch.float64)
    peaked = torch.randn(64, 3000, generator=draw) * 6
    tied = torch.randn(64, 1, generator=draw).expand(-1, 3000).clone()
    tied[:, :300:7] += 2.0
    for logits in (peaked, peaked / 10, tied, peaked.round()):
        for top_p in (1.0, 0.9, 0.05):
            probs = torch.softmax(logits.double(), -1)
            want = sampling.ranked(probs, top_p, uniform)
            assert torch.equal(sample(logits, Sampling(1, 1.0, top_p), uniform), want)


def test_more_samples_keep_the_first_ones(llama: Model, prompts: Prompts) -> None:
    two = llama.generate(prompts, max_new_tokens=4, temperature=1.0, n_samples=2)
    four = llama.generate(prompts, max_new_tokens=4, temperature=1.0, n_samples=4)
    assert [c for c in four if c.sample < 2] == two


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([[1.0, 0.0, 2.0, -1.0]]).expand(40_000, 4)
    uniform = torch.rand(40_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = torch.bincount(sample(logits, Sampling(1, 0.7), uniform), minlength=4) / 40_000
    want = torch.softmax(logits[0] / 0.7, -1)
    assert (counts - want).abs().max() < 0.01
    # The top two hold 0.87 < .9 at temperature 1: three are kept.
    kept = sample(logits, Sampling(1, 1.0, top_p=0.9), uniform).unique().tolist()
    assert kept == [0, 1, 2]
    assert sample(logits[:3], Sampling(1, 1.0, top_p=1e-9), uniform[:3]).tolist() == [2, 2, 2]
    ends = torch.tensor([0.0, 1 - 1e-16, 0.5], dtype=torch.float64)
    assert sample(logits[:3], Sampling(1, 1.0), ends).tolist()[:2] == [2, 3]


def test_eos_ends_a_row_and_others_go_on(llama: Model, prompts: Prompts) -> None:
    plain = llama.generate(prompts, max_new_tokens=N)
    first = plain[0].ids[2]
    before = llama.eos_ids
    llama.eos_ids = frozenset({first})
    try:
        done = llama.generate(prompts, max_new_tokens=N)
    finally:
        llama.eos_ids = before
    for a, b in zip(plain, done, strict=True):
        cut = a.ids.index(first) + 1 if first in a.ids else N
        assert b.ids == a.ids[:cut]
        assert b.finish == ("eos" if first in a.ids else "length")


def test_stop_strings(llama: Model, prompts: Prompts) -> None:
    plain = llama.generate(prompts, max_new_tokens=N)
    stop = plain[1].text[3:5]
    done = llama.generate(prompts, max_new_tokens=N, stop=[stop])
    for a, b in zip(plain, done, strict=True):
        if stop in a.text:
            assert b.text == a.text[: a.text.index(stop)]
            assert b.finish == "stop"
        else:
            assert (b.text, b.finish) == (a.text, "length")
        assert b.ids == a.ids[: len(b.ids)]
    assert done[1].finish == "stop"


def test_prefill_edits_the_prompt_only(llama: Model, prompts: Prompts) -> None:
    seen: list[tuple[int, ...]] = []

    def watch(x: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(x.shape))
        return x

    llama.generate(prompts.limit(1), max_new_tokens=4, edits=[Edit(Site("z", 1), watch, phase="prefill")])
    assert len(seen) == 1
    seen.clear()
    llama.generate(prompts.limit(1), max_new_tokens=4, edits=[Edit(Site("z", 1), watch)])
    assert [s[1] for s in seen[1:]] == [1, 1, 1]
    seen.clear()
    llama.generate(prompts.limit(1), max_new_tokens=4, edits=[Edit(Site("z", 1), watch, "last_prompt")])
    assert len(seen) == 1


def test_edits_steer_and_leave(llama: Model, prompts: Prompts) -> None:
    plain = llama.generate(prompts, max_new_tokens=6)
    push = llama.weights()["lm_head.weight"][77].detach() * 50
    steered = llama.generate(prompts, max_new_tokens=6, edits=[add("resid_post.2", push)])
    assert all(set(c.ids) == {77} for c in steered)
    with llama.edited(add("resid_post.2", push)):
        assert llama.generate(prompts, max_new_tokens=6) == steered
    first = llama.generate(prompts, max_new_tokens=6, edits=[add("resid_post.2", push, phase="prefill")])
    assert all(c.ids[0] == 77 for c in first)
    assert any(set(c.ids) != {77} for c in first)
    assert llama.generate(prompts, max_new_tokens=6) == plain
    forced = torch.zeros(llama.shape.d_vocab)
    forced[5] = 1e6
    assert all(set(c.ids) == {5} for c in llama.generate(prompts, max_new_tokens=3, edits=[add("logits", forced)]))


def test_a_batch_is_continued_without_its_answers(llama: Model, prompts: Prompts) -> None:
    batch = llama.batches(prompts)[0]
    got = llama.generate(batch, max_new_tokens=5)
    want = {c.item.id: c.ids for c in llama.generate(prompts, max_new_tokens=5)}
    assert [c.item.id for c in got] == [i.id for i in batch.items]
    assert {c.item.id: c.ids for c in got} == want
    texts = llama.generate([i.prompt for i in prompts.items], max_new_tokens=5)
    assert [c.ids for c in texts] == [want[i.id] for i in prompts.items]


def test_bad_options(llama: Model, prompts: Prompts) -> None:
    tried: tuple[dict[str, Any], ...] = (
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"n_samples": 2},
        {"stop": [""]},
    )
    for options in tried:
        with pytest.raises(InputError):
            llama.generate(prompts, **{"max_new_tokens": 3, **options})
    with pytest.raises(InputError, match="longer than the context"):
        llama.generate(prompts, max_new_tokens=60)
    with pytest.raises(InputError, match="does not fit"):
        llama.generate(prompts, max_new_tokens=3, edits=[patch("resid_pre.1", torch.zeros(5, 40, 32))])
    with pytest.raises(InputError, match="wrote into its argument"):
        llama.generate(prompts, max_new_tokens=3, edits=[Edit(Site("resid_pre", 1), lambda x: x.mul_(2))])
    with pytest.raises(InputError, match="3 blocks"):
        llama.generate(prompts, max_new_tokens=3, edits=[zero("resid_pre.9")])
