"""Cross patching: identities between checkpoints, planted differences told apart by name, and nulls."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, sentence
from analyses.core.running.run import run
from analyses.patching._place_claims import PlaceQuestion, claims
from probe import InputError, Item, Model, Prompts
from probe.errors import ProbeError
from tests import tiny

SITES = ("q", "k", "v", "z", "attn_out", "mlp_pre", "mlp_up", "mlp_post", "mlp_out")
MATRICES = {
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.o_proj": "attn_out",
    "mlp.gate_proj": "mlp_pre",
    "mlp.up_proj": "mlp_up",
    "mlp.down_proj": "mlp_out",
}


def example(folder: Path) -> dict[str, Any]:
    """Two checkpoints far apart, so that no item's gap is so small that recovery magnifies rounding."""
    from tests.tiny import twelve_items

    pair = {"base": tiny.save(folder / "a", seed=0), "tuned": tiny.save(folder / "b", seed=3)}
    return {**pair, "prompts": twelve_items(), "draws": 400, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def words() -> Any:
    return tiny.word_tokenizer()


@pytest.fixture(scope="module")
def pair_of(words: Any) -> Callable[..., tuple[Model, Model]]:
    """A random model and a copy of it in which one thing was changed."""

    def made(change: Callable[[Any], None], seed: int = 0, family: str = "llama") -> tuple[Model, Model]:
        first = tiny.model(family, seed=seed, vocab_size=len(words))
        second = copy.deepcopy(first)
        with torch.no_grad():
            change(second)
        return Model.wrap(first, words, check=False), Model.wrap(second, words, check=False)

    return made


def noise(name: str, scale: float = 0.3, seed: int = 5) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        weight = model.get_parameter(name)
        weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)) * scale)

    return change


def test_identical_checkpoints_have_no_effect_and_no_recovery(base: Model, prompts: Prompts) -> None:
    result = run("cross_patching", base=base, tuned=base, prompts=prompts, direction="both")
    assert (result.table["effect"] == 0).all()
    assert result.table["recovery"].isna().all()
    assert any("identical" in w for w in result.warnings)
    assert not any(c.is_found for c in result.claims)
    assert result.data["recovery"].isnull().all()


@pytest.mark.parametrize("matrix", list(MATRICES))
def test_the_matrix_that_differs_is_named(matrix: str, pair_of: Callable[..., Any], prompts: Prompts) -> None:
    base, tuned = pair_of(noise(f"model.layers.1.{matrix}.weight"))
    table = run("cross_patching", base=base, tuned=tuned, prompts=prompts.limit(4), sites=SITES, positions="all").table
    changed = table[table["effect"] != 0]
    order = {kind: n for n, kind in enumerate(SITES)}
    first = changed.assign(order=changed["site"].map(order)).sort_values(["layer", "order"]).iloc[0]
    assert (first["layer"], first["site"]) == (1, MATRICES[matrix])
    own = table[(table["layer"] == 1) & (table["site"] == ("attn_out" if "attn" in matrix else "mlp_out"))]
    if "attn" not in matrix:  # everything the change does goes through what this MLP writes
        np.testing.assert_allclose(own["metric_patched"], own["metric_tuned"], atol=1e-5)


def test_what_precedes_the_change_is_exactly_zero(pair_of: Callable[..., Any], prompts: Prompts) -> None:
    base, tuned = pair_of(noise("model.layers.2.mlp.up_proj.weight"))
    table = run("cross_patching", base=base, tuned=tuned, prompts=prompts, sites=("resid_pre", "mlp_out")).table
    assert (table[(table["layer"] < 2) | (table["site"] == "resid_pre")]["effect"] == 0).all()
    assert (table[(table["layer"] == 2) & (table["site"] == "mlp_out")]["effect"] != 0).all()


