"""Ten tasks with posttrain-probe."""

from __future__ import annotations

import torch
from given import CLEAN, CORRUPT, HEAD, LAYER, NEW, PAIRS, TEXT, TEXTS, Folders, serve, targets

from probe import Model, add, compare, zero


def main(at: Folders) -> None:
    """Serve the tasks."""
    model, tuned = Model.load(at.base), Model.load(at.tuned)
    right, wrong = targets()

    def direction():
        return model.direction(PAIRS, layer=LAYER).vector

    def steered_completion():
        with model.steered(model.direction(PAIRS, layer=LAYER), 4):
            return model.generate(TEXT, max_new_tokens=NEW)[0].ids

    def lens_table():
        return model.lens(TEXT, top_k=1).top_ids[..., 0]

    def patching_map():
        return model.patch(CLEAN, CORRUPT, answers=(right, wrong))["resid_post"]

    def attention():
        return model.attention(TEXT, layer=LAYER).pattern

    def head_ablation():
        return model.run(TEXT, edits=[zero(f"z.{LAYER}.{HEAD}")]).logits[0, -1]

    def cached_residuals():
        return model.run(TEXT, read="resid_post").stack("resid_post")[:, 0]

    def two_checkpoints():
        return compare(model, tuned, TEXT).kl_nats[-1]

    def generation_under_edits():
        edit = add(f"mlp_out.{LAYER}", torch.ones(model.shape.d_model))
        return [c.ids for c in model.generate(TEXTS, edits=[edit], max_new_tokens=NEW)]

    def attribution():
        run = model.run(TEXT, read="resid_post", grad=True)
        grads = torch.autograd.grad(run.logits[0, -1].max(), list(run.activations.values()))
        return torch.stack([(g * x).sum(-1)[0] for g, x in zip(grads, run.activations.values(), strict=True)])

    def last_states_of_a_batch():
        return model.run(TEXTS, read="resid_post").stack("resid_post")[:, :, -1]

    serve(locals())


if __name__ == "__main__":
    main(Folders.given())
