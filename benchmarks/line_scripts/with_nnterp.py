"""Those of the ten tasks that nnterp has calls of its own for, as its guide has them."""

from __future__ import annotations

import nnsight
import torch
from given import HEAD, LAYER, NEW, PAIRS, TEXT, Folders, serve
from nnterp import StandardizedTransformer


def main(at: Folders) -> None:
    """Serve the tasks."""
    model, tuned = (StandardizedTransformer(f, enable_attention_probs=True) for f in (at.base, at.tuned))

    def direction():
        with torch.no_grad(), model.trace([p[0] for p in PAIRS]):
            more = model.layers_output[LAYER][:, -1].save()
        with torch.no_grad(), model.trace([p[1] for p in PAIRS]):
            less = model.layers_output[LAYER][:, -1].save()
        return (more - less).mean(0)

    def steered_completion():
        vector = direction()
        with model.generate(TEXT, max_new_tokens=NEW, do_sample=False) as tracer:
            with tracer.iter[:NEW]:
                model.steer(LAYER, vector, factor=4)
            out = tracer.result.save()
        return out[0, -NEW:]

    def lens_table():
        with torch.no_grad(), model.trace(TEXT):
            tops = nnsight.save([])
            tops.append(model.project_on_vocab(model.layers_input[0])[0].argmax(-1))
            for layer in range(model.num_layers):
                tops.append(model.project_on_vocab(model.layers_output[layer])[0].argmax(-1))
        return torch.stack(tops)

    def attention():
        with torch.no_grad(), model.trace(TEXT):
            pattern = model.attention_probabilities[LAYER].save()
        return pattern[0]

    def head_ablation():
        size = model.config.head_dim
        with torch.no_grad(), model.trace(TEXT):
            model.layers[LAYER].self_attn.o_proj.input[:, :, HEAD * size : (HEAD + 1) * size] = 0
            logits = model.logits.save()
        return logits[0, -1]

    def cached_residuals():
        with torch.no_grad(), model.trace(TEXT):
            states = nnsight.save([])
            for layer in range(model.num_layers):
                states.append(model.layers_output[layer][0])
        return torch.stack(states)

    def two_checkpoints():
        with torch.no_grad(), model.trace(TEXT):
            q = model.logits[0].log_softmax(-1).save()
        with torch.no_grad(), tuned.trace(TEXT):
            p = tuned.logits[0].log_softmax(-1).save()
        return (p.exp() * (p - q)).sum(-1)

    serve(locals())


if __name__ == "__main__":
    main(Folders.given())