def test_the_last_state_everywhere_is_the_source_if_the_heads_are_equal(
    pair_of: Callable[..., Any], prompts: Prompts
) -> None:
    base, tuned = pair_of(noise("model.layers.0.self_attn.v_proj.weight", 0.5))
    options = {"sites": ("resid_post",), "layers": (2,), "positions": "all", "direction": "both"}
    result = run("cross_patching", base=base, tuned=tuned, prompts=prompts, **options)
    np.testing.assert_allclose(result.data["recovery"], 1.0, atol=1e-3)
    source = np.where(result.table["direction"] == "tuned_to_base", result.table["metric_tuned"],
                      result.table["metric_base"])  # fmt: skip
    np.testing.assert_allclose(result.table["metric_patched"], source, atol=1e-5)


def test_all_that_is_written_is_the_last_state(pair_of: Callable[..., Any], prompts: Prompts) -> None:
    """Embedding, every attn_out and every mlp_out patched together: the source's last residual state."""
    from probe import patch
    from probe.replay import Clean, answer_logprob, replay

    base, tuned = pair_of(lambda m: [p.add_(0.02 * torch.randn(p.shape)) for p in m.parameters()])
    batch = base.batches(prompts, batch_size=12)[0]
    source = Clean(tuned, batch)
    sites = ["resid_pre.0", *(f"{k}.{n}" for n in range(3) for k in ("attn_out", "mlp_out"))]
    patches = {s: patch(s, source.value(base.site(s))) for s in [*sites, "resid_post.2"]}
    got = replay(Clean(base, batch), [[patches[s] for s in sites], [patches["resid_post.2"]]], answer_logprob(batch))
    torch.testing.assert_close(got[0], got[1], atol=1e-5, rtol=0)


def test_a_patch_at_one_position_leaves_earlier_logits(base: Model, tuned: Model, prompts: Prompts) -> None:
    from probe import patch

    batch = base.batches(prompts, batch_size=12)[0]
    value = tuned.run(batch, read=["mlp_out.1"])["mlp_out.1"]
    plain = base.run(batch).logits
    edited = base.run(batch, edits=[patch("mlp_out.1", value, "last_prompt")]).logits
    for n, last in enumerate(batch.last_prompt.tolist()):
        before = slice(int(batch.offsets[n]), last)
        torch.testing.assert_close(plain[n, before], edited[n, before], atol=1e-6, rtol=0)
        assert (plain[n, last] - edited[n, last]).abs().max() > 1e-3


def test_recovery_is_the_ratio_of_what_the_table_holds(base: Model, tuned: Model, prompts: Prompts) -> None:
    result = run("cross_patching", base=base, tuned=tuned, prompts=prompts, sites=("mlp_out",), direction="both")
    table = result.table
    into_base = table["direction"] == "tuned_to_base"
    target = table["metric_base"].where(into_base, table["metric_tuned"])
    source = table["metric_tuned"].where(into_base, table["metric_base"])
    expected = (table["metric_patched"] - target) / (source - target)
    np.testing.assert_allclose(table["recovery"].dropna(), expected[table["recovery"].notna()])
    cell = {"direction": "tuned_to_base", "site": "mlp_out", "layer": 1, "group": "leaked", "answer_kind": "given"}
    rows = table[into_base & (table["layer"] == 1) & (table["group"] == "leaked")]
    np.testing.assert_allclose(result.data["recovery"].sel(cell), rows["effect"].sum() / rows["gap"].sum())
    both = result.data.sel({k: v for k, v in cell.items() if k != "group"})
    groups = both["effect"].sel(group="leaked") - both["effect"].sel(group="unseen")
    np.testing.assert_allclose(both["contrast"], groups, atol=1e-12)


def test_one_position_of_the_prompt(base: Model, tuned: Model, prompts: Prompts) -> None:
    given = {"base": base, "tuned": tuned, "prompts": prompts, "sites": ("resid_post",), "layers": (1,)}
    last = run("cross_patching", **given, positions="last_prompt").table
    same = run("cross_patching", **given, at=(-1,)).table
    pd.testing.assert_series_equal(last["metric_patched"], same["metric_patched"])
    assert set(same["positions"]) == {"at -1"}
    with pytest.raises(InputError, match="outside the prompt of q00"):
        run("cross_patching", **given, at=(99,))


