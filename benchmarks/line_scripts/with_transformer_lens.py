"""Ten tasks with TransformerLens 4, as its guide has them."""

# ruff: noqa: ARG001, ARG005  a hook takes the hook point by name
from __future__ import annotations

import torch
from given import CLEAN, CORRUPT, HEAD, LAYER, NEW, PAIRS, TEXT, TEXTS, Folders, serve, targets
from transformer_lens.model_bridge import TransformerBridge


def main(at: Folders) -> None:
    """Serve the tasks."""
    model, tuned = (TransformerBridge.boot_transformers(f) for f in (at.base, at.tuned))
    right, wrong = targets()
    resid = "blocks.{}.hook_resid_post".format

    def direction():
        states = []
        for side in (0, 1):
            caches = [model.run_with_cache(pair[side])[1] for pair in PAIRS]
            states.append(torch.stack([cache[resid(LAYER)][0, -1] for cache in caches]))
        return (states[0] - states[1]).mean(0)

    def steered_completion():
        vector = direction()
        with model.hooks([(resid(LAYER), lambda x, hook: x + 4 * vector)]):
            ids = model.generate(TEXT, max_new_tokens=NEW, do_sample=False, return_type="tokens", verbose=False)
        return ids[0, -NEW:]

    def lens_table():
        _, cache = model.run_with_cache(TEXT)
        states = [cache["blocks.0.hook_resid_pre"], *(cache[resid(n)] for n in range(model.cfg.n_layers))]
        return torch.stack([model.unembed(model.ln_final(x))[0].argmax(-1) for x in states])

    def patching_map():
        ids = [model.to_tokens(CLEAN + t)[0, -1] for t in (right, wrong)]
        clean, corrupt = model.to_tokens(CLEAN), model.to_tokens(CORRUPT)
        logits, cache = model.run_with_cache(clean)

        def score(x):
            return x[0, -1, ids[0]] - x[0, -1, ids[1]]

        high, low = score(logits), score(model(corrupt))
        out = torch.zeros(model.cfg.n_layers, clean.shape[1])
        for layer in range(model.cfg.n_layers):
            for pos in range(clean.shape[1]):

                def put(x, hook, pos=pos):
                    x = x.clone()
                    x[:, pos] = cache[hook.name][:, pos]
                    return x

                out[layer, pos] = (score(model.run_with_hooks(corrupt, fwd_hooks=[(resid(layer), put)])) - low) / (
                    high - low
                )
        return out

    def attention():
        _, cache = model.run_with_cache(TEXT)
        return cache["pattern", LAYER][0]

    def head_ablation():
        def off(x, hook):
            x = x.clone()
            x[:, :, HEAD] = 0
            return x

        return model.run_with_hooks(TEXT, fwd_hooks=[(f"blocks.{LAYER}.attn.hook_z", off)])[0, -1]

    def cached_residuals():
        _, cache = model.run_with_cache(TEXT)
        return torch.stack([cache[resid(n)][0] for n in range(model.cfg.n_layers)])

    def two_checkpoints():
        q, p = (m(TEXT)[0].log_softmax(-1) for m in (model, tuned))
        return (p.exp() * (p - q)).sum(-1)

    def generation_under_edits():
        with model.hooks([(f"blocks.{LAYER}.hook_mlp_out", lambda x, hook: x + 1)]):
            return model.generate(TEXTS, max_new_tokens=NEW, do_sample=False, return_type="tokens", verbose=False)[
                :, -NEW:
            ]

    def attribution():
        kept = {}
        hooks = [(resid(n), lambda x, hook: kept.setdefault(hook.name, x)) for n in range(model.cfg.n_layers)]
        logits = model.run_with_hooks(TEXT, fwd_hooks=hooks)
        grads = torch.autograd.grad(logits[0, -1].max(), list(kept.values()))
        return torch.stack([(g * x).sum(-1)[0] for g, x in zip(grads, kept.values(), strict=True)])

    def last_states_of_a_batch():
        _, cache = model.run_with_cache(TEXTS, prepend_bos=False)
        return torch.stack([cache[resid(n)][:, -1] for n in range(model.cfg.n_layers)])

    serve(locals())


if __name__ == "__main__":
    main(Folders.given())
