"""Scores against a direct computation, extractability against real generation, exposure of planted answers."""

from __future__ import annotations

import numpy as np
import pytest

from analyses.core import analysis as registry
from analyses.core.result import Result
from probe import Item, Model, Prompts
from probe.errors import InputError
from tests import tiny


def analysed(*args, **options) -> Result:
    return registry.get("memorization")(*args, **options)


def test_scores_against_plain_log_softmax(tuned: Model, prompts: Prompts):
    import torch

    result = analysed(tuned, prompts, share=1.0, prefixes=(2,), length=2)
    row = result.table.iloc[3]
    item = next(i for i in prompts.items if i.id == row["item"])
    (batch,) = tuned.batches(Prompts((item,)), batch_size=1)
    log_p = torch.log_softmax(tuned.run(batch).logits[0, :-1].double(), -1)
    own = log_p.gather(-1, batch.ids[0, 1:, None])[:, 0].numpy()
    assert row["n_tokens"] == len(own)
    assert row["loglik"] == pytest.approx(own.mean(), abs=1e-5)
    assert row["min_k"] == pytest.approx(own.mean(), abs=1e-5)  # 100 %
    p = log_p.exp().numpy()
    mean = (p * log_p.numpy()).sum(-1)
    spread = np.sqrt((p * (log_p.numpy() - mean[:, None]) ** 2).sum(-1))
    assert row["min_k_plus"] == pytest.approx(((own - mean) / spread).mean(), abs=1e-4)


def test_extractability_is_what_greedy_generation_does(tmp_path, prompts: Prompts):
    """A text the model itself writes is extractable, whole; with its last word changed it is not."""
    model = Model.load(tiny.save(tmp_path, words=True))
    for item in prompts.items:
        (drawn,) = model.generate(Prompts((item,)), max_new_tokens=6)
        if len(drawn.text.split()) == 6:  # neither an end token nor <unk>, which texts leave out
            break
    else:
        pytest.fail("no prompt of this model is continued by six words")
    *words, last = drawn.text.split()
    other = "fox" if last != "fox" else "dog"
    n = len(item.prompt.split())
    for text, expected in ((drawn.text, 1.0), (" ".join([*words, other]), 0.0)):
        asked = Prompts((Item("q", item.prompt, f" {text}", "member"),))
        data = analysed(model, asked, prefixes=(n,), length=6).data
        assert float(data["extractable"].sel(group="member", answer_kind="given", k=n)) == expected


def test_groups_that_are_not_there_and_no_groups_at_all(tuned: Model, prompts: Prompts):
    with pytest.raises(InputError, match=r"no groups \['nobody'\].*\['leaked', 'unseen'\]"):
        analysed(tuned, prompts, seen=("nobody",))
    with pytest.raises(InputError, match=r"\['leaked'\] cannot be both"):
        analysed(tuned, prompts, seen=("leaked",), unseen=("leaked", "unseen"))
    alone = analysed(tuned, prompts.where(group="unseen"), prefixes=(2,), length=2)
    assert any("no AUROC" in w for w in alone.warnings)
    unsaid = analysed(tuned, prompts, prefixes=(2,), length=2)  # a group's name says nothing of what training saw
    assert any("no AUROC" in w for w in unsaid.warnings)
    assert "auroc" not in unsaid.data
    both = analysed(tuned, prompts, seen=("leaked",), unseen=("unseen",), prefixes=(2,), length=2)
    assert any("zero false positives" in w for w in both.warnings)
    assert "auroc" in both.data


def test_exposure_of_the_answer_a_model_prefers(tuned: Model, prompts: Prompts):
    result = analysed(tuned, prompts, candidates=5, prefixes=(2,), length=2)
    values = result.table["exposure_bits"]
    assert values.between(0, np.log2(6)).all()
    assert result.table["exposure_bits"].notna().all()
    assert analysed(tuned, prompts, prefixes=(2,), length=2).table["exposure_bits"].isna().all()