def test_bad_input_is_refused(base: Model, tuned: Model, prompts: Prompts, words: Any) -> None:
    given = {"base": base, "tuned": tuned, "prompts": prompts}
    for options, message in (
        ({"sites": ("logits",)}, "cannot be patched by position"),
        ({"layers": (3,)}, "does not exist"),
        ({"sites": ("z",), "heads": (4,)}, "heads"),
        ({"groups": ("leaked", "absent")}, "two of the groups"),
    ):
        with pytest.raises(InputError, match=message):
            run("cross_patching", **given, **options)
    deeper = Model.wrap(tiny.model(num_hidden_layers=2), tiny.tokenizer(), check=False)
    with pytest.raises(InputError, match="n_layers"):
        run("cross_patching", **{**given, "tuned": deeper})


def test_other_ids_are_refused_and_listed(base: Model, prompts: Prompts) -> None:
    other = tiny.tokenizer()
    other._tokenizer.normalizer = __import__("tokenizers").normalizers.Lowercase()
    changed = Model.wrap(base.backend.plain, other, check=False)
    with pytest.raises(InputError, match=r"4 item\(s\) as other tokens.*q00/given, q03/given, q06/given, q09/given"):
        run("cross_patching", base=base, tuned=changed, prompts=prompts)


def test_generated_accuracy_under_patches(pair_of: Callable[..., Any], prompts: Prompts, words: Any) -> None:
    """The whole last state patched over the prompt decides the first generated word; the control is no patch."""
    base, tuned = pair_of(noise("model.layers.1.mlp.down_proj.weight", 1.0))
    first = {c.item.id: c.text for c in tuned.generate(prompts, max_new_tokens=1)}
    answered = Prompts(tuple(replace(i, answer=first[i.id]) for i in prompts.items))
    options = {"sites": ("resid_post",), "layers": (0, 2), "metric": "accuracy", "grade": "exact", "max_new_tokens": 1}
    table = run("cross_patching", base=base, tuned=tuned, prompts=answered, **options, positions="last_prompt").table
    assert (table["metric_tuned"] == 1).all()
    assert (table[table["layer"] == 2]["metric_patched"] == 1).all()
    early = table[table["layer"] == 0]
    assert (early["metric_patched"] == early["metric_base"]).all()
    assert (early["metric_base"] == 0).any()


def findings(seeds: range, words: Any) -> int:
    """How many pairs of same-distribution random checkpoints show a contrast of exchangeable groups at .05."""
    vocabulary = [w for w in words.get_vocab() if not w.startswith("<")]
    found = 0
    for seed in seeds:
        rng = random.Random(seed)
        items = [
            Item(str(n), " ".join(rng.choices(vocabulary, k=rng.randint(4, 6))), rng.choice(vocabulary),
                 group="ab"[n % 2])
            for n in range(16)
        ]  # fmt: skip
        first = tiny.model(seed=seed, vocab_size=len(words), num_hidden_layers=2)
        second = copy.deepcopy(first)
        rows = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in second.parameters():
                p.add_(0.05 * torch.randn(p.shape, generator=rows))
        pair = [Model.wrap(m, words, check=False) for m in (first, second)]
        result = run("cross_patching", base=pair[0], tuned=pair[1], prompts=Prompts(tuple(items)), draws=400,
                     batch_size=16, seed=seed)  # fmt: skip
        found += float(result.data["contrast_p"].min()) <= 0.05
    return found


def test_nulls_are_rarely_findings(words: Any) -> None:
    assert findings(range(20), words) <= 4  # binomial(20, .05): more than 4 has probability .003


