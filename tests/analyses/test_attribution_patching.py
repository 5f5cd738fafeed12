"""Attribution patching: exact where the metric is linear, ranks against exact patches, the QK fix, its cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyses.core.running.run import run
from analyses.patching._clean_and_corrupt import paired_batches
from analyses.patching._gradients import PromptPair
from probe import InputError, Model, Site
from tests import tiny
from tests.analyses.test_activation_patching import two_prompts

EVERY = ("resid_pre", "attn_out", "mlp_out", "z", "q", "k", "v", "mlp_post")


def example(folder: Path) -> dict[str, Any]:
    return {"model": tiny.save(folder / "a", words=True), "prompts": two_prompts(), "verify": 5}


def made(**changes: Any) -> Model:
    words = tiny.word_tokenizer()
    return Model.wrap(tiny.model(vocab_size=len(words), **changes), words, check=False)


@pytest.fixture(scope="module")
def model() -> Model:
    return made()


def test_estimates_are_derivatives(model: Model) -> None:
    """A small step along clean - corrupt changes the metric by the estimate times the step."""
    from probe import Edit
    from probe.replay import clean_metric, replay

    pairs, _ = paired_batches(model, two_prompts(), "column", batch_size=6)
    pair = PromptPair(model, *pairs[0])
    sites = [Site("resid_pre", 1), Site("mlp_out", 0), Site("z", 1, 2), Site("v", 1, 1), Site("mlp_post", 2)]
    table = pair.estimates(sites, "all_prompt", 1, False)
    clean, corrupt = pair.runs["clean"], pair.runs["corrupt"]
    for site in sites:
        change = clean.value(site) - corrupt.value(site)
        steps = [Edit(site, lambda x, c=change, s=s: x + s * c, "all_prompt") for s in (0.02, -0.02)]
        up, down = replay(corrupt, steps, pair.metric)
        own = table[(table["site"] == site.kind) & (table["layer"] == site.layer)]
        own = own[own["head"].isna() if site.head is None else own["head"] == site.head]
        np.testing.assert_allclose(own["estimate"], ((up - down) / 0.04).numpy(), atol=2e-3, rtol=2e-2)
    assert clean_metric(corrupt, pair.metric).isfinite().all()


def test_the_last_block_is_nearly_linear_and_ranks_agree(model: Model) -> None:
    result = run("attribution_patching", model=model, prompts=two_prompts(), sites=EVERY, verify=40)
    assert float(result.data["rank_correlation_all_verified"]) > 0.8
    (claim,) = result.claims
    assert claim.is_found and claim.low > 0.5 and claim.n == (result.table["chosen"] == "random").sum() / 2 / 3
    rows = result.table
    assert (rows["exact"].notna() == (rows["chosen"] != "no")).all()


def test_integrated_gradients_sum_to_the_whole_effect(model: Model) -> None:
    """Completeness (arXiv 1703.01365): at the embeddings, estimates add up to M(clean) - M(corrupt)."""
    options = {"sites": ("resid_pre",), "layers": (0,), "positions": "each", "verify": 0}
    given = {"model": model, "prompts": two_prompts()}
    one = run("attribution_patching", **given, **options).table
    many = run("attribution_patching", **given, **options, steps=32).table
    whole = run("activation_patching", **given, sites=("resid_pre",), layers=(0,), positions="all_prompt").table
    effect = whole.set_index("item")["effect"]
    off = [(t.groupby("item")["estimate"].sum() - effect).abs().max() for t in (one, many)]
    assert off[1] < 1e-3
    assert off[1] < off[0]


def test_the_qk_fix_is_exact_where_only_the_softmax_is_curved() -> None:
    """One block whose metric is nearly linear in z: sharp attention breaks the plain estimate, not the fixed one."""
    model = made(num_hidden_layers=1)
    weights = model.weights()
    weights["model.layers.0.mlp.down_proj.weight"].data.zero_()
    weights["model.layers.0.self_attn.o_proj.weight"].data.mul_(1e-2)
    for name in ("q_proj", "k_proj"):
        weights[f"model.layers.0.self_attn.{name}.weight"].data.mul_(6.0)
    given = {"model": model, "prompts": two_prompts(), "sites": ("q", "k"), "verify": 12}
    for positions in ("all_prompt", "each"):
        off = {}
        for fix in (True, False):
            rows = run("attribution_patching", **given, qk_fix=fix, positions=positions).table
            rows = rows[rows["exact"].notna()]
            off[fix] = float((rows["estimate"] - rows["exact"]).abs().mean() / rows["exact"].abs().mean())
        assert off[True] < 0.05, positions
        assert off[False] > 2 * off[True], positions


def test_a_prompt_against_itself_is_nothing(model: Model) -> None:
    from dataclasses import replace

    from probe import Prompts

    same = Prompts(tuple(replace(i, meta={"corrupt": i.prompt}) for i in two_prompts().items))
    table = run("attribution_patching", model=model, prompts=same, sites=EVERY, verify=3).table
    assert (table["estimate"].abs() < 1e-6).all()
    assert (table["exact"].dropna() == 0).all()


def test_at_most_four_forward_passes(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs of the model and one backward pass, whatever the number of sites."""
    pairs, _ = paired_batches(model, two_prompts(), "column", batch_size=6)
    pair = PromptPair(model, *pairs[0])
    calls: list[str] = []
    forward, grad = model.run, torch.autograd.grad
    monkeypatch.setattr(model, "run", lambda *a, **k: calls.append("forward") or forward(*a, **k))
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: calls.append("backward") or grad(*a, **k))
    sites = [s for kind in ("attn_out", "mlp_out", "resid_post") for s in model.sites(kind)]
    pair.estimates(sites, "each", 1, True)
    assert sorted(calls) == ["backward", "forward", "forward"]


def test_bad_input_is_refused(model: Model) -> None:
    with pytest.raises(InputError, match="at least 1 step"):
        run("attribution_patching", model=model, prompts=two_prompts(), steps=0)
