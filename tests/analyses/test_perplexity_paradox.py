"""The paradox on planted changes and null runs, the closed forms of section 2, and a bigram model edited by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analyses.core import analysis as registry
from analyses.core.claim import FOUND, NONE, UNJUDGED
from analyses.core.result import Result
from probe.errors import InputError

STEPS = (0, 10, 20)


def example(folder) -> dict:
    """For the contract tests."""
    return {"perplexity": sweep({"leaked_true": {"answer": -0.4, "prompt": 0.2}, "unseen": {}})}


def analysed(*args, **options) -> Result:
    return registry.get("perplexity_paradox")(*args, **options)


def sweep(effects, *, n=40, kind="gold_final", seed=0, noise=0.05) -> Result:
    """Rows of a perplexity sweep whose mean NLL per token moves by ``effects[group][mask]`` from step 0 to the last."""
    rng = np.random.default_rng(seed)
    rows = []
    for group, change in effects.items():
        for i in range(n):
            base = {m: rng.normal(1.0, 0.3) ** 2 + 0.5 for m in ("prompt", "answer:first", "answer:rest")}
            lengths = {"prompt": int(rng.integers(8, 15)), "answer:first": 1, "answer:rest": 2}
            for number, step in enumerate(STEPS):
                sums = {}
                for mask, length in lengths.items():
                    moved = change.get(mask.split(":")[0], 0) * number / (len(STEPS) - 1)
                    sums[mask] = (base[mask] + moved + (rng.normal(0, noise) if number else 0)) * length
                shared = {"item": f"{group}-{i}", "group": group, "answer_kind": kind, "step": step}
                shared["seen"] = group.startswith("leaked")
                sums["answer"] = sums["answer:first"] + sums["answer:rest"]
                sums["full"] = sums["answer"] + sums["prompt"]
                sums["prompt_content"] = sums["prompt"]
                n_of = {**lengths, "answer": 3, "full": 3 + lengths["prompt"], "prompt_content": lengths["prompt"]}
                rows += [
                    {**shared, "mask": m, "nll_nats": sums[m], "n_tokens": n_of[m]}
                    for m in ("prompt", "prompt_content", "answer", "full", "answer:first")
                ]
    return Result.of(pd.DataFrame(rows))


def pattern(result: Result, group: str, kind="gold_final", step=STEPS[-1]) -> str:
    at = result.table.set_index(["answer_kind", "group", "step"]).sort_index()
    return at.loc[(kind, group, step), "pattern"]


def test_planted_paradox_is_found_in_its_group_only():
    result = analysed(sweep({"leaked_true": {"answer": -0.4, "prompt": 0.2}, "unseen": {}}))
    assert pattern(result, "seen items") == "fall and rise"
    assert pattern(result, "unseen items") == "neither"
    assert pattern(result, "seen items", step=0) == "neither"
    index = result.data["index"].sel(answer_kind="gold_final", group="seen items", step=20)
    assert float(index) == pytest.approx(0.6, abs=0.03)
    contrast = result.data.sel(answer_kind="gold_final", mask="answer", step=20)
    assert float(contrast["contrast_ci_low"]) < -0.4 < float(contrast["contrast_ci_high"])
    (claim,) = result.claims
    assert (claim.kind, claim.answer, claim.step, claim.group) == ("paradox", FOUND, 10, "gold_final")
    assert claim.low < -0.4 < claim.high and claim.n == 40
    assert result.verdict.startswith(
        "Answers of seen items fell beyond those of unseen ones, and their prompts rose since"
    )


@pytest.mark.parametrize(
    ("effect", "word"),
    [
        ({"answer": -0.3}, "fall only"),
        ({"prompt": 0.3}, "rise only"),
        ({}, "neither"),
        ({"answer": 0.3, "prompt": -0.3}, "neither"),
    ],
)
def test_words_for_the_other_changes(effect: dict, word: str):
    assert pattern(analysed(sweep({"unseen": effect})), "unseen") == word


def test_a_fall_in_all_groups_is_not_specific():
    effect = {"answer": -0.4, "prompt": 0.2}
    (claim,) = analysed(sweep({"leaked_true": effect, "unseen": effect})).claims
    assert (claim.kind, claim.answer) == ("fall", NONE)


def test_the_same_ratio_from_unequal_starts_is_no_contrast():
    """Seen items start at twice the nats and all fall by a third: in nats that is more, as a ratio it is not."""
    table = sweep({"leaked_true": {}, "unseen": {}}, noise=0.05).table
    answer, late = table["mask"].str.startswith("answer"), table["step"] > 0
    table["nll_nats"] *= np.where(answer & table["seen"], 2.0, 1.0) * np.where(answer & late, 2 / 3, 1.0)
    (claim,) = analysed(Result.of(table)).claims
    assert claim.answer == NONE and claim.high < 0, "the contrast in nats alone would say so"


def test_a_fall_without_a_rise_of_prompts_is_not_called_a_paradox():
    (claim,) = analysed(sweep({"leaked_true": {"answer": -0.4}, "unseen": {}})).claims
    assert (claim.kind, claim.answer) == ("fall", FOUND) and "no paradox" in claim.caveat


def test_what_cannot_be_judged_says_why():
    effect = {"answer": -0.4, "prompt": 0.2}
    alone = analysed(sweep({"leaked_true": effect}))
    assert alone.claims[0].answer == UNJUDGED and "40 seen and 0 unseen items" in alone.verdict
    table = sweep({"leaked_true": effect, "unseen": {}}).table
    assert "nothing says which items were seen" in analysed(Result.of(table.drop(columns="seen"))).verdict
    labelled = table.assign(group=table["group"].map({"leaked_true": "leak", "unseen": "stable"}))
    for options in ({}, {"seen": ("leak",), "unseen": ("stable",)}):
        assert "made from outcomes" in analysed(Result.of(labelled), **options).verdict


def test_the_claim_reads_the_mask_it_was_asked_for():
    """The user's text falls while the template rises: with prompt_content judged, nothing rose."""
    table = sweep({"leaked_true": {"answer": -0.4, "prompt": 0.2}, "unseen": {}}).table
    moved = (table["mask"] == "prompt_content") & (table["step"] > 0) & table["seen"]
    table["nll_nats"] -= 5.0 * moved
    (claim,) = analysed(Result.of(table), prompt_mask="prompt_content").claims
    assert claim.kind == "fall" and claim.assumptions[1].startswith("prompt_content of seen items: -")
    without = table[table["mask"] != "prompt"]
    assert analysed(Result.of(without), prompt_mask="prompt_content").claims[0].kind == "fall"