@pytest.mark.verify
def test_false_findings_on_200_nulls(words: Any) -> None:
    assert findings(range(1000, 1200), words) <= 18  # 95 % of binomial(200, .05) is at most 15


def test_a_planted_difference_is_found_in_its_group(words: Any, pair_of: Callable[..., Any]) -> None:
    """One group's items share a word whose embedding feeds one changed MLP: that block and group are found."""
    vocabulary = sorted(w for w in words.get_vocab() if not w.startswith("<"))[:20]
    rng = random.Random(0)
    mark = "think"
    items = [
        Item(str(n), " ".join([*rng.choices(vocabulary, k=4), mark if n % 2 else "ans"]),
             "add" if n % 2 else rng.choice(vocabulary), group="marked" if n % 2 else "plain")
        for n in range(24)
    ]  # fmt: skip
    prompts = Prompts(tuple(items))
    base, _ = pair_of(lambda m: None)
    batch = base.batches(prompts, batch_size=24, boundary="concat")[0]
    keys = base.run(batch, read=["mlp_post.1"])["mlp_post.1"][torch.arange(24), batch.last_prompt]
    leak = torch.tensor([i.group == "marked" for i in batch.items])
    # Exactly 1 on every marked item and 0 on the others: a gate that only does so on average pushes some items down,
    # which is a difference of spread, and the contrast is one of means.
    gate = torch.linalg.lstsq(keys.double(), leak.double()[:, None], driver="gelsd").solution[:, 0].float()
    torch.testing.assert_close(keys @ gate, leak.float(), atol=1e-3, rtol=0)

    def plant(model: Any) -> None:
        answer = model.get_output_embeddings().weight[words.convert_tokens_to_ids("add")]
        model.get_parameter("model.layers.1.mlp.down_proj.weight").add_(20 * torch.outer(answer, gate))

    base, tuned = pair_of(plant)
    result = run("cross_patching", base=base, tuned=tuned, prompts=prompts, groups=("marked", "plain"))
    p = result.data["contrast_p"].sel(direction="tuned_to_base", answer_kind="given")
    assert float(p.sel(site="mlp_out", layer=1)) <= 0.05
    contrast = result.data["contrast"].sel(direction="tuned_to_base", answer_kind="given")
    assert float(contrast.sel(site="mlp_out", layer=1)) == float(contrast.max()) > 0
    assert (result.data["effect"].sel(layer=0) == 0).all()


