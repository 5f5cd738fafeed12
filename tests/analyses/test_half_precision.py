"""float16 and bfloat16: every family loads on both backends, every analysis runs, metrics are float32 or better."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyses import get, names, run
from analyses.core.running.inputs import Loading
from apps.command.options import DTYPES
from probe import InputError, Item, Model, Prompts
from probe.backends import NAMES
from tests import tiny

SLIDING = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 16}
FAMILIES = {**{f: {} for f in tiny.FAMILIES}, "olmo3": SLIDING}
ITEMS = tuple(Item(f"q{i}", f"what is {i} plus {3 * i} ?", f" ans {4 * i}", group="ab"[i % 2]) for i in range(4))
READ = [n for n in names() if any(i.kind in ("Model", "Checkpoints") and not i.optional for i in get(n).inputs)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_read_as_plain_transformers_computes_it(family: str, dtype: torch.dtype) -> None:
    """Both roads (attention looked into or not), to 2e-2 nats of plain transformers in the same dtype."""
    toks = tiny.tokenizer(family)
    made = tiny.model(family, vocab_size=len(toks), **FAMILIES[family]).to(dtype)
    for backend in NAMES:
        model = Model.wrap(made, toks, backend=backend)  # every proof of loading holds
        (batch,) = model.batches(Prompts(ITEMS))
        opened = model.run(batch, read=["pattern.1", "q.0"]).logits
        table = run("perplexity", model=model, prompts=Prompts(ITEMS)).table
        nll = table[table["mask"] == "full"].set_index("item")["nll_nats"]
        for row, item in enumerate(batch.items):
            ids = batch.ids[row][batch.mask[row]]
            plain = made(input_ids=ids[None]).logits[0].detach().double().log_softmax(-1)
            want = -plain[:-1].gather(-1, ids[1:, None]).sum()
            assert opened is not None
            through = opened[row][batch.mask[row]].double().log_softmax(-1)
            assert abs(nll[item.id] - float(want)) < 2e-2 * len(ids)
            assert abs(float(-through[:-1].gather(-1, ids[1:, None]).sum()) - float(want)) < 2e-2 * len(ids)


@pytest.fixture(scope="module")
def bfloat16(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folder = tiny.series(tmp_path_factory.mktemp("half"), steps=(0, 20))
    pair = {
        n: Model.load(folder / f"checkpoint-{s}", dtype="bf16", check=False) for n, s in (("base", 0), ("tuned", 20))
    }
    return {**pair, "model": pair["tuned"]}


@pytest.mark.parametrize("name", READ)
def test_an_analysis_runs_in_bfloat16_with_metrics_in_float32(
    name: str, bfloat16: dict[str, Model], prompts: Prompts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = Path(__file__).parent.rglob(f"test_{name}.py")
    dotted = ".".join(("tests", "analyses", *file.relative_to(Path(__file__).parent).with_suffix("").parts))
    example = getattr(importlib.import_module(dotted), "example", None)
    given: dict[str, Any] = {}
    if example is not None:
        monkeypatch.setitem(Model.load.__func__.__kwdefaults__, "dtype", "bfloat16")  # type: ignore[attr-defined]
        monkeypatch.setitem(Model.load.__func__.__kwdefaults__, "check", False)  # type: ignore[attr-defined]
        given = example(tmp_path)
    for wanted in get(name).inputs if example is None else ():
        if not wanted.optional:
            given[wanted.name] = {**bfloat16, "prompts": prompts}[wanted.name]
    result = run(name, loading=Loading(dtype="bf16"), **given)
    summary = result.summary()  # of one without intervals, the rows
    of = summary["value"] if len(summary) else result.table.select_dtypes(float)
    numbers = of.to_numpy(float).ravel()
    assert np.isfinite(numbers).any()
    # A number that had passed through bfloat16 would have at most 8 binary digits.
    fractions = numbers[np.isfinite(numbers) & (numbers != np.round(numbers, 3))]
    rounded = torch.tensor(fractions, dtype=torch.float64).bfloat16().double().numpy()
    assert not len(fractions) or (rounded != fractions).mean() > 0.5


def test_short_names_are_the_same_dtype_and_key(tmp_path: Path) -> None:
    for short, long in (("bf16", "bfloat16"), ("fp16", "float16"), ("fp32", "float32")):
        assert Loading(dtype=short) == Loading(dtype=long)
        assert {short, long} <= set(DTYPES.choices)
    folder = tiny.save(tmp_path / "m")
    assert Model.load(folder, dtype="bf16", check=False).dtype == torch.bfloat16


def test_float64_is_refused_with_the_reason(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "m")
    for refused in (
        lambda: Model.load(folder, dtype="float64"),
        lambda: Model.wrap(tiny.model().double(), tiny.tokenizer(), check=False),
        lambda: Loading(dtype="double"),
    ):
        with pytest.raises(InputError, match="float32 whatever the weights"):
            refused()
    assert "float64" not in DTYPES.choices
    with pytest.raises(InputError, match="expected one of float32"):
        Model.load(folder, dtype="int8")