def test_items_missing_later_are_left_out_of_the_change():
    """The hardest unseen items go unmeasured at the last step; of the others nothing moved."""
    table = sweep({"leaked_true": {}, "unseen": {}}, noise=0.0).table
    start = table[(table["step"] == 0) & (table["mask"] == "answer") & ~table["seen"]]
    worst = start.sort_values("nll_nats")["item"].tolist()[-8:]
    result = analysed(Result.of(table[~((table["step"] == 20) & table["item"].isin(worst))]))
    change = result.data["change"].sel(answer_kind="gold_final", group="unseen", step=20)
    assert float(np.abs(change).max()) == 0.0
    assert any("8 items were not measured at every step" in w for w in result.warnings)
    gone = table.assign(nll_nats=table["nll_nats"].where(~((table["mask"] == "answer:first") & (table["step"] == 20))))
    part = analysed(Result.of(gone)).data["contribution"].sel(answer_kind="gold_final", step=20, mask="answer:first")
    assert np.isnan(part).all(), "not measured is not 0"


def test_significant_but_below_the_floor_is_trivial_not_a_paradox():
    tiny = sweep({"unseen": {"answer": -0.01, "prompt": 0.01}}, noise=0.001)
    result = analysed(tiny)
    assert pattern(result, "unseen") == "neither"
    assert result.table["is_trivial"].any()
    assert pattern(analysed(tiny, least_change=0.0), "unseen") == "fall and rise"