def test_the_gate_refuses_an_engine_that_is_off(
    base: Model, tuned: Model, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The positive control of the gate: full runs that disagree by .01 nats stop the analysis."""
    from analyses.core.reading import patch_gates as patching

    honest = patching.full_run
    monkeypatch.setattr(patching, "full_run", lambda *a: honest(*a) + 0.01)
    with pytest.raises(ProbeError, match=r"own values changed the metric by 0\.01"):
        run("cross_patching", base=base, tuned=tuned, prompts=prompts)


def test_a_series_is_a_matrix_of_source_and_target(series: Path, prompts: Prompts) -> None:
    from analyses.core.running.sweep import sweep

    result = sweep("cross_patching", checkpoints=str(series), prompts=prompts.limit(4), pairs="all", draws=200)
    recovery = result.data["recovery"]
    assert list(recovery["source_step"]) == [0, 10]
    assert list(recovery["step"]) == [10, 20]
    assert recovery.sel(source_step=10, step=10).isnull().all()
    assert recovery.sel(source_step=0).notnull().all()


def test_in_bfloat16_the_floor_is_measured_and_small_effects_are_marked(series: Path, prompts: Prompts) -> None:
    from analyses.core.running.inputs import Loading

    pair = {"base": str(series / "checkpoint-0"), "tuned": str(series / "checkpoint-10"), "prompts": prompts.limit(6)}
    result = run("cross_patching", **pair, loading=Loading(dtype="bfloat16"))
    floor = result.data.attrs["gate_floor"]
    assert 1e-5 < floor < 0.1
    marked = result.table["effect"].abs() <= floor
    assert (result.table["below_floor"] == marked).all()
    assert marked.any()
    assert not marked.all()


def effects(*groups: tuple[str, np.ndarray], gap: float = 1.0) -> pd.DataFrame:
    """Rows of given effects [item, layer] of each group, at the MLP output."""
    rows = [
        {"item": f"{name}{i}", "group": name, "answer_kind": "given", "direction": "tuned_to_base", "site": "mlp_out",
         "layer": layer, "head": pd.NA, "effect": value, "gap": gap * (1 + 0.01 * (i % 7))}
        for name, values in groups
        for i, row in enumerate(values)
        for layer, value in enumerate(row)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def told(
    table: pd.DataFrame,
    groups: tuple[str, str] | None = None,
    selected: bool = False,
    unchanged: frozenset[tuple[str, int]] = frozenset(),
) -> list[Claim]:
    asked = PlaceQuestion("at every token", "nats/token", "the answer's log-probability", 400, 0, unchanged)
    return claims(table, groups, asked, selected)


def shifted(seed: int, n: int, *means: float, spread: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.asarray(means) + spread * (rng.normal(size=(n, 1)) + rng.normal(size=(n, len(means))))


def test_the_earliest_of_equal_places_is_named_and_later_ones_are_downstream() -> None:
    """The second block acts, the ones after it carry 97 and 83 % of that on."""
    (one,) = told(effects(("planted", shifted(0, 40, 0.0, 1.0, 1.02, 0.83))))
    assert sentence(one) == (
        "Patching the MLP output of layer 1 from tuned into base moves the answer's log-probability of planted: "
        f"{one.effect:+.2f} [{one.low:+.2f}, {one.high:+.2f}] nats/token."
    )
    assert one.place == "the MLP output of layer 1 from tuned into base" and one.family == "4 places, 1 groups"
    assert "2 other places act too" in one.caveat and "downstream" in one.caveat
    assert one.share == pytest.approx(one.effect / 1.03, abs=0.02)


def test_no_share_of_a_gap_that_may_be_zero_and_groups_that_agree_are_one_sentence() -> None:
    table = effects(("planted", shifted(0, 40, 0.0, 1.0)))
    table["gap"] = np.where(table["item"].str[-1].astype(int) % 2 == 0, 0.01, -0.01)
    assert np.isnan(told(table)[0].share)
    silent = told(effects(("a", shifted(1, 40, 0.0, 0.0)), ("b", shifted(2, 40, 0.0, 0.0))))
    assert [(c.answer, c.group) for c in silent] == [(NONE, "a, b")]


def test_a_contrast_says_where_and_outcome_groups_are_refused() -> None:
    table = effects(("a", shifted(0, 30, 0.0, 1.0)), ("b", shifted(1, 30, 0.0, 0.0)))
    *_, contrast = told(table, ("a", "b"))
    assert contrast.answer == FOUND and "layer 1 from tuned into base acts more on a than on b" in sentence(contrast)
    assert told(table, ("a", "b"), selected=True)[-1].answer == UNJUDGED
    assert told(table.replace({"a": "leak", "b": "stable"}), ("leak", "stable"))[-1].answer == UNJUDGED
    few = told(effects(("a", shifted(0, 30, 0.0, 1.0)), ("b", shifted(1, 6, 0.0, 0.0))), ("a", "b"))
    assert [c.answer for c in few] == [FOUND, UNJUDGED, UNJUDGED] and "8 items" in few[-1].needs


def test_places_without_an_effect_are_seldom_named() -> None:
    """56 places, 16 items, effects correlated over places with mean 0: the largest of all is no finding."""
    found = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        values = rng.normal(size=(16, 56)) + rng.normal(size=(16, 1))
        found += told(effects(("a", values)))[0].is_found
    assert found <= 8  # binomial(60, .05): 8 or more in .01 of runs
