"""One pass for many questions: fewer passes, the same bits, within a budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import analyses
from analyses.core.analysis import get
from analyses.core.running.together import sweep_together
from analyses.core.work import Size
from probe import Model, Prompts, add, look, shared
from probe.backends.in_process import HuggingFaceBackend
from tests import tiny

STEPS = (0, 10, 20)
TEACHER_FORCED = ("perplexity", "memorization", "similarity", "divergence")
LITTLE = {
    "draws": 50,
    "permutations": 5,
    "steps": 3,
    "updates": 3,
    "seeds": 2,
    "fit": "regression",
    "groups": ("a", "b"),
}
EVERY = (*TEACHER_FORCED, "logit_lens", "attention_entropy", "trajectories", "key_size")


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    items = [
        {"id": f"q{n}", "prompt": f"what is {n} plus 7 and how many are left" + " ?" * (n % 3), "answer": f" ans {n}"}
        for n in range(12)
    ]
    return Prompts.of([{**item, "group": "ab"[n % 2]} for n, item in enumerate(items)])


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("series")
    tiny.series(folder / "run", STEPS)
    return folder / "run"


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shape of every batch that goes through a backend, proofs of loading left out (they have other shapes)."""
    seen, run = list[tuple[int, ...]](), HuggingFaceBackend.run

    def counted(self: Any, tokens: Any, visits: Any, rows: Any) -> Any:
        seen.append(tuple(tokens.ids.shape))
        return run(self, tokens, visits, rows)

    monkeypatch.setattr(HuggingFaceBackend, "run", counted)
    return seen


def batches(series: Path, prompts: Prompts) -> list[tuple[int, ...]]:
    model = Model.load(series / "checkpoint-0")
    return [tuple(b.ids.shape) for b in model.batches(prompts)]


def equal(one: analyses.Result, two: analyses.Result) -> None:
    pd.testing.assert_frame_equal(one.table, two.table, check_exact=True)
    for name in one.data.data_vars:
        np.testing.assert_array_equal(one.data[name].values, two.data[name].values, err_msg=str(name))


@pytest.mark.parametrize("names", [TEACHER_FORCED, EVERY], ids=["four", "every"])
def test_batches_are_passed_once_and_the_bits_are_those_of_separate_sweeps(
    series: Path, prompts: Prompts, passes: list[tuple[int, ...]], names: tuple[str, ...]
) -> None:
    shapes = batches(series, prompts)
    passes.clear()
    together = sweep_together(names, checkpoints=series, prompts=prompts)
    ours = [shape for shape in passes if shape in shapes]
    alone = 2 if "key_size" in names else 1  # patterns and keys are read in passes of their own
    assert len(ours) == alone * len(STEPS) * len(shapes)
    for name in names:
        equal(together[name], analyses.sweep(name, checkpoints=series, prompts=prompts))


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_bits_are_the_same_where_attention_is_opened_elsewhere(tmp_path: Path, prompts: Prompts, family: str) -> None:
    folders = [tiny.save(tmp_path / f"checkpoint-{n}", family, seed=n) for n in (1, 2)]
    names = ("perplexity", "attention_entropy", "similarity")
    together = sweep_together(names, checkpoints=tmp_path, prompts=prompts)
    assert len(folders) == 2
    for name in names:
        equal(together[name], analyses.sweep(name, checkpoints=tmp_path, prompts=prompts))


def test_nothing_is_kept_beyond_the_budget(series: Path, prompts: Prompts, passes: list[tuple[int, ...]]) -> None:
    shapes = batches(series, prompts)
    passes.clear()
    names = ("perplexity", "similarity")
    together = sweep_together(names, checkpoints=series, prompts=prompts, memory=0)
    assert len([s for s in passes if s in shapes]) == 3 * len(STEPS) * len(shapes)
    equal(together["similarity"], analyses.sweep("similarity", checkpoints=series, prompts=prompts))


