"""Edges: scores are derivatives, their sums nodes, the planted chain is found whole, drift and nothing are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy
import torch

from analyses.core.running.run import run
from analyses.patching import _overlaps
from analyses.patching._clean_and_corrupt import paired_batches
from analyses.patching._edges import Graph, Runs
from probe import Edit, InputError, Model, Prompts, Site, add, patch
from probe.replay import clean_metric
from tests import planted, tiny
from tests.analyses.test_activation_patching import two_prompts

CHAIN = {"embed -> mlp.0", "mlp.0 -> mlp.2", "mlp.2 -> final"}


def example(folder: Path) -> dict[str, Any]:
    pair = {name: str(tiny.save(folder / name, words=True, seed=n)) for n, name in enumerate(("base", "tuned"))}
    return {**pair, "prompts": planted.cued(6), "verify": 2, "size": 12}


def chained(strength: float, **how: Any) -> Model:
    return Model.wrap(planted.chain(strength, **how), tiny.word_tokenizer(), check=False)


@pytest.fixture(scope="module", params=["llama", "gpt_neox"])
def runs(request: pytest.FixtureRequest) -> Runs:
    """Grouped heads and blocks in a row; one head each and MLPs beside attention."""
    words = tiny.word_tokenizer()
    model = Model.wrap(tiny.model(request.param, vocab_size=len(words)), words, check=False)
    pairs, _ = paired_batches(model, two_prompts(), "column", batch_size=6)
    return Runs(model, Graph.of(model), *pairs[0])


def test_scores_are_the_definition_written_out(runs: Runs) -> None:
    """By hand: what one receiver gives in a run with more of the write before it is put into a run without."""
    scores, graph = runs.scores(1), runs.graph
    senders, receivers = graph.names
    for edge in ("embed -> q.1.2", "mlp.0 -> k.2.1", "head.0.3 -> v.1.0", "mlp.0 -> mlp.2", "head.1.1 -> final"):
        sender, receiver = edge.split(" -> ")
        s, r = senders.index(sender), receivers.index(receiver)
        write = -runs.paths.write(graph.senders[s])
        up, down = (by_hand(runs, receiver, step * write) for step in (0.01, -0.01))
        np.testing.assert_allclose(scores[:, s, r], (up - down) / 0.02, rtol=2e-2, atol=2e-5, err_msg=edge)
    assert graph.exists[senders.index("mlp.1"), receivers.index("q.1.0")] == np.False_


def by_hand(runs: Runs, receiver: str, more: torch.Tensor) -> np.ndarray:
    """The metric if one receiver alone reads a stream with `more` added: two whole runs with edits."""
    model, batch = runs.clean.model, runs.clean.batch
    kind, *place = receiver.split(".")
    if kind == "final":
        return metric_of(runs, [add(f"resid_post.{runs.clean.n_layers - 1}", more)])
    layer = int(place[0])
    site = f"{kind}.{layer}" if kind in "qkv" else f"mlp_out.{layer}"
    start = "attn_out" if kind == "mlp" and model.sites("resid_mid") else "resid_pre"
    read = model.run(batch, read=[site], edits=[add(f"{start}.{layer}", more)], logits="none")[site]
    if kind in "qkv":
        head = int(place[1])
        return metric_of(runs, [patch(f"{site}.{head}", read[:, :, head])])
    return metric_of(runs, [patch(site, read)])


def metric_of(runs: Runs, edits: list[Edit]) -> np.ndarray:
    logits = runs.clean.model.run(runs.clean.batch, edits=edits, logits="all").logits
    assert logits is not None
    item, pos = runs.metric.rows.nonzero(as_tuple=True)
    scores = runs.metric.score(logits[item, pos], item, pos).numpy()
    return np.bincount(item.numpy(), scores) / np.bincount(item.numpy())


def test_a_nodes_edges_sum_to_its_gradient(runs: Runs) -> None:
    """The chain rule: summed over its edges, a node's score is the plain gradient at its output."""
    nodes = np.nansum(runs.scores(1), -1)
    sites = [s.whole for s in runs.graph.senders if s.kind == "mlp_out"]
    batch = runs.clean.batch
    start = Edit(Site("resid_pre", 0), lambda x: x.detach().requires_grad_())
    trace = runs.clean.model.run(batch, read=sites, edits=[start], logits="all", grad=True)
    assert trace.logits is not None
    item, pos = runs.metric.rows.nonzero(as_tuple=True)
    with torch.enable_grad():
        scores = runs.metric.score(trace.logits[item, pos], item, pos)
        total = (scores / torch.bincount(item)[item]).sum()
    slopes = torch.autograd.grad(total, [trace[s] for s in sites])
    for site, slope in zip(sites, slopes, strict=True):
        want = ((runs.clean.value(site) - runs.corrupt.value(site)) * slope).sum((1, 2))
        number = runs.graph.senders.index(site)
        np.testing.assert_allclose(nodes[:, number], want.detach().numpy(), rtol=1e-3, atol=1e-5)


def test_integrated_gradients_of_the_embedding_are_the_whole_effect(runs: Runs) -> None:
    """Completeness: all edges of the embedding together are M(clean) - M(corrupt)."""
    clean, corrupt = runs.values
    off = [np.abs(np.nansum(runs.scores(steps), -1)[:, 0] - (clean - corrupt)).max() for steps in (1, 16)]
    assert off[1] < 2e-3
    assert off[1] < off[0]
    assert clean_metric(runs.clean, runs.metric).isfinite().all()


