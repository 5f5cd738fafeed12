"""Weight reset: the ends are the two checkpoints bit for bit, keep-only is the reset of the rest, nothing stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.core.reading.outcomes import answer_logprob
from analyses.core.running.run import run
from analyses.weights.weight_reset import weight_reset
from probe import InputError, Model, Prompts
from probe.identity import weights_hash
from probe.weights import replaced
from tests import tiny
from tests.tiny import twelve_items


def example(folder: Path) -> dict[str, object]:
    made = tiny.series(folder, steps=(0, 10))
    models = {name: Model.load(made / f"checkpoint-{s}", check=False) for name, s in (("base", 0), ("tuned", 10))}
    return {**models, "prompts": twelve_items(), "draws": 2, "width": 2, "shares": (0.0, 0.5, 1.0)}


def values(table: pd.DataFrame, **where: object) -> np.ndarray:
    for column, value in where.items():
        table = table[table[column] == value]
    return table.sort_values(["item", "answer_kind"])["metric"].to_numpy()


@pytest.fixture(scope="module")
def table(base: Model, tuned: Model, prompts: Prompts) -> pd.DataFrame:
    return weight_reset(base, tuned, prompts, draws=2).table


def test_the_references_are_the_two_checkpoints(
    table: pd.DataFrame, base: Model, tuned: Model, prompts: Prompts
) -> None:
    for name, model in (("base", base), ("tuned", tuned)):
        nll = run("perplexity", model=model, prompts=prompts).table
        nll = nll[nll["mask"] == "answer"].sort_values("item")
        np.testing.assert_allclose(values(table, variant=name), -nll["nll_nats"] / nll["n_tokens"], atol=1e-5)


def test_resetting_all_layers_and_parts_is_the_base_and_nothing_is_tuned(
    base: Model, tuned: Model, prompts: Prompts
) -> None:
    out = weight_reset(base, tuned, prompts, layers=(0, 1, 2), variants=("reset", "keep_only", "interpolate")).table
    kept = values(out, variant="keep_only")
    assert not np.array_equal(kept, values(out, variant="tuned")), "embeddings and the final norm are base"
    np.testing.assert_array_equal(values(out, variant="interpolate", alpha=1.0), values(out, variant="tuned"))
    np.testing.assert_array_equal(values(out, variant="interpolate", alpha=0.0), values(out, variant="reset"))
    blocks = tuple(p for p in ("attn", "mlp", "norms"))
    out = weight_reset(base, tuned, prompts, layers=(0, 1, 2), parts=blocks[:2], variants=("keep_only",)).table
    np.testing.assert_array_equal(values(out, variant="keep_only"), values(out, variant="tuned"))


def test_keep_only_is_the_reset_of_the_complement(base: Model, tuned: Model, prompts: Prompts) -> None:
    options = {"parts": ("attn", "mlp"), "variants": ("reset", "keep_only")}
    kept = weight_reset(base, tuned, prompts, layers=(1,), **options).table
    reset = weight_reset(base, tuned, prompts, layers=(0, 2), **options).table
    np.testing.assert_array_equal(values(kept, variant="keep_only"), values(reset, variant="reset"))
    np.testing.assert_array_equal(values(kept, variant="reset"), values(reset, variant="keep_only"))


def test_one_reset_equals_weights_set_by_hand(table: pd.DataFrame, base: Model, tuned: Model, prompts: Prompts) -> None:
    ours = base.weights()
    block = {n: ours[n].detach() for n in ours if n.startswith("model.layers.1.")}
    got: dict[str, float] = {}
    with replaced(tuned, block):
        for batch in tuned.batches(prompts):
            got |= {i.id: v for i, v in zip(batch.items, answer_logprob(tuned, batch), strict=True)}
    np.testing.assert_array_equal(values(table, variant="reset", window=1), [got[k] for k in sorted(got)])


def test_both_models_keep_their_weights_even_if_interrupted(
    base: Model, tuned: Model, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [weights_hash(m.weights()) for m in (base, tuned)]
    weight_reset(base, tuned, prompts, draws=1)
    assert [weights_hash(m.weights()) for m in (base, tuned)] == before
    calls: list[int] = []

    def stopped(*_args: object) -> np.ndarray:
        calls.append(1)
        if len(calls) > 8:
            raise KeyboardInterrupt
        return answer_logprob(*_args)  # type: ignore[arg-type]

    monkeypatch.setattr("analyses.core.reading.outcomes.answer_logprob", stopped)
    with pytest.raises(KeyboardInterrupt):
        weight_reset(base, tuned, prompts)
    assert [weights_hash(m.weights()) for m in (base, tuned)] == before


def test_identical_checkpoints_have_no_effect_and_no_share(base: Model, prompts: Prompts) -> None:
    result = weight_reset(base, base, prompts, variants=("reset", "keep_only", "interpolate"))
    assert "identical" in result.warnings[0]
    assert (result.data["effect"].sel(variant=["reset", "keep_only"]) == 0).all()
    assert (result.data["interpolated_effect"] == 0).all()
    assert result.data["share_of_gap"].isnull().all()


def test_a_change_planted_in_one_block_is_found_there_and_nowhere_else(series: Path, prompts: Prompts) -> None:
    base, planted = Model.load(series / "checkpoint-0", check=False), Model.load(series / "checkpoint-0", check=False)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        weight = planted.weights()["model.layers.1.mlp.down_proj.weight"]
        weight.add_(torch.randn(weight.shape, generator=noise))
    data = weight_reset(base, planted, prompts, variants=("reset", "keep_only")).data
    effect, share = data["effect"].squeeze("answer_kind"), data["share_of_gap"].squeeze("answer_kind")
    assert (effect.sel(variant="reset", window=[0, 2]) == 0).all()
    assert (effect.sel(variant="reset", window=1) != 0).all()
    np.testing.assert_allclose(share.sel(variant="reset", window=1), 0, atol=1e-6)
    np.testing.assert_allclose(share.sel(variant="keep_only", window=1), 1, atol=1e-6)
    np.testing.assert_allclose(share.sel(variant="keep_only", window=0), 0, atol=1e-6)


def test_noise_is_drawn_anew_for_each_draw_and_again_the_same(
    table: pd.DataFrame, base: Model, tuned: Model, prompts: Prompts
) -> None:
    one, two = (values(table, variant="randomise", window=0, draw=d) for d in (0, 1))
    assert not np.array_equal(one, two)
    again = weight_reset(base, tuned, prompts, draws=2, variants=("randomise",)).table
    np.testing.assert_array_equal(values(again, variant="randomise", window=0, draw=1), two)


def test_responses_are_those_of_the_changed_weights(base: Model, tuned: Model, prompts: Prompts) -> None:
    options = {"variants": ("reset", "interpolate"), "layers": (0, 1, 2), "shares": (0.0, 1.0)}
    table = weight_reset(base, tuned, prompts, max_new_tokens=4, parts=("attn", "mlp"), **options).table

    def texts(variant: str, alpha: float) -> list[str]:
        rows = table[(table["variant"] == variant) & (table["alpha"] == alpha)]
        return rows.sort_values("item")["text"].tolist()

    ours, theirs = (
        [c.text for c in sorted(m.generate(prompts, max_new_tokens=4), key=lambda c: c.item.id)] for m in (base, tuned)
    )
    assert texts("base", 0.0) == ours
    assert texts("tuned", 1.0) == texts("interpolate", 1.0) == theirs
    assert texts("reset", 0.0) == texts("interpolate", 0.0) != theirs
    assert set(table["correct"]) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variants": ("rest",)}, "expected some of reset"),
        ({"width": 4}, "expected 1 to 3"),
        ({"layers": (7,)}, r"layers \[7\] do not exist"),
        ({"parts": ("mlp.side",)}, "it has embed"),
        ({"parts": ("embed",)}, "nothing to change"),
        ({"draws": 0}, "at least one"),
    ],
)
def test_bad_options_say_what_was_expected(
    base: Model, tuned: Model, prompts: Prompts, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        weight_reset(base, tuned, prompts, **options)


def test_another_architecture_is_refused(base: Model, prompts: Prompts, tmp_path: Path) -> None:
    other = Model.load(tiny.save(tmp_path, "qwen2"), check=False)
    with pytest.raises(InputError):
        weight_reset(base, other, prompts)