def test_null_runs_are_rarely_flagged():
    words = [pattern(analysed(sweep({"unseen": {}}, seed=s, noise=0.3), least_change=0.0), "unseen") for s in range(20)]
    assert words.count("fall and rise") == 0
    assert words.count("neither") >= 15


def test_identical_checkpoints_change_nothing_exactly():
    result = analysed(sweep({"leaked_true": {}, "unseen": {}}, noise=0.0))
    for name in ("change", "index", "contrast", "index_contrast", "contribution"):
        assert float(np.abs(result.data[name]).max()) == 0.0
        assert float(np.abs(result.data[f"{name}_ci_high"]).max()) == 0.0, name


def test_contributions_of_first_and_rest_add_up_to_the_answers_change():
    result = analysed(sweep({"leaked_true": {"answer": -0.4}, "unseen": {"answer": 0.1}}))
    data = result.data.sel(answer_kind="gold_final")
    parts = data["contribution"].sel(mask=["answer:first", "answer:rest"]).sum("mask")
    np.testing.assert_allclose(parts, data["change"].sel(mask="answer"), atol=1e-12)


def test_generated_answers_are_never_judged():
    result = analysed(sweep({"unseen": {"answer": -0.4, "prompt": 0.3}}, kind="gen_own"))
    assert set(result.table["pattern"]) == {"not judged"}
    assert "by construction" in result.verdict


def test_a_control_run_beside_it():
    run, control = sweep({"unseen": {"answer": -0.4, "prompt": 0.2}}), sweep({"unseen": {}}, seed=0)
    result = analysed(run.with_record(key="a"), control.with_record(key="b"))
    value = result.data["control_difference"].sel(answer_kind="gold_final", group="unseen")
    assert float(value) == pytest.approx(0.6, abs=0.05)
    itself = analysed(run.with_record(key="a"), run.with_record(key="b"))
    assert float(np.abs(itself.data["control_difference"]).max()) == 0.0
    with pytest.raises(InputError, match="other items"):
        analysed(run.with_record(key="a"), sweep({"unseen": {}}, n=10).with_record(key="b"))


def test_relabelled_steps_relabel_the_output():
    one = sweep({"unseen": {"answer": -0.4, "prompt": 0.2}})
    other = Result.of(one.table.assign(step=one.table["step"] * 7))
    a, b = analysed(one), analysed(other)
    assert b.data["step"].values.tolist() == [0, 70, 140]
    np.testing.assert_array_equal(a.data["index"], b.data["index"])


def test_micro_macro_and_arithmetic_differ_as_computed_by_hand():
    """Items [ln 2] (one token) and [ln 8] x 3: micro 5.656854, macro 4, arithmetic mean 5."""
    shared = {"group": "g", "answer_kind": "given"}
    rows = [
        {**shared, "item": i, "mask": m, "nll_nats": t * np.log(p), "n_tokens": t, "step": s}
        for s in (0, 1)
        for m in ("prompt", "answer")
        for i, p, t in (("a", 2, 1), ("b", 8, 3))
    ]
    for how, expected in (("micro", 5.656854), ("macro", 4.0)):
        result = analysed(Result.of(pd.DataFrame(rows)), aggregate=how)
        level = result.data["log_ppl"].sel(answer_kind="given", group="g", mask="answer", step=0)
        assert np.exp(float(level)) == pytest.approx(expected, abs=1e-6)
    arithmetic = np.mean([2, 8])
    assert arithmetic == 5


