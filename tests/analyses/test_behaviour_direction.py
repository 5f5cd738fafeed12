"""Directions of a behaviour: one that only tuned reads, one that both read, none without the behaviour."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from analyses.core.running.run import run
from probe import InputError, Model, Prompts, add
from probe.replay import Clean, answer_logprob, clean_metric
from tests import planted, tiny
from tests.analyses.test_circuit import chained


def example(folder: Path) -> dict[str, Any]:
    pair = {name: str(tiny.save(folder / name, words=True, seed=n)) for n, name in enumerate(("base", "tuned"))}
    return {**pair, "prompts": planted.cued(6), "layers": (1,), "draws": 1}


def judged(base: Model, tuned: Model, prompts: Prompts) -> Any:
    return run("behaviour_direction", base=base, tuned=tuned, prompts=prompts, layers=(0, 1), draws=2, batch_size=16)


def test_a_direction_that_only_tuned_reads() -> None:
    """Base writes the cue's direction and nobody reads it; training made its reader."""
    result = judged(chained(0.0), chained(2.0), planted.cued())
    (said,) = result.claims
    assert said.is_found and said.kind == "made" and said.place in ("layer 0", "layer 1")
    at = result.table.query("arm == 'direction'").groupby(["checkpoint", "layer"])["effect"].mean()
    assert at["tuned", 1] > 0.5
    assert abs(at["base", 1]) < 0.1


def test_a_direction_that_both_read_is_reused() -> None:
    (said,) = judged(chained(2.0), chained(2.0, drift=0.02), planted.cued()).claims
    assert said.is_found and said.kind == "reused"


def test_the_effect_is_that_of_a_run_with_the_vector() -> None:
    """By hand, in base: the mean difference of one half's last states, put into the other half's twins."""
    base, items = chained(2.0), planted.cued(6)
    table = run("behaviour_direction", base=base, tuned=base, prompts=items, layers=(1,), draws=1).table
    twins = Prompts(tuple(replace(i, prompt=str(i.meta["corrupt"])) for i in items.items))
    both = [base.batches(p, batch_size=6)[0] for p in (items, twins)]
    states = []
    for batch in both:
        read = base.run(batch, read=["resid_post.1"], logits="none")["resid_post.1"]
        order = sorted(range(6), key=lambda k, b=batch: b.items[k].id)
        states.append(torch.stack([read[k, int(batch.last_prompt[k])] for k in order]))
    apart, batch = states[0] - states[1], both[1]
    order = [i.id for i in batch.items]
    metric, clean = answer_logprob(batch), Clean(base, batch)
    own = table[(table["arm"] == "direction") & (table["checkpoint"] == "base")].set_index("item")
    before = clean_metric(clean, metric)
    for name, effect in own["effect"].items():
        found = []
        for left in _halves_without(str(name), sorted(order)):
            vector = apart[left].mean(0)
            logits = base.run(batch, edits=[add("resid_post.1", vector, "from_last_prompt")], logits="all").logits
            assert logits is not None
            item, pos = metric.rows.nonzero(as_tuple=True)
            scores = metric.score(logits[item, pos], item, pos)
            row = order.index(str(name))
            found.append(float(scores[item == row].mean() - before[row]))
        assert min(abs(value - effect) for value in found) < 1e-4


def _halves_without(name: str, order: list[str]) -> list[list[int]]:
    return [list(half) for half in combinations(range(6), 3) if order.index(name) not in half]


def test_twins_alike_but_for_style_give_none() -> None:
    """The cue stands in neither: whatever direction comes out, it raises nothing."""
    (said,) = judged(chained(0.0), chained(2.0), without_cue(planted.cued())).claims
    assert said.answer == "none found"


def without_cue(prompts: Prompts) -> Prompts:
    """Two neutral words in place of the cues, by turns in the prompt and in its twin: the twins differ by nothing."""
    items = []
    for n, item in enumerate(prompts.items):
        words = ("dog", "fox") if n % 4 < 2 else ("fox", "dog")
        one, other = (item.prompt.replace(planted.CUES[0], word) for word in words)
        items.append(replace(item, prompt=one, meta={"corrupt": other}))
    return Prompts(tuple(items))


@pytest.mark.verify
@pytest.mark.timeout(3600)
def test_directions_over_30_seeds() -> None:
    """30 models: made where only tuned reads it, reused where both do; of words that say nothing, none."""
    made, reused, wrong = 0, 0, 0
    for seed in range(30):
        prompts, tuned = planted.cued(seed=seed), chained(2.0, seed=seed, drift=0.02, drift_seed=seed + 1)
        base = chained(0.0, seed=seed)
        made += [c.kind for c in judged(base, tuned, prompts).claims if c.is_found] == ["made"]
        before = judged(chained(2.0, seed=seed), tuned, prompts).claims
        reused += [c.kind for c in before if c.is_found] == ["reused"]
        wrong += any(c.is_found for c in judged(base, tuned, without_cue(prompts)).claims)
    print(f"made {made}, reused {reused}, neutral words {wrong} of 30")
    assert made >= 18 and reused >= 20 and wrong <= 2


def test_bad_input() -> None:
    model = chained(0.0)
    bare = Prompts(tuple(replace(i, meta={}) for i in planted.cued(4).items))
    with pytest.raises(InputError, match="no column 'corrupt'"):
        run("behaviour_direction", base=model, tuned=model, prompts=bare)
    with pytest.raises(InputError, match=r"layers=\[9\]"):
        run("behaviour_direction", base=model, tuned=model, prompts=planted.cued(4), layers=(9,))
