"""Device maps and half precision: the same numbers wherever the blocks lie, metrics in float32."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import analyses
from analyses.core.running.inputs import Loading
from probe import InputError, Item, Model, Prompts
from tests import tiny

PROMPTS = Prompts(
    tuple(Item(f"q{i}", f"what is {i} plus {3 * i} ?", f"ans {4 * i}", group="ab"[i % 2]) for i in range(4))
)
ENDS = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
OFFLOADED = {**ENDS, "model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "disk"}


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.series(tmp_path_factory.mktemp("placed"), steps=(0, 10))


@pytest.fixture(scope="module")
def folder(series: Path) -> Path:
    return series / "checkpoint-0"


@pytest.fixture(scope="module")
def plain(folder: Path) -> Model:
    return Model.load(folder)


@pytest.mark.parametrize("backend", ["transformer_lens", "nnsight"])
@pytest.mark.parametrize("placed", [{"": "cpu"}, "auto", OFFLOADED], ids=["one", "auto", "disk"])
def test_a_map_changes_nothing(folder: Path, plain: Model, backend: str, placed: dict[str, str] | str) -> None:
    model = Model.load(folder, backend=backend, device_map=placed, check=placed == OFFLOADED)
    batch = plain.batches(PROMPTS)[0]
    sites = ["resid_post.2", "mlp_post.1", "pattern.1"]
    want, got = plain.run(batch, read=sites), model.run(batch, read=sites)
    assert torch.allclose(got.logits, want.logits, atol=1e-6)
    assert all(torch.allclose(got[s], want[s], atol=1e-6) for s in sites)


def test_replay_through_offloaded_blocks(series: Path, plain: Model) -> None:
    """Patching recomputes blocks whose weights come from disk for each of their passes."""
    from analyses.core.reading.patch_gates import gate
    from probe import patch
    from probe.replay import Clean, answer_logprob, clean_metric, replay

    batch = plain.batches(PROMPTS)[0]
    metric = answer_logprob(batch)
    found = []
    for placed in (None, OFFLOADED):
        base, tuned = (Model.load(series / f"checkpoint-{n}", device_map=placed, check=False) for n in (0, 10))
        target, source = Clean(base, batch), Clean(tuned, batch)
        edits = [patch(s, source.value(base.site(s)), "all_prompt") for s in ("attn_out.1", "mlp_out.0", "resid_pre.2")]
        gate(target, metric, edits)
        found.append((replay(target, edits, metric), clean_metric(target, metric)))
    for want, got in zip(*found, strict=True):
        assert torch.allclose(want, got, atol=1e-6)


def test_offloaded_weights_are_not_read(folder: Path, series: Path) -> None:
    model = Model.load(folder, device_map=OFFLOADED, check=False)
    with pytest.raises(InputError, match="offloaded"):
        model.weights()
    with pytest.raises(InputError, match="offloaded"):
        model.swap(series / "checkpoint-10")


def test_the_head_must_be_on_a_device(folder: Path) -> None:
    with pytest.raises(InputError, match="only blocks can be"):
        Model.load(folder, device_map={**ENDS, "lm_head": "disk", "model.layers": "cpu"})


def test_from_the_command_line(folder: Path, series: Path) -> None:
    """`--device` takes a map, and with one checkpoint at a time a pair is read through offloaded blocks."""
    placed = Loading(device=json.dumps(OFFLOADED), hold="one")
    inputs = {"base": folder, "tuned": series / "checkpoint-10", "prompts": PROMPTS}
    got = analyses.run("divergence", loading=placed, **inputs)
    want = analyses.run("divergence", **inputs)
    assert np.allclose(got.table["jsd_nats"], want.table["jsd_nats"], atol=1e-6)
    with pytest.raises(InputError, match="neither a device"):
        _ = Loading(device="{cpu").placement


def test_metrics_of_a_half_precision_model_are_float32(folder: Path) -> None:
    """In bfloat16 the weights and states are rounded, the metric is not: it is float32's on the same logits."""
    model = Model.load(folder, dtype="bfloat16")
    table = analyses.run("perplexity", model=model, prompts=PROMPTS, batch_size=1).table
    answers = table[table["mask"] == "full"].set_index("item")["nll_nats"]
    for batch in model.batches(PROMPTS, batch_size=1):
        logits = model.run(batch).logits
        assert logits is not None and logits.dtype == torch.bfloat16
        log_p = logits.double().log_softmax(-1)[0, :-1]
        exact = -log_p.gather(-1, batch.ids[0, 1:, None]).sum()
        rounded = -logits.log_softmax(-1)[0, :-1].gather(-1, batch.ids[0, 1:, None]).sum()
        value = answers[batch.items[0].id]
        assert abs(value - float(exact)) < 1e-4 * float(exact)
        assert abs(float(rounded) - float(exact)) > 1e-4 * float(exact)  # bfloat16's own would be off by more
