"""Ten tasks with nnsight 0.8, as its guide has them."""

from __future__ import annotations

import nnsight
import torch
from given import CLEAN, CORRUPT, HEAD, LAYER, NEW, PAIRS, TEXT, TEXTS, Folders, serve, targets
from nnsight import LanguageModel


def main(at: Folders) -> None:
    """Serve the tasks."""
    model, tuned = (LanguageModel(f, dispatch=True, attn_implementation="eager") for f in (at.base, at.tuned))
    layers = model.model.layers
    right, wrong = targets()

    def direction():
        with torch.no_grad(), model.trace([p[0] for p in PAIRS]):
            more = layers[LAYER].output[:, -1].save()
        with torch.no_grad(), model.trace([p[1] for p in PAIRS]):
            less = layers[LAYER].output[:, -1].save()
        return (more - less).mean(0)

    def steered_completion():
        vector = direction()
        with model.generate(TEXT, max_new_tokens=NEW, do_sample=False) as tracer:
            with tracer.iter[:NEW]:
                layers[LAYER].output[:] = layers[LAYER].output + 4 * vector
            out = tracer.result.save()
        return out[0, -NEW:]

    def lens_table():
        with torch.no_grad(), model.trace(TEXT):
            tops = nnsight.save([])
            tops.append(model.lm_head(model.model.norm(layers[0].input))[0].argmax(-1))
            for layer in layers:
                tops.append(model.lm_head(model.model.norm(layer.output))[0].argmax(-1))
        return torch.stack(tops)

    def patching_map():
        ids = [model.tokenizer(CLEAN + t)["input_ids"][-1] for t in (right, wrong)]
        with torch.no_grad(), model.trace(CLEAN):
            states = nnsight.save([])
            for layer in layers:
                states.append(layer.output)
            high = (model.lm_head.output[0, -1, ids[0]] - model.lm_head.output[0, -1, ids[1]]).save()
        with torch.no_grad(), model.trace(CORRUPT):
            low = (model.lm_head.output[0, -1, ids[0]] - model.lm_head.output[0, -1, ids[1]]).save()
        out = torch.zeros(len(layers), states[0].shape[1])
        for n in range(len(layers)):
            for pos in range(states[0].shape[1]):
                with torch.no_grad(), model.trace(CORRUPT):
                    layers[n].output[:, pos] = states[n][:, pos]
                    got = (model.lm_head.output[0, -1, ids[0]] - model.lm_head.output[0, -1, ids[1]]).save()
                out[n, pos] = (got - low) / (high - low)
        return out

    def attention():
        with torch.no_grad(), model.trace(TEXT):
            pattern = layers[LAYER].self_attn.output[1].save()
        return pattern[0]

    def head_ablation():
        size = model.config.head_dim
        with torch.no_grad(), model.trace(TEXT):
            layers[LAYER].self_attn.o_proj.input[:, :, HEAD * size : (HEAD + 1) * size] = 0
            logits = model.lm_head.output.save()
        return logits[0, -1]

    def cached_residuals():
        with torch.no_grad(), model.trace(TEXT):
            states = nnsight.save([])
            for layer in layers:
                states.append(layer.output[0])
        return torch.stack(states)

    def two_checkpoints():
        with torch.no_grad(), model.trace(TEXT):
            q = model.lm_head.output[0].log_softmax(-1).save()
        with torch.no_grad(), tuned.trace(TEXT):
            p = tuned.lm_head.output[0].log_softmax(-1).save()
        return (p.exp() * (p - q)).sum(-1)

    def generation_under_edits():
        with model.generate(TEXTS, max_new_tokens=NEW, do_sample=False) as tracer:
            with tracer.iter[:NEW]:
                layers[LAYER].mlp.output[:] = layers[LAYER].mlp.output + 1
            out = tracer.result.save()
        return out[:, -NEW:]

    def attribution():
        with model.trace(TEXT):
            states = nnsight.save([])
            for layer in layers:
                states.append(layer.output)
            top = model.lm_head.output[0, -1].max().save()
        grads = torch.autograd.grad(top, states)
        return torch.stack([(g * x).sum(-1)[0] for g, x in zip(grads, states, strict=True)])

    def last_states_of_a_batch():
        with torch.no_grad(), model.trace(TEXTS):
            states = nnsight.save([])
            for layer in layers:
                states.append(layer.output[:, -1])
        return torch.stack(states)

    serve(locals())


if __name__ == "__main__":
    main(Folders.given())
