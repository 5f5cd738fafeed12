"""Activation patching between a clean and a corrupt prompt: identities, an oracle, and prompts that pair."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses.core.running.run import run
from probe import InputError, Item, Model, Prompts, patch
from probe.replay import answer_logprob
from tests import tiny
from tests.probe.test_replay import full


def example(folder: Path) -> dict[str, Any]:
    """Prompts so far apart that no item's gap is small enough for recovery to magnify rounding."""
    far = tuple(
        replace(i, meta={"corrupt": " ".join(["numbers"] * len(i.prompt.split()))}) for i in two_prompts().items
    )
    return {"model": tiny.save(folder / "a", words=True, initializer_range=0.3), "prompts": Prompts(far)}


def two_prompts() -> Prompts:
    """Items whose corrupt prompt differs in its fourth word only, and in the number of its words from others'."""
    items = [
        Item(f"q{n}", f"what is {n} plus 7 ?" + " how many" * (n % 3), f" ans {9 - n}", group="ab"[n % 2],
             meta={"corrupt": f"what is {n} take 7 ?" + " how many" * (n % 3)})
        for n in range(6)
    ]  # fmt: skip
    return Prompts(tuple(items))


@pytest.fixture(scope="module")
def model() -> Model:
    words = tiny.word_tokenizer()
    return Model.wrap(tiny.model(vocab_size=len(words)), words, check=False)


def test_the_last_state_is_all_there_is(model: Model) -> None:
    options = {"sites": ("resid_post",), "layers": (2,), "positions": "last_prompt", "variant": "both"}
    one_token = Prompts(tuple(replace(i, answer=" ans") for i in two_prompts().items))
    table = run("activation_patching", model=model, prompts=one_token, **options).table
    source = np.where(table["variant"] == "denoise", table["metric_clean"], table["metric_corrupt"])
    np.testing.assert_allclose(table["metric_patched"], source, atol=1e-6)
    np.testing.assert_allclose(table["recovery"].dropna(), 1.0, atol=1e-3)


def test_before_the_first_differing_token_nothing_changes(model: Model) -> None:
    table = run("activation_patching", model=model, prompts=two_prompts(), sites=("resid_pre", "z", "mlp_out")).table
    assert (table[table["pos"] < 3]["effect"] == 0).all()
    first = table[(table["site"] == "resid_pre") & (table["layer"] == 0)]
    assert (first[first["pos"] > 3]["effect"] == 0).all()  # the embeddings differ at one token
    np.testing.assert_allclose(first[first["pos"] == 3]["metric_patched"], first[first["pos"] == 3]["metric_clean"],
                               atol=1e-6)  # fmt: skip


def test_it_equals_full_runs(model: Model) -> None:
    prompts = two_prompts()
    corrupt = Prompts(tuple(replace(i, prompt=i.meta["corrupt"]) for i in prompts.items))
    clean, other = (model.batches(p, batch_size=6)[0] for p in (prompts, corrupt))
    value = model.run(clean, read=["attn_out.1"])["attn_out.1"]
    want = full(model, other, [patch("attn_out.1", value, "all_prompt")], answer_logprob(other))[0]
    options = {"sites": ("attn_out",), "layers": (1,), "positions": "all_prompt"}
    table = run("activation_patching", model=model, prompts=prompts, **options).table.set_index("item")
    for item, expected in zip(clean.items, want.tolist(), strict=True):
        assert table.loc[item.id, "metric_patched"] == pytest.approx(expected, abs=1e-5)


def test_the_same_prompt_twice_is_no_patch(model: Model) -> None:
    same = Prompts(tuple(replace(i, meta={"corrupt": i.prompt}) for i in two_prompts().items))
    table = run("activation_patching", model=model, prompts=same, variant="both").table
    assert (table["effect"] == 0).all()
    assert table["recovery"].isna().all()


def test_rotation_pairs_prompts_of_one_length(model: Model) -> None:
    alone = Item("long", "what is 1 plus 7 ? how many how many how many how many", "ans 8")
    plain = Prompts((*(replace(i, meta={}) for i in two_prompts().items), alone))
    result = run("activation_patching", model=model, prompts=plain, corrupt="rotate", sites=("resid_pre",))
    assert "long" not in set(result.table["item"])
    assert any("1 item(s) left out" in w for w in result.warnings)
    assert (result.table["effect"] != 0).any()


def test_bad_input_is_refused(model: Model) -> None:
    bare = Prompts(tuple(replace(i, meta={}) for i in two_prompts().items))
    unequal = Prompts(tuple(replace(i, meta={"corrupt": "what ?"}) for i in two_prompts().items))
    with pytest.raises(InputError, match=r"differ in number of tokens: q0 \(8 and 4\)"):
        run("activation_patching", model=model, prompts=unequal)
    with pytest.raises(InputError, match=r"6 item\(s\) have no column 'corrupt'"):
        run("activation_patching", model=model, prompts=bare)
