"""Logit lens: the last layer is the model itself; an answer written into one block appears there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from analyses.core.running.run import run
from probe import InputError, Item, Model, Prompts
from tests import tiny


def test_the_last_layer_is_the_models_own_log_probability(base: Model, prompts: Prompts) -> None:
    lens = run("logit_lens", model=base, prompts=prompts).table
    last = lens[lens["layer"] == base.shape.n_layers - 1]
    own = run("perplexity", model=base, prompts=prompts).table
    own = own[own["mask"] == "answer"].set_index("item")["nll_nats"]
    np.testing.assert_allclose(-last.groupby("item")["logprob_nats"].sum()[own.index], own, rtol=1e-5)


def test_rows_name_the_position_that_was_read(base: Model) -> None:
    item = Item("q", "what is 3 plus 7 ?", "ans 10")
    n_prompt, n_answer = (
        len(base.tokenizer(t, add_special_tokens=False)["input_ids"]) for t in (item.prompt, item.answer)
    )
    table = run("logit_lens", model=base, prompts=Prompts((item,))).table
    first = table[table["layer"] == 0]
    assert first["pos"].tolist() == list(range(n_prompt - 1, n_prompt + n_answer - 1))
    assert first["target"].tolist() == base.tokenizer(item.answer, add_special_tokens=False)["input_ids"]


def test_rank_top_k_and_entropy_agree_with_materialised_logits(base: Model, prompts: Prompts) -> None:
    table = run("logit_lens", model=base, prompts=prompts, top_k=3).table
    (batch,) = base.batches(prompts, batch_size=len(prompts.items))
    trace = base.run(batch, read=["resid_post.1"])
    row = table[(table["layer"] == 1)].iloc[0]
    index = [i.id for i in batch.items].index(row["item"])
    resid = trace["resid_post.1"][index, int(batch.offsets[index]) + row["pos"]]
    logp = base.unembed(resid[None])[0].double().log_softmax(-1)
    assert row["logprob_nats"] == pytest.approx(float(logp[row["target"]]), abs=1e-5)
    assert row["rank"] == int((logp > logp[row["target"]]).sum())
    assert list(row["top_ids"]) == logp.topk(3).indices.tolist()
    assert row["entropy_nats"] == pytest.approx(float(-(logp.exp() * logp).sum()), abs=1e-4)


def test_an_answer_planted_in_one_mlp_appears_at_that_layer(tmp_path: Path) -> None:
    """Block 1's MLP adds the unembedding of the answer; the lens must jump from block 0 to block 1, not before."""
    from transformers import AutoModelForCausalLM

    folder = tiny.save(tmp_path, tie_word_embeddings=False)
    hf = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = tiny.tokenizer()
    target = tokenizer(" ans", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        for layer in hf.model.layers:
            layer.mlp.down_proj.weight.zero_()
            layer.self_attn.o_proj.weight.zero_()
        mlp = hf.model.layers[1].mlp
        mlp.gate_proj.weight.zero_()
        mlp.gate_proj.weight[0] = 1.0
        mlp.up_proj.weight[0] = mlp.gate_proj.weight[0]
        # act(g) * g >= 0 for the one live neuron: its sign is the same on every token.
        mlp.down_proj.weight[:, 0] = 50 * hf.lm_head.weight[target] / hf.lm_head.weight[target].norm()
    hf.save_pretrained(folder)
    prompts = Prompts((Item("q", "what is 3 plus 7 ?", " ans"), Item("r", "numbers 0 1 2", " ans")))
    table = run("logit_lens", model=Model.load(folder, check=False), prompts=prompts).table
    first = table[table["target"] == target].groupby("layer")["rank"].max()
    assert first[1] == 0
    assert first[2] == 0
    assert first[0] > 0, "before the block that holds it, the answer is not on top"


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_heads_alone_add_up_to_what_attention_writes(tmp_path: Path, prompts: Prompts, family: str) -> None:
    from analyses.states.logit_lens import _alone

    model = Model.load(tiny.save(tmp_path, family), check=False)
    (batch,) = model.batches(prompts.limit(2), batch_size=2)
    trace = model.run(batch, read=["z.1", "attn_out.1"], logits="none")
    heads = _alone(model, 1, trace["z.1"][0])
    bias = next((w for n, w in model.weights().items() if n.endswith("h.1.attn.c_proj.bias")), torch.tensor(0.0))
    torch.testing.assert_close(heads.sum(0) + bias, trace["attn_out.1"][0], rtol=1e-4, atol=1e-5)


def test_a_component_alone_is_read_whatever_its_size(base: Model, prompts: Prompts) -> None:
    own = run("logit_lens", model=base, prompts=prompts, site="mlp_out", top_k=0)
    (batch,) = base.batches(prompts.limit(1), batch_size=1)
    x = base.run(batch, read=["mlp_out.1"], logits="none")["mlp_out.1"][0]
    row = own.table.query("item == 'q00' and layer == 1").iloc[0]
    logp = base.unembed(x[row["pos"]]).log_softmax(-1)
    assert row["logprob_nats"] == pytest.approx(float(logp[row["target"]]), abs=1e-5)
    heads = run("logit_lens", model=base, prompts=prompts, site="head", top_k=0)
    assert heads.data["rank_log10"].dims == ("layer", "group", "answer_kind", "head")
    assert len(heads.table) == base.shape.n_heads * len(own.table)


def test_the_lens_under_an_edit(base: Model, prompts: Prompts) -> None:
    def last(**options: object) -> np.ndarray:
        return (
            run("logit_lens", model=base, prompts=prompts.limit(4), top_k=0, **options).table["logprob_nats"].to_numpy()
        )

    plain = last()
    np.testing.assert_array_equal(last(scaled=("mlp_post.1=1",)), plain)
    everything = last(scaled=("mlp_post.1=0",))
    np.testing.assert_allclose(last(scaled=("mlp_out.1=0",)), everything, atol=1e-5)
    some = ",".join(map(str, range(48)))
    np.testing.assert_allclose(last(scaled=(f"mlp_post.1[{some}]=0",)), everything, atol=1e-5)
    np.testing.assert_allclose(last(scaled=tuple(f"mlp_post.1[{some}]=0".split(","))), everything, atol=1e-5)
    layers = run("logit_lens", model=base, prompts=prompts.limit(4), top_k=0).table["layer"].to_numpy()
    np.testing.assert_array_equal(everything[layers == 0], plain[layers == 0])
    assert np.abs(everything - plain)[layers == 1].max() > 1e-3
    for bad in ("mlp_post.1", "mlp_post.1=x", "nowhere.1=2", "mlp_post.1[a]=2"):
        with pytest.raises(InputError):
            last(scaled=(bad,))
