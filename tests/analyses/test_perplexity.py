"""Perplexity: closed forms on models whose probabilities are known, and the identities of its masks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.core.running.run import run
from analyses.core.store.store import Store
from analyses.memory.perplexity import _aggregate
from probe import Item, Model, Prompts
from tests import tiny


def zero_model(folder: Path) -> Model:
    """A model with constant logits: every token has probability 1 / V."""
    tiny.save(folder, tie_word_embeddings=False)
    from transformers import AutoModelForCausalLM

    hf = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        hf.lm_head.weight.zero_()
    hf.save_pretrained(folder)
    return Model.load(folder, check=False)


def masks(table: pd.DataFrame) -> pd.DataFrame:
    return table.pivot(index=["item", "answer_kind"], columns="mask", values=["nll_nats", "n_tokens"]).fillna(0)


def test_constant_logits_give_the_size_of_the_vocabulary(tmp_path: Path, prompts: Prompts) -> None:
    model = zero_model(tmp_path)
    rows = run("perplexity", model=model, prompts=prompts).summary()
    ppl = rows[rows["quantity"] == "ppl"]
    np.testing.assert_allclose(ppl["value"], model.shape.d_vocab, rtol=1e-5)


def test_full_is_prompt_and_answer(base: Model, prompts: Prompts) -> None:
    table = masks(run("perplexity", model=base, prompts=prompts).table)
    for quantity in ("nll_nats", "n_tokens"):
        parts = table[quantity]
        np.testing.assert_allclose(parts["full"], parts["prompt"] + parts["answer"], rtol=1e-5)


def test_the_first_token_is_never_scored(base: Model, prompts: Prompts) -> None:
    table = masks(run("perplexity", model=base, prompts=prompts).table)["n_tokens"]
    for item in prompts.items:
        n_prompt = len(base.tokenizer(item.prompt, add_special_tokens=False)["input_ids"])
        assert table.loc[(item.id, item.answer_kind), "prompt"] == n_prompt - 1


def test_it_equals_plain_transformers(base: Model, series: Path, prompts: Prompts) -> None:
    from transformers import AutoModelForCausalLM

    hf = AutoModelForCausalLM.from_pretrained(series / "checkpoint-0").eval()
    table = run("perplexity", model=base, prompts=prompts).table
    for item in prompts.items[:4]:
        pieces = [base.tokenizer(t, add_special_tokens=False)["input_ids"] for t in (item.prompt, item.answer)]
        ids = torch.tensor([pieces[0] + pieces[1]])
        with torch.no_grad():
            logp = hf(ids).logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])[:, 0]
        expected = -float(logp[-len(pieces[1]) :].sum())
        (found,) = table[(table["item"] == item.id) & (table["mask"] == "answer")]["nll_nats"]
        assert found == pytest.approx(expected, abs=1e-4)


def test_answer_classes_add_up_to_the_answer(base: Model, prompts: Prompts) -> None:
    table = run("perplexity", model=base, prompts=prompts).table
    classes = table[table["mask"].str.startswith("answer:") & (table["mask"] != "answer:first")]
    sums = classes.groupby("item")[["nll_nats", "n_tokens"]].sum()
    answer = table[table["mask"] == "answer"].set_index("item")[["nll_nats", "n_tokens"]]
    pd.testing.assert_frame_equal(sums, answer.loc[sums.index].astype(sums.dtypes), check_exact=False, rtol=1e-5)


def test_micro_macro_and_the_published_arithmetic_mean() -> None:
    # One token at ln 2; three tokens at ln 8 each.
    rows = [("a", math.log(2), 1), ("b", 3 * math.log(8), 3)]
    table = pd.DataFrame(
        [
            {"item": i, "group": "g", "mask": "answer", "answer_kind": "given", "nll_nats": s, "n_tokens": n}
            for i, s, n in rows
        ]
    )
    ppl = _aggregate(table, seed=0)["ppl"].sel(group="g", mask="answer", answer_kind="given")
    expected = {"micro": 5.656854, "macro": 4.0, "legacy_arith": 5.0}
    assert {k: pytest.approx(float(ppl.sel(variant=k)), abs=1e-6) for k in expected} == expected


def test_closed_form_of_three_prompt_and_two_answer_tokens() -> None:
    # Uniform V = 4 on the two scored prompt tokens, p = 1/2 on the two answer tokens.
    sums = {"prompt": (2 * math.log(4), 2), "answer": (2 * math.log(2), 2)}
    sums["full"] = (sums["prompt"][0] + sums["answer"][0], 4)
    table = pd.DataFrame(
        [
            {"item": "a", "group": "g", "mask": m, "answer_kind": "given", "nll_nats": s, "n_tokens": n}
            for m, (s, n) in sums.items()
        ]
    )
    ppl = _aggregate(table, seed=0)["ppl"].sel(variant="micro", group="g", answer_kind="given")
    assert float(ppl.sel(mask="prompt")) == pytest.approx(4)
    assert float(ppl.sel(mask="answer")) == pytest.approx(2)
    assert float(ppl.sel(mask="full")) == pytest.approx(2.828427, abs=1e-6)


def test_kinds_of_answers_are_never_pooled(base: Model) -> None:
    items = [Item("q", "what is 3 plus 7 ?", a, answer_kind=k) for k, a in (("gold_final", "10"), ("gen_own", "ans 9"))]
    result = run("perplexity", model=base, prompts=Prompts(tuple(items)))
    assert sorted(result.data["answer_kind"].values) == ["gen_own", "gold_final"]
    answers = result.table[result.table["mask"] == "answer"]
    assert sorted(answers["answer_kind"]) == ["gen_own", "gold_final"]


def test_straddling_tokens_count_in_full_only(base: Model) -> None:
    # "1" + "0" joins to one token "10" of the tiny tokenizer when tokenised jointly, or the test says so.
    tokenizer = base.tokenizer
    pairs = [("how ma", "ny are left"), ("the ri", "ver bank"), ("what is 3 plu", "s 7 ? ans")]
    joint = [
        p for p in pairs if len(tokenizer(p[0] + p[1])["input_ids"]) < sum(len(tokenizer(t)["input_ids"]) for t in p)
    ]
    assert joint, "the tiny tokenizer merges none of the pairs: choose others"
    prompts = Prompts(tuple(Item(str(n), p, a) for n, (p, a) in enumerate(joint)))
    counts = masks(run("perplexity", model=base, prompts=prompts, boundary="offsets").table)["n_tokens"]
    assert (counts["full"] > counts["prompt"] + counts["answer"]).all()


def test_the_same_checkpoint_twice_differs_by_exactly_nothing(series: Path, prompts: Prompts) -> None:
    first, second = (run("perplexity", model=series / "checkpoint-10", prompts=prompts) for _ in range(2))
    assert first.key == second.key
    pd.testing.assert_frame_equal(first.table, second.table)


def test_answers_alone_score_as_they_do_beside_their_prompts(base: Model, prompts: Prompts) -> None:
    whole, alone = (run("perplexity", model=base, prompts=prompts, score=s).table for s in ("all", "answer"))
    masks = {m for m in whole["mask"] if m.startswith("answer")}
    assert set(alone["mask"]) == masks
    of = whole[whole["mask"].isin(masks)].reset_index(drop=True)
    pd.testing.assert_frame_equal(of, alone, atol=1e-5, rtol=0)


def test_roles_are_columns_of_the_table_and_survive_the_store(tmp_path):
    rows = [
        {"id": str(n), "prompt": f"what is {n}", "answer": " plus 7", "seen": n < 2 if n else None} for n in range(4)
    ]
    model, store = str(tiny.save(tmp_path / "m")), Store.at(tmp_path / "r")
    made = run("perplexity", model=model, prompts=Prompts.of(rows), store=store)
    kept = store.get("perplexity", made.key).table.drop_duplicates("item")
    assert [None if pd.isna(s) else bool(s) for s in kept["seen"]] == [None, True, False, False]
