"""Replay: every edited run equals running it alone, whatever the site, family, padding, batch or memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from probe import Edit, InputError, Model, Prompts, Site, TokenBatch, patch, scale, zero
from probe.replay import Clean, Metric, answer_logprob, clean_metric, logit_difference, replay
from probe.replay.budget import budget_of
from tests import tiny

PLACES: tuple[Any, ...] = ("all", "all_prompt", "last_prompt", [1], [-3, 0])


def full(model: Model, batch: TokenBatch, runs: Sequence[Edit | Sequence[Edit]], metric: Metric) -> torch.Tensor:
    """The oracle: one ordinary forward pass per run, everything computed."""
    rows = [[r] if isinstance(r, Edit) else list(r) for r in runs]
    out = torch.full((len(rows), len(batch)), float("nan"))
    for n, edits in enumerate(rows):
        logits = model.run(batch, edits=edits).logits
        assert logits is not None
        for i in range(len(batch)):
            pos = metric.rows[i].nonzero().flatten()
            out[n, i] = metric.score(logits[i, pos], torch.full_like(pos, i), pos).mean()
    return out


def noisy(model: Model, batch: TokenBatch, site: Site, positions: Any, seed: int = 0) -> Edit:
    """An edit that changes a site by seeded noise and, in a pattern, keeps rows summing to 1."""
    shape = model.run(batch, read=[site], logits="all" if site.kind == "logits" else "none")[site].shape
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.5
    if site.kind == "pattern":
        return Edit(site, lambda x: (x + noise).softmax(-1), positions)
    return Edit(site, lambda x: x * 1.2 + noise.to(x), positions)


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_site_of_every_family(
    family: str, padding: Any, model_of: Callable[..., Model], prompts: Prompts
) -> None:
    model = model_of(family)
    batch = model.batches(prompts, batch_size=3, padding=padding)[-1]
    metric, clean = answer_logprob(batch), Clean(model, batch)
    edits = [noisy(model, batch, s, PLACES[n % len(PLACES)], n) for n, s in enumerate(model.sites())]
    # Each alone by the model's own hooks; all at once by replay.
    torch.testing.assert_close(replay(clean, edits, metric), full(model, batch, edits, metric), atol=1e-5, rtol=0)


@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck),
          phases=[Phase.generate])  # fmt: skip
def test_any_runs_in_any_memory(data: st.DataObject, model_of: Callable[..., Model], prompts: Prompts) -> None:
    model = model_of(data.draw(st.sampled_from(["llama", "qwen3", "gemma3_text", "gpt_neox", "gpt2"])))
    size = data.draw(st.integers(1, 5))
    batch = model.batches(prompts, batch_size=size, padding=data.draw(st.sampled_from(["left", "right"])))[-1]
    n_heads, clean = model.shape.n_heads, Clean(model, batch)

    def edit() -> Edit:
        site = data.draw(st.sampled_from([s for s in model.sites() if s.kind != "logits"]))
        if site.kind == "z" and data.draw(st.booleans()):
            site = Site("z", site.layer, data.draw(st.integers(0, n_heads - 1)))
        return noisy(model, batch, site, data.draw(st.sampled_from(PLACES)), data.draw(st.integers(0, 99)))

    runs = [[edit() for _ in range(data.draw(st.integers(1, 3)))] for _ in range(data.draw(st.integers(1, 4)))]
    metric = answer_logprob(batch)
    got = replay(clean, runs, metric, max_bytes=data.draw(st.sampled_from([None, 1, 300_000])))
    torch.testing.assert_close(got, full(model, batch, runs, metric), atol=1e-5, rtol=0)


def test_a_run_patched_with_itself_is_the_clean_run_to_the_last_bit(llama: Model, prompts: Prompts) -> None:
    batch = llama.batches(prompts, batch_size=5)[0]
    clean, metric = Clean(llama, batch), answer_logprob(batch)
    kinds = [s for s in llama.sites() if s.kind not in ("ln_final", "logits", "embed")]
    own = replay(clean, [patch(s, clean.value(s)) for s in kinds], metric)
    assert torch.equal(own, clean_metric(clean, metric).expand_as(own))


def test_the_clean_values_are_those_of_the_backend(model_of: Callable[..., Model], prompts: Prompts) -> None:
    for family in ("qwen3", "gemma3_text", "gpt_neox", "gpt2"):
        model = model_of(family)
        batch = model.batches(prompts, batch_size=5)[0]
        sites = [s for s in model.sites() if s.kind not in ("pattern", "attn_scores")]
        clean, trace = Clean(model, batch), model.run(batch, read=sites)
        for site in sites:
            got, want = clean.value(site)[batch.mask], trace[site][batch.mask]
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5, msg=f"{family} {site}")


def test_positions_after_what_the_metric_reads_change_nothing(llama: Model, prompts: Prompts) -> None:
    batch = llama.batches(prompts, batch_size=5)[0]
    clean, last = Clean(llama, batch), batch.last_prompt
    metric = logit_difference(batch, torch.full_like(last, 5), torch.full_like(last, 9))
    answer = batch.mask & (torch.arange(batch.ids.shape[1]) > last[:, None])
    got = replay(clean, [zero("resid_pre.1", answer), zero("resid_pre.1")], metric)
    assert torch.equal(got[0], clean_metric(clean, metric))
    assert not torch.equal(got[1], got[0])


def test_the_memory_it_announces_bounds_its_rows(llama: Model) -> None:
    decoder = Clean(llama, llama.batches(Prompts.of([{"id": "a", "prompt": "what", "answer": " is"}]))[0]).decoder
    small, large = budget_of(decoder, 64, 2**20), budget_of(decoder, 64, 2**26)
    assert small.rows < large.rows
    assert small.kept < large.kept
    assert small.logits < large.logits


def test_bfloat16_is_as_close_to_the_truth_as_full_runs(folder_of: Callable[..., Path], prompts: Prompts) -> None:
    exact = Model.load(folder_of("llama"))
    rough = Model.load(folder_of("llama"), dtype="bfloat16", check=False)
    batch = exact.batches(prompts, batch_size=5)[0]
    metric = answer_logprob(batch)
    values = exact.run(batch, read=exact.sites("resid_pre") + exact.sites("mlp_out")).activations
    edits = [patch(s, v.roll(1, 0), [p]) for s, v in values.items() for p in (0, 2, 5)]
    truth = full(exact, batch, edits, metric)
    fast = (replay(Clean(rough, batch), edits, metric) - truth).pow(2).mean().sqrt()
    slow = (full(rough, batch, edits, metric) - truth).pow(2).mean().sqrt()
    assert fast <= 2 * slow
    assert fast > 0


def test_a_state_that_is_not_finite_is_named(folder_of: Callable[..., Path], prompts: Prompts) -> None:
    model = Model.load(folder_of("llama", 7), check=False)
    batch = model.batches(prompts, batch_size=5)[0]
    with torch.no_grad():
        model.weights()["model.layers.1.mlp.down_proj.weight"][0, 0] = float("nan")
    with pytest.raises(InputError, match=r"resid_pre\.2 is not finite .* item"):
        Clean(model, batch)


def test_bad_edits_are_refused(llama: Model, prompts: Prompts) -> None:
    batch = llama.batches(prompts, batch_size=5)[0]
    clean, metric = Clean(llama, batch), answer_logprob(batch)
    for edit, words in (
        (zero("mlp_out.3"), "blocks"),
        (zero("z.0.4"), "heads"),
        (zero("resid_pre.0", [99]), "does not exist"),
        (Edit(Site("resid_pre", 0), lambda x: x[:, :1]), "expected"),
    ):
        with pytest.raises(InputError, match=words):
            replay(clean, [edit], metric)
    with llama.edited(scale("mlp_out.0", 2.0)), pytest.raises(InputError, match=r"model\.edited"):
        Clean(llama, batch)


def test_the_shape_of_qwen_and_real_text(benchmarks: Path) -> None:
    """A vocabulary wider than the tokenizer's, tied and grouped as in Qwen2.5, and items of a public benchmark."""
    shape = {"vocab_size": 151_936, "hidden_size": 112, "num_attention_heads": 14, "num_key_value_heads": 2}
    hf = tiny.model("qwen2", **shape, max_position_embeddings=2048, tie_word_embeddings=True)
    model = Model.wrap(hf, tiny.tokenizer("qwen2"))
    items = Prompts.read(benchmarks / "math500.json", columns="ttrl").items
    short = Prompts(tuple(sorted(items, key=lambda i: len(i.prompt))[:2]))
    batch = model.batches(short, batch_size=2)[0]
    metric, clean = answer_logprob(batch), Clean(model, batch)
    edits = [noisy(model, batch, Site(kind, 1), "last_prompt") for kind in ("resid_post", "attn_out", "z")]
    torch.testing.assert_close(replay(clean, edits, metric), full(model, batch, edits, metric), atol=1e-5, rtol=0)
