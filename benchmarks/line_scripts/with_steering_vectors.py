"""Those of the ten tasks that steering-vectors is for, as its guide has them."""

from __future__ import annotations

import torch
from given import LAYER, NEW, PAIRS, TEXT, Folders, serve
from steering_vectors import train_steering_vector
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(at: Folders) -> None:
    """Serve the tasks."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(at.base), AutoTokenizer.from_pretrained(at.base)

    def direction():
        return train_steering_vector(model, tokenizer, PAIRS, layers=[LAYER]).layer_activations[LAYER]

    def steered_completion():
        vector = train_steering_vector(model, tokenizer, PAIRS, layers=[LAYER])
        with vector.apply(model, multiplier=4), torch.no_grad():
            ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
            return model.generate(ids, max_new_tokens=NEW, do_sample=False)[0, -NEW:]

    serve(locals())


if __name__ == "__main__":
    main(Folders.given())
