"""Merging along a stream: ends and linear form against known ones, a turned base given back, refusals, chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyses import get, run
from analyses.answers import _turned_weights as turns
from probe import Checkpoint, InputError, Item, Model, Prompts
from tests import tiny

ITEMS = Prompts(tuple(
    Item(f"q{i:02d}", f"what is {i} plus {5 * i % 11} ?" if i % 2 else f"Ann has {i} figs . buys {i % 7} . how many ?",
         f" ans {3 * i % 8}") for i in range(30)
))  # fmt: skip


def example(folder: Path) -> dict[str, Any]:
    series = tiny.series(folder, steps=(0, 10, 20))
    return {
        "model": Model.load(series / "checkpoint-0"),
        "checkpoints": [Checkpoint.of(series / f"checkpoint-{s}") for s in (10, 20)],
        "prompts": tiny.twelve_items(),
        "components": 4,
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.series(tmp_path_factory.mktemp("stream"), steps=(0, 10, 20), tie_word_embeddings=True)


def merged(base: Path, *stream: Path, **options: Any) -> Any:
    given = {"model": Model.load(base), "checkpoints": [Checkpoint.of(c) for c in stream], "prompts": ITEMS}
    return run("rotated_merge", **given, batch_size=30, **options)


def nll(result: Any, variant: str, step: int) -> float:
    rows = result.table.query("variant == @variant and source_step == @step")
    return float(rows["nll_nats"].sum() / rows["n_tokens"].sum())


def turned_copy(base: Path, out: Path, angle: float = 0.15, seed: int = 3) -> Path:
    """The checkpoint with its residual stream turned and all that reads and writes it, the head of its own."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plain = turns.untied(AutoModelForCausalLM.from_pretrained(base))
    model, d = Model.wrap(plain, AutoTokenizer.from_pretrained(base), check=False), tiny.D_MODEL
    axis = torch.randn(d, d, generator=torch.Generator().manual_seed(seed))
    turn, now = torch.matrix_exp(angle * (axis - axis.T).double()), lambda n: model.weights()[n].detach()
    for name, side in turns.sides(model).items():
        model.weights()[name].data.copy_(turns.turned(name, now, now, side, turn))
    plain.save_pretrained(out)
    AutoTokenizer.from_pretrained(base).save_pretrained(out)
    return out


def test_no_weight_is_the_base_and_full_weight_the_checkpoint(made: Path) -> None:
    base, ten = made / "checkpoint-0", made / "checkpoint-10"
    none, all_ = merged(base, ten, mix=0.0), merged(base, ten, mix=1.0)
    start = run("merge", base=base, tuned=ten, prompts=ITEMS, weights=(0.0, 1.0), generate=False)
    own, other = (float(start.data["nll_nats"].sel(alpha=w).item()) for w in (0.0, 1.0))
    for variant in ("linear", "aligned", "rotated", "random"):
        assert nll(none, variant, 10) == pytest.approx(own, abs=1e-5)
    assert nll(all_, "linear", 10) == pytest.approx(other, abs=1e-5)
    assert nll(all_, "checkpoint", 10) == pytest.approx(other, abs=1e-5)


def test_the_linear_stream_is_merge_twice(made: Path, tmp_path: Path) -> None:
    steps = [made / f"checkpoint-{s}" for s in (0, 10, 20)]
    get("merge")(Model.load(steps[0]), Model.load(steps[1]), ITEMS, weights=(0.0,), generate=False, kept_weight=0.3,
                 out=str(tmp_path / "one"))  # fmt: skip
    second = run("merge", base=tmp_path / "one", tuned=steps[2], prompts=ITEMS, weights=(0.3,), generate=False)
    found = merged(*steps, mix=0.3)
    assert nll(found, "linear", 20) == pytest.approx(float(second.data["nll_nats"].item()), abs=1e-5)


def test_a_base_turned_as_a_whole_is_given_back_by_alignment_alone(made: Path, tmp_path: Path) -> None:
    base = made / "checkpoint-0"
    found = merged(base, turned_copy(base, tmp_path / "step-5"))
    start = nll(found, "checkpoint", 5)
    assert nll(merged(base, base, mix=0.0), "linear", 0) == pytest.approx(start, abs=1e-4)  # one function
    assert nll(found, "aligned", 5) == pytest.approx(start, abs=1e-3)
    others = {v: abs(nll(found, v, 5) - start) for v in ("linear", "rotated", "random")}
    assert min(others.values()) > 0.02, others
    assert float(found.data["fit"][0]) > 0.999 and float(found.data["angle"][0]) > 0


def test_the_same_checkpoint_moves_nothing(made: Path) -> None:
    base = made / "checkpoint-0"
    same = merged(base, base)
    assert "identical" in same.warnings[0] and float(same.data["angle"][0]) == 0
    values = [nll(same, v, 0) for v in ("checkpoint", "linear", "aligned", "rotated", "random")]
    assert max(values) - min(values) < 1e-6
    assert [c.answer for c in same.claims] == ["none found", "none found"]


def test_angles_of_chance_and_of_random_turns() -> None:
    from scipy.stats import ortho_group

    drawn = [turns.angle_of(ortho_group.rvs(40, random_state=s)) for s in range(20)]
    assert np.mean(drawn) == pytest.approx(turns.angle_of_chance(40), rel=0.02)
    inner = ortho_group.rvs(6, random_state=1)
    assert turns.angle_of(turns.random_turn(inner, 2)) == pytest.approx(turns.angle_of(inner))


def test_the_average_is_kept_and_reads_as_a_checkpoint(made: Path, tmp_path: Path) -> None:
    found = merged(made / "checkpoint-0", made / "checkpoint-10", out=str(tmp_path / "kept"))
    kept = run("merge", base=tmp_path / "kept", tuned=tmp_path / "kept", prompts=ITEMS, weights=(0.0,), generate=False)
    assert float(kept.data["nll_nats"].item()) == pytest.approx(nll(found, "aligned", 10), abs=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "olmo2"])
def test_families_in_which_a_turn_is_no_symmetry_are_refused(family: str, tmp_path: Path) -> None:
    base = tiny.save(tmp_path / "a", family)
    with pytest.raises(InputError, match=r"turn|rotated merge"):
        merged(base, base)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "mistral"])
def test_other_families_pass_the_proof(family: str, tmp_path: Path) -> None:
    base = tiny.save(tmp_path / "a", family)
    assert len(merged(base, base, mix=0.0).table)


def test_bad_options_are_refused(made: Path) -> None:
    base = made / "checkpoint-0"
    for wrong in ({"mix": 1.5}, {"components": 1}, {"tokens": 1}):
        with pytest.raises(InputError, match="a share in 0"):
            merged(base, base, **wrong)
    with pytest.raises(InputError, match="one of each step"):
        merged(base, base, base)
