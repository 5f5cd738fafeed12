"""The same work as a plain tuned-lens script: `python with_tuned_lens.py MODEL TOKENS FOLDER`.

As its tutorial has it: a logit lens from the model, a prediction trajectory for each sequence, statistics off it. No
tokenizer is handed over, so it makes no labels.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from serve import serve
from transformers import AutoModelForCausalLM
from tuned_lens.nn.lenses import LogitLens
from tuned_lens.plotting import PredictionTrajectory
from tuned_lens.stats import js_divergence, kl_divergence


def main(folder: Path, tokens: Path, out: Path) -> None:
    """Serve the ways of doing the work."""
    clean = next(iter(np.load(tokens).values()))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    lens = LogitLens.from_model(model)

    def read(*statistics: str) -> dict[str, np.ndarray]:
        found: dict[str, list[np.ndarray]] = {s: [] for s in statistics}
        for ids in clean:
            targets = np.append(ids[1:], 0)  # the last position has no next token: its values are not used
            trajectory = PredictionTrajectory.from_lens_and_model(lens, model, ids.tolist(), targets=targets.tolist())
            for s in statistics:
                found[s].append(getattr(trajectory, s)().stats[1:, :-1])  # state 0, the embedding, has no peer
        return {s: np.stack(x) for s, x in found.items()}

    def divergences() -> dict[str, np.ndarray]:
        found: dict[str, list[np.ndarray]] = {"jsd": [], "kl": [], "forward_kl": []}
        with torch.no_grad():
            for ids in clean:
                out = model(torch.from_numpy(ids)[None], output_hidden_states=True)
                layers = [lens.forward(h, i) for i, h in enumerate(out.hidden_states[1:-1])] + [out.logits]
                for name, function, swapped in (
                    ("jsd", js_divergence, False), ("kl", kl_divergence, False), ("forward_kl", kl_divergence, True)
                ):  # fmt: skip
                    pairs = [(out.logits, x) if swapped else (x, out.logits) for x in layers]
                    found[name].append(np.concatenate([function(p, q).numpy() for p, q in pairs])[:, :-1])
        return {name: np.stack(x) for name, x in found.items()}

    serve(
        {
            "lens": lambda: read("entropy", "cross_entropy"),
            "forward_kl": lambda: read("forward_kl"),
            "divergences": divergences,
        },
        out,
    )


if __name__ == "__main__":
    main(*(Path(x) for x in sys.argv[1:]))