def test_operations_are_one_pass_a_checkpoint_and_the_products_of_each_analysis(series: Path, prompts: Prompts) -> None:
    model = Model.load(series / "checkpoint-0", check=False)
    size, planned = Size.of(model.shape), model.batches(prompts)
    names = ("perplexity", "memorization", "similarity", "logit_lens", "divergence")
    with FlopCounterMode(display=False) as loading:  # reading and proving each checkpoint are a load's own
        for step in STEPS:
            Model.load(series / f"checkpoint-{step}")
    with FlopCounterMode(display=False) as one:
        for batch in planned:
            model.run(batch, logits="none")
    with FlopCounterMode(display=False) as counted:
        sweep_together(names, checkpoints=series, prompts=prompts)
    lengths = [int(b.mask[row].sum()) for b in planned for row in range(len(b))]
    answers = sum(int((b.span == 4).sum()) for b in planned)
    scored, cells = sum(n - 1 for n in lengths), sum(lengths) * size.shape.n_layers
    unembedded = 2 * scored + answers * size.shape.n_layers + 2 * cells
    bare = len(STEPS) * (one.get_total_flops() + 2 * unembedded * size.unembed)
    assert counted.get_total_flops() - loading.get_total_flops() <= 1.15 * bare


@pytest.mark.parametrize("name", [n for n in analyses.names() if get(n).reads is not None])
def test_what_is_declared_is_what_is_read(name: str, series: Path, prompts: Prompts) -> None:
    asked = set[str]()

    class Watched(shared.Passes):
        def read(self, handle: Any, batch: Any, wanted: Any, make: Any, *, must: bool = False) -> Any:
            asked.update(str(site) for site in wanted)
            return super().read(handle, batch, wanted, make, must=must)

    of = get(name)
    items = evident(prompts) if name == "evidence_attention" else prompts
    given: dict[str, Any] = {o.name: LITTLE[o.name] for o in of.options if o.name in LITTLE}
    models = [i.name for i in of.inputs if i.kind == "Model"]
    loaded = {n: Model.load(series / f"checkpoint-{10 * k}", check=False) for k, n in enumerate(models)}
    with shared.sharing(Watched(0)):
        analyses.run(name, prompts=items, **loaded, **given)
    model = next(iter(loaded.values()))
    options = {o.name: o.default for o in of.options}
    assert of.reads is not None
    declared = {str(s) for n in of.reads(options) for s in named(model, n)}
    assert asked and asked <= declared


def evident(prompts: Prompts) -> Prompts:
    """The same items, each with its number marked as evidence."""
    return replace(prompts, items=tuple(replace(i, meta={**i.meta, "evidence": [[8, 9]]}) for i in prompts.items))


def named(model: Model, name: str) -> list[object]:
    return [model.last_state] if name == shared.LAST_STATE else [name, *(model.sites(name) if "." not in name else [])]


def test_a_pass_under_an_edit_and_a_value_written_to_are_made_again(series: Path, prompts: Prompts) -> None:
    model = Model.load(series / "checkpoint-0", check=False)
    (batch, *_) = model.batches(prompts)
    found = shared.Passes(1e9, {model.checkpoint: ("resid_post",)})
    with shared.sharing(found):
        first = model.run(batch, read=["resid_post.1"], logits="none")["resid_post.1"]
        again = model.run(batch, read=["resid_post"], logits="none")["resid_post.2"]
        assert (found.made, found.answered) == (1, 1)
        edited = model.run(batch, read=["resid_post.1"], edits=[add("resid_post.0", torch.ones(32))], logits="none")
        assert not torch.equal(edited["resid_post.1"], first)
        seen = list[torch.Tensor]()
        model.run(batch, read=["resid_post.1"], edits=[look("pattern.0", seen.append)], logits="none")
        assert len(seen) == 1 and found.made == 2
        first += 1  # whoever writes into what was read spoils it for nobody
        fresh = model.run(batch, read=["resid_post.1"], logits="none")["resid_post.1"]
    assert torch.equal(fresh + 1, first) and len(again)


def test_what_is_kept_goes_with_the_handle(series: Path, prompts: Prompts) -> None:
    model = Model.load(series / "checkpoint-0", check=False)
    (batch, *_) = model.batches(prompts)
    found = shared.Passes(1e9, {model.checkpoint: ("last_state",)})
    with shared.sharing(found):
        model.run(batch, read=["resid_post.0"], logits="none")
    assert found.size == batch.ids.numel() * 32 * 4
    found.forget(but=[model.checkpoint])
    assert found.size
    found.forget()
    assert found.size == 0