def test_the_planted_chain_is_found_whole_with_its_size() -> None:
    """Nothing else carries the cue: each of the three edges is worth all that the clean prompt is worth."""
    base, tuned = chained(0.0), chained(2.0, drift=0.02)
    result = run("circuit", base=base, tuned=tuned, prompts=planted.cued(), size=3, verify=6)
    found = [c for c in result.claims if c.is_found]
    assert {c.place for c in found} == CHAIN
    assert all(c.what.startswith("training made the edge") for c in found)
    gap = result.table.query("checkpoint == 'tuned'").groupby("item")["worth"].first().mean()
    assert gap > 0.5
    assert [c.effect for c in found] == pytest.approx([gap] * 3, rel=0.1)
    assert 0.8 < float(result.data["added"].sel(checkpoint="tuned")) < 1.2


@pytest.mark.parametrize("how", [{}, {"steps": 3}])
def test_the_same_checkpoint_twice(how: dict[str, Any]) -> None:
    model = chained(2.0)
    result = run("circuit", base=model, tuned=model, prompts=planted.cued(), size=3, verify=3, **how)
    assert "identical" in result.warnings[0]
    assert float(result.data["jaccard"].sel(variant="base_tuned")) == 1
    assert float(result.data["rank_correlation"]) == pytest.approx(1)
    assert [c.answer for c in result.claims] == ["none found"]
    sides = (result.table[result.table["checkpoint"] == name] for name in ("base", "tuned"))
    one, other = (side.drop(columns="checkpoint").reset_index(drop=True) for side in sides)
    pd.testing.assert_frame_equal(one, other)


def test_estimates_that_do_not_add_up_are_told() -> None:
    """The gradient at the clean run alone vanishes where the model is sure; what it ranks first means nothing then."""
    scores = np.full((2, 3, 4), np.nan)
    scores[:, 0] = [[0.1, 0.2, 0.1, 0.0], [0.3, 0.2, 0.1, 0.0]]
    assert _overlaps.added(scores, 0.5) == pytest.approx(1.0)
    assert np.isnan(_overlaps.added(scores, 0.0))
    (said,) = _overlaps.short({"base": 1.0, "tuned": _overlaps.added(scores, 5.0), "other": np.nan})
    assert said.startswith("tuned: the edges' estimates add up to 0.10")


def test_drift_makes_no_edge() -> None:
    result = run(
        "circuit", base=chained(2.0), tuned=chained(2.0, drift=0.02, drift_seed=3), prompts=planted.cued(), verify=6
    )
    assert [c.answer for c in result.claims] == ["none found"]


@pytest.mark.verify
@pytest.mark.timeout(3600)
def test_edges_over_30_seeds() -> None:
    """30 models: the planted chain whole and of its size; after drift, and of the same checkpoint, no edge."""
    right, wrong, same = 0, 0, 0
    for seed in range(30):
        prompts, before = planted.cued(seed=seed), chained(2.0, seed=seed)
        moved = chained(2.0, seed=seed, drift=0.02, drift_seed=seed + 1)
        found = [c for c in asked(chained(0.0, seed=seed), moved, prompts) if c.is_found]
        gap = float(np.mean([c.effect for c in found])) if found else 0.0
        right += {c.place for c in found} == CHAIN and all(abs(c.effect - gap) < 0.2 * gap for c in found)
        wrong += any(c.is_found for c in asked(before, moved, prompts))
        same += any(c.is_found for c in asked(moved, moved, prompts))
    print(f"planted {right}, drift {wrong}, same {same} of 30")
    assert right >= 22 and wrong <= 4 and same == 0


def asked(base: Model, tuned: Model, prompts: Prompts) -> list[Any]:
    return run("circuit", base=base, tuned=tuned, prompts=prompts, size=3, verify=6, steps=1).claims


def test_intensity_and_diversity_are_of_the_scores(runs: Runs) -> None:
    model = runs.clean.model
    result = run("circuit", base=model, tuned=model, prompts=two_prompts(), verify=0, steps=1)
    sizes = np.abs(runs.scores(1)[:, runs.graph.exists])
    shares = sizes / sizes.sum(1, keepdims=True)
    own = result.data.sel(checkpoint="base", group="a")
    first = [n for n, i in enumerate(runs.clean.batch.items) if i.group == "a"]
    assert float(own["intensity"].squeeze()) == pytest.approx(sizes[first].mean(), rel=1e-3)
    assert float(own["diversity"].squeeze()) == pytest.approx(scipy.special.entr(shares).sum(1)[first].mean(), rel=1e-3)


def test_what_cannot_be_judged_and_bad_input() -> None:
    model = chained(0.0)
    alike = Prompts(tuple(replace(i, meta={"corrupt": i.prompt}) for i in planted.cued().items))
    (said,) = run("circuit", base=model, tuned=model, prompts=alike, verify=1).claims
    assert said.answer == "cannot be judged" and "no checkpoint prefers" in said.why
    (said,) = run("circuit", base=model, tuned=model, prompts=planted.cued(4), verify=1).claims
    assert "4 items are too few" in said.why
    with pytest.raises(InputError, match="steps=0"):
        run("circuit", base=model, tuned=model, prompts=planted.cued(), steps=0)
    words = tiny.word_tokenizer()
    normed = Model.wrap(tiny.model("olmo2", vocab_size=len(words)), words, check=False)
    with pytest.raises(InputError, match="norms what attention adds"):
        run("circuit", base=normed, tuned=normed, prompts=planted.cued())
