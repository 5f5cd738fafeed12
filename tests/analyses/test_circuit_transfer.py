"""Circuits run alone: the whole graph is the clean run, none the corrupt one, one edge less its exact contribution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses.core.running.run import run
from analyses.patching._clean_and_corrupt import paired_batches
from analyses.patching._edges import Graph, Runs
from analyses.patching._wired import Wired
from probe import InputError, Model, ProbeError
from tests import planted, tiny
from tests.analyses.test_activation_patching import two_prompts
from tests.analyses.test_circuit import chained


def example(folder: Path) -> dict[str, Any]:
    series = planted.chain_series(folder, made_at=0)
    pair = {"base": str(series / "checkpoint-0"), "tuned": str(series / "checkpoint-30")}
    return {**pair, "prompts": planted.cued(6), "size": 12, "draws": 1}


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "qwen3"])
def test_all_edges_are_the_model_and_none_the_corrupt_one(family: str) -> None:
    words = tiny.word_tokenizer()
    model = Model.wrap(tiny.model(family, vocab_size=len(words)), words, check=False)
    pairs, _ = paired_batches(model, two_prompts(), "column", batch_size=6)
    runs = Runs(model, Graph.of(model), *pairs[0])
    wired, exists = Wired(runs), runs.graph.exists
    clean, corrupt = runs.values
    np.testing.assert_allclose(wired.metric(exists), clean, atol=1e-5)
    np.testing.assert_allclose(wired.metric(exists & False), corrupt, atol=1e-5)
    edges = [(int(s), int(r)) for s, r in np.argwhere(exists)][::50]
    for edge, exact in zip(edges, runs.exact(edges), strict=True):
        less = exists.copy()
        less[edge] = False
        np.testing.assert_allclose(clean - wired.metric(less), exact, atol=1e-5)


def test_a_graph_that_misses_something_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = chained(2.0)
    pairs, _ = paired_batches(model, planted.cued(8), "column", batch_size=8)
    wired = Wired(Runs(model, Graph.of(model), *pairs[0]))
    wired.prove()
    wired.runs.values[0][:] += 0.01
    with pytest.raises(ProbeError, match="all of its edges misses"):
        wired.prove()


def test_the_planted_chain_carries_all_and_bases_circuit_does_not() -> None:
    base, tuned = chained(0.0), chained(2.0)
    result = run("circuit_transfer", base=base, tuned=tuned, prompts=planted.cued(), size=3, draws=3)
    share = result.table.query("checkpoint == 'tuned'").groupby("variant")[["restored", "worth"]].sum()
    share = share["restored"] / share["worth"]
    assert share["tuned"] == pytest.approx(1, abs=0.1)
    assert share["base"] < 0.5 and share["random"] < 0.1
    (said,) = result.claims
    assert said.is_found and said.kind == "transfer" and said.low > 0.3


def test_the_same_checkpoint_twice_works_through_the_same_circuit() -> None:
    model = chained(2.0)
    result = run("circuit_transfer", base=model, tuned=model, prompts=planted.cued(), size=3, draws=2)
    assert "identical" in result.warnings[0]
    (said,) = result.claims
    assert said.is_found and said.kind == "same circuit" and said.low > 0.5
    with pytest.raises(InputError, match="size=0"):
        run("circuit_transfer", base=model, tuned=model, prompts=planted.cued(), size=0)
