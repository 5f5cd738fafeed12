"""Divergences: identities of each variant, an oracle that materialises, planted changes, and what must be refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from analyses.states import divergence as module
from analyses.states.divergence import divergence
from probe import Model, Prompts
from probe.errors import InputError
from tests import tiny


def prompts(n: int = 5) -> Prompts:
    rows = [
        {
            "id": f"i{k}",
            "prompt": "what is 3 plus 7 ?" + " and 2" * (k % 3),
            "answer": f" ans 1{k}",
            "group": "leak" if k % 2 else "stable",
        }
        for k in range(n)
    ]
    return Prompts.of(rows)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tiny.series(tmp_path_factory.mktemp("divergence") / "run", steps=(0, 10))


@pytest.fixture(scope="module")
def base(folders) -> Model:
    return Model.load(folders / "checkpoint-0", check=False)


@pytest.fixture(scope="module")
def tuned(folders) -> Model:
    return Model.load(folders / "checkpoint-10", check=False)


def test_before_after_equals_materialised_scipy(base, tuned):
    """Every row against full logits, softmax in float64 and SciPy."""
    table = divergence(base, tuned, prompts(), batch_size=2).table
    assert list(table.columns[:7]) == ["item", "group", "answer_kind", "pos", "token", "token_class", "span"]
    for item in prompts().items:
        (batch,) = base.batches(replace(prompts(), items=(item,)), batch_size=1)
        for layer in (0, 2):
            p, q = (
                torch.softmax(m.unembed(m.run(batch, read=[f"resid_post.{layer}"])[f"resid_post.{layer}"]).double(), -1)
                for m in (base, tuned)
            )
            expected = jensenshannon(p[0].numpy(), q[0].numpy(), axis=-1) ** 2
            rows = table[(table["item"] == item.id) & (table["layer"] == layer)]
            assert rows["pos"].tolist() == list(range(len(expected)))
            np.testing.assert_allclose(rows["jsd_nats"], expected, atol=1e-6)


def test_one_checkpoint_with_itself_is_exactly_zero(base, folders):
    again = Model.load(folders / "checkpoint-0", check=False)
    result = divergence(base, again, prompts())
    assert (result.table[list(module.COLUMNS)] == 0).all().all()
    assert (result.data["jsd_nats"] == 0).all() and "identical weights" in result.warnings[0]


def test_lens_to_final_is_zero_at_the_last_layer_only(base, tuned):
    table = divergence(base, tuned, prompts(), variant="lens_to_final").table
    assert set(table["checkpoint"]) == {"base", "tuned"}
    last = table[table["layer"] == base.shape.n_layers - 1]
    assert (last["jsd_nats"] == 0).all() and (last["total_variation"] == 0).all()
    assert (table.loc[table["layer"] == 0, "jsd_nats"] > 1e-4).all()


def test_lens_to_final_matches_the_models_own_soft_cap(tmp_path):
    """Gemma caps its logits: lens and output must both be capped, or the last layer is not 0."""
    model = Model.load(tiny.save(tmp_path / "gemma2", "gemma2"), check=False)
    table = divergence(model, model, prompts(2), variant="lens_to_final").table
    (batch,) = model.batches(prompts(2).limit(1), batch_size=1)
    trace = model.run(batch, read=["resid_post.0", "resid_post.2"])
    p = torch.softmax(model.unembed(trace["resid_post.0"])[0].double(), -1)
    q = torch.softmax(trace.logits[0].double(), -1)
    rows = table[(table["item"] == "i0") & (table["layer"] == 0) & (table["checkpoint"] == "base")]
    np.testing.assert_allclose(rows["jsd_nats"], jensenshannon(p.numpy(), q.numpy(), axis=-1) ** 2, atol=1e-6)
    assert (table.loc[table["layer"] == 2, "jsd_nats"] < 1e-9).all()


def test_in_out_reads_both_components(base, tuned):
    table = divergence(base, tuned, prompts(2), variant="in_out").table
    assert set(table["site"]) == {"attn_out", "mlp_out"} and set(table["variant"]) == {"in_out"}
    (batch,) = base.batches(prompts(2).limit(1), batch_size=1)
    trace = base.run(batch, read=["resid_mid.1", "mlp_out.1"])
    p, q = (torch.softmax(base.unembed(trace[s])[0].double(), -1).numpy() for s in ("resid_mid.1", "mlp_out.1"))
    rows = table[(table["item"] == "i0") & (table["layer"] == 1) & (table["checkpoint"] == "base")]
    rows = rows[rows["site"] == "mlp_out"]
    np.testing.assert_allclose(rows["jsd_nats"], jensenshannon(p, q, axis=-1) ** 2, atol=1e-6)


def test_bounds_hold_on_every_row(base, tuned):
    table = divergence(base, tuned, prompts(), distance=True).table
    tv, jsd = table["total_variation"], table["jsd_nats"]
    assert (tv**2 / 2 <= jsd + 1e-7).all() and (jsd <= np.log(2) * tv + 1e-7).all()
    np.testing.assert_allclose(table["js_distance"] ** 2, jsd)
    assert table["js_distance"].max() <= 0.832555


def test_a_change_in_block_1_is_first_seen_at_layer_1(folders):
    base, tuned = (Model.load(folders / "checkpoint-0", check=False) for _ in range(2))
    with torch.no_grad():
        for name, weight in tuned.weights().items():
            if ".1.mlp.down_proj" in name:
                weight.mul_(3.0)
    curve = divergence(base, tuned, prompts()).data["jsd_nats"].mean(["group", "answer_kind"])
    assert float(curve.sel(layer=0)) == 0.0 and float(curve.sel(layer=1)) > 1e-3


def test_a_changed_head_is_seen_with_own_heads_and_not_with_a_shared_one(folders):
    base, tuned = (Model.load(folders / "checkpoint-0", check=False) for _ in range(2))
    with torch.no_grad():
        tuned.weights()["lm_head.weight"].mul_(1.5)
    assert (divergence(base, tuned, prompts(), head="base").table["jsd_nats"] == 0).all()
    assert (divergence(base, tuned, prompts(), head="own").table["jsd_nats"] > 0).all()


def test_padding_is_not_counted(base, tuned):
    """Batch size and padding side change no row; pos counts an item's own tokens."""
    alone = divergence(base, tuned, prompts(), batch_size=1).table
    together = divergence(base, tuned, prompts(), batch_size=5).table
    assert (alone["pos"].to_numpy() == together["pos"].to_numpy()).all()
    np.testing.assert_allclose(alone["jsd_nats"], together["jsd_nats"], atol=1e-5)
    assert alone.groupby("item")["pos"].min().eq(0).all()