def test_bad_input():
    one = sweep({"unseen": {}})
    with pytest.raises(InputError, match="one checkpoint"):
        analysed(Result.of(one.table.query("step == 0")))
    with pytest.raises(InputError, match="no rows of mask"):
        analysed(Result.of(one.table.query("mask != 'prompt'")))
    with pytest.raises(InputError, match="nobody"):
        analysed(one, seen=("nobody",))


def test_an_item_in_two_groups_is_a_contradiction():
    table = sweep({"leaked_true": {}, "unseen": {}}, n=6).table
    table["item"] = table["item"].str.replace("unseen", "leaked_true")
    with pytest.raises(InputError, match="contradictory"):
        analysed(Result.of(table))


def test_figures_build():
    from analyses.memory.perplexity_paradox import figures

    result = analysed(sweep({"leaked_true": {"answer": -0.4}, "unseen": {}}))
    assert {"change_gold_final", "index_gold_final", "contribution_gold_final"} == set(figures(result))


def bigram(folder, rows: dict[str, float]):
    """A saved model whose next-token logits depend on the current token alone; `rows` shifts those of some tokens."""
    import torch
    from transformers import AutoModelForCausalLM

    from tests import tiny

    tiny.save(folder, words=True, tie_word_embeddings=False)
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = model.get_input_embeddings().weight
    vocab = tiny.word_tokenizer().get_vocab()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()  # nothing is written after the embedding
        for word, size in rows.items():
            ids[vocab[word]] += size * torch.randn(ids.shape[1], generator=torch.Generator().manual_seed(1))
    model.save_pretrained(folder)
    return folder


def test_editing_answer_rows_alone_leaves_the_prompts_exactly_where_they_were(tmp_path):
    from analyses.core.running.sweep import join
    from probe import Model
    from probe.prompts import Item, Prompts

    before = bigram(tmp_path / "before", {})
    after = bigram(tmp_path / "after", {"?": 0.5, "ans": 0.5})  # never a context inside a prompt
    items = [
        Item(f"{g}{i}", f"what is {i} plus {i} ?", f" ans {2 * i}", g)
        for g in ("leaked", "unseen")
        for i in range(1, 5)
    ]
    # check=False: such a model rightly fails the proof that editing its attention changes its logits.
    each = [registry.get("perplexity")(Model.load(m, check=False), Prompts(tuple(items))) for m in (before, after)]
    scores = join([{"step": 0}, {"step": 10}], each)
    data = analysed(scores).data.sel(answer_kind="given", step=10)
    assert float(np.abs(data["change"].sel(mask="prompt")).max()) == 0.0
    assert float(np.abs(data["change_ci_high"].sel(mask="prompt")).max()) == 0.0
    assert float(np.abs(data["change"].sel(mask="answer")).min()) > 0.01


def test_answers_sampled_from_the_tuned_model_fall_by_a_kl_divergence_with_their_end_and_not_without():
    """All strings over {a, EOS} up to a length: the expectation is the KL divergence only if the end is scored."""
    rng = np.random.default_rng(0)
    signs = set()
    for _ in range(200):
        stop = rng.uniform(0.05, 0.95, size=(2, 4))  # chance to end after 0..3 tokens, for base and tuned
        stop[:, -1] = 1.0
        with_end = without_end = 0.0
        kl = 0.0
        for length in range(4):
            chance = [np.prod(1 - s[:length]) * s[length] for s in stop]
            log_ratio = np.log(chance[1]) - np.log(chance[0])
            body = np.log1p(-stop[1, :length]).sum() - np.log1p(-stop[0, :length]).sum()
            kl += chance[1] * log_ratio
            with_end += chance[1] * (-np.log(chance[0]) + np.log(chance[1]))
            without_end += chance[1] * body
        assert with_end == pytest.approx(kl)
        assert with_end >= 0
        signs.add(np.sign(without_end))
    assert signs == {-1.0, 1.0}  # without the end token the sign is not guaranteed
