"""Checkpoints that take turns: the same numbers, with one model's weights in memory."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

import analyses
from analyses.core.running.inputs import Loading
from probe import InputError, Item, Prompts
from probe.checkpoints import loading
from probe.checkpoints.series import Checkpoint
from probe.tokens import Framing
from probe.turns import Seat, Turn, spilled
from tests import tiny

PROMPTS = Prompts(tuple(Item(f"q{i}", f"what is {i} plus {3 * i} ?", f"ans {4 * i}") for i in range(6)))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tiny.series(tmp_path_factory.mktemp("turns"), steps=(0, 10))
    return folder / "checkpoint-0", folder / "checkpoint-10"


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Models in memory each time another has been read."""
    read, seen, counts = loading.read_model, [], []

    def counted(*args: Any) -> Any:
        made = read(*args)
        seen.append(weakref.ref(made))
        gc.collect()
        counts.append(sum(r() is not None for r in seen))
        return made

    monkeypatch.setattr(loading, "read_model", counted)
    return counts


CASES = [
    ("similarity", {"draws": 5}),
    ("divergence", {}),
    ("divergence", {"dtype": "bfloat16", "head": "base"}),
    ("divergence", {"variant": "lens_to_final", "site": "resid_mid"}),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_same_numbers_with_one_model_in_memory(
    pair: tuple[Path, Path], alive: list[int], name: str, options: dict[str, Any]
) -> None:
    """Base and tuned are read once each, never together, and every number is that of holding both."""
    dtype = options.get("dtype", "float32")
    inputs: dict[str, Any] = {"base": pair[0], "tuned": pair[1], "prompts": PROMPTS, **options}
    inputs.pop("dtype", None)
    one = analyses.run(name, loading=Loading(dtype=dtype, hold="one"), **inputs)
    assert alive == [1, 1]
    both = analyses.run(name, loading=Loading(dtype=dtype), **inputs)
    assert alive[2:] == [1, 2] or alive[-1] >= 2  # positive control: the count sees two
    assert one.table.equals(both.table)
    assert one.data.equals(both.data)


def test_a_checkpoint_against_itself(pair: tuple[Path, Path]) -> None:
    result = analyses.run("divergence", loading=Loading(hold="one"), base=pair[0], tuned=pair[0], prompts=PROMPTS)
    assert (result.table["jsd_nats"] == 0).all()
    assert any("identical" in w for w in result.warnings)


def test_what_needs_both_is_refused(pair: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="--hold both"):
        analyses.run("cross_patching", loading=Loading(hold="one"), base=pair[0], tuned=pair[1], prompts=PROMPTS)
    with pytest.raises(InputError, match="--hold both"):
        analyses.run("weight_drift", loading=Loading(hold="one"), base=pair[0], tuned=pair[1])


def test_a_turn_shows_sizes_without_loading(pair: tuple[Path, Path]) -> None:
    from probe import Checkpoint

    seat = Seat({})
    base, tuned = (Turn(seat, Checkpoint.of(p)) for p in pair)
    assert base.shape == tuned.shape and len(base.tokenizer) == len(tuned.tokenizer)
    assert seat.loads == 0
    batch = base.batches(PROMPTS)[0]
    first = base.run(batch, logits="last").logits
    assert not torch.equal(first, tuned.run(batch, logits="last").logits)
    assert torch.equal(first, base.run(batch, logits="last").logits)
    assert seat.loads == 3


def test_spilled_is_the_same_to_the_bit_and_made_before_it_is_read() -> None:
    made: list[int] = []

    def batches() -> Any:
        for number, dtype in enumerate((torch.float32, torch.bfloat16, torch.float16)):
            made.append(number)
            yield [torch.randn(3, 5, generator=torch.Generator().manual_seed(number)).to(dtype), torch.ones(0, 5)]

    want = list(batches())
    made.clear()
    for number, got in enumerate(spilled(batches())):
        assert made == [0, 1, 2]
        assert [x.dtype for x in got] == [x.dtype for x in want[number]]
        assert all(torch.equal(a, b) for a, b in zip(got, want[number], strict=True))


def test_a_turn_knows_what_is_put_around_its_texts(tmp_path: Path) -> None:
    seat = Seat({"bos": True, "template_options": {"loud": 1}})
    assert Turn(seat, Checkpoint(str(tmp_path))).framing == Framing(True, {"loud": 1})
    assert Turn(Seat({}), Checkpoint(str(tmp_path))).framing == Framing()