def test_positions_choose_spans(base, tuned):
    whole = divergence(base, tuned, prompts()).table
    parts = [divergence(base, tuned, prompts(), positions=p).table for p in ("prompt", "answer")]
    assert len(whole) == sum(map(len, parts)) and set(parts[1]["span"]) == {"answer"}


def test_memory_does_not_grow_with_layers_or_tokens(base, tuned, monkeypatch):
    """No call of the head sees more rows than a chunk, whatever layers x tokens is."""
    seen: list[int] = []
    for model in (base, tuned):
        real = model.unembed
        monkeypatch.setattr(model, "unembed", lambda x, real=real: (seen.append(len(x)), real(x))[1])
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 8)
    divergence(base, tuned, prompts(), batch_size=5)
    assert max(seen) == 8 and len(seen) > 2 * base.shape.n_layers


def test_aggregate_is_token_mean_then_item_mean(base, tuned):
    result = divergence(base, tuned, prompts())
    rows = result.table[(result.table["layer"] == 1) & (result.table["group"] == "leak")]
    expected = rows.groupby("item")["jsd_nats"].mean().mean()
    cell = result.data.sel(layer=1, group="leak", answer_kind="given")
    assert float(cell["jsd_nats"]) == pytest.approx(expected) and int(cell["jsd_nats_n"]) == 2
    assert result.data["jsd_by_class_nats"].dims == ("layer", "group", "answer_kind", "token_class")
    assert set(module.figures(result)) == {"jsd_nats", "total_variation", "by_class"}


def test_checkpoints_of_different_depth_are_refused(base, tmp_path):
    other = Model.load(tiny.save(tmp_path / "deep", num_hidden_layers=4), check=False)
    with pytest.raises(InputError, match="base has n_layers 3 and tuned 4"):
        divergence(base, other, prompts())


def test_a_broken_state_is_named(folders):
    base, tuned = (Model.load(folders / "checkpoint-0", check=False) for _ in range(2))
    with torch.no_grad():
        tuned.weights()["model.layers.1.mlp.down_proj.weight"][0, 0] = torch.inf
    with pytest.raises(InputError, match=r"checkpoint-0: resid_post\.1 is not finite"):
        divergence(base, tuned, prompts())
