"""The same work as a plain nnsight script: `python with_nnsight.py MODEL TOKENS FOLDER` (TOKENS: clean and corrupt).

As nnsight's guide has it: save the container, touch modules in the order they run, stop a trace that needs no more,
ask for one row of logits where one is read, or send all patches through one trace as invokes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nnsight
import numpy as np
import torch
from nnsight import TransformersModel
from serve import serve

TARGET, FOIL = 5, 9


def main(folder: Path, tokens: Path, out: Path) -> None:
    """Serve the ways of doing the work."""
    clean, corrupt = (torch.from_numpy(x) for x in np.load(tokens).values())
    model = TransformersModel(str(folder), task="text-generation", dispatch=True, dtype=torch.float32)
    layers, n_layers = model.model.layers, len(model.model.layers)
    cells = [(kind, n) for kind in ("resid_post", "attn_out", "mlp_out") for n in range(n_layers)]

    def record() -> dict[str, np.ndarray]:
        with torch.no_grad(), model.trace(clean):
            states = nnsight.save([])
            for layer in layers:
                states.append(layer.output)
            logits = model.output.logits.save()
        return {"states": torch.stack(states).numpy(), "last": logits[:, -1].numpy()}

    def record_stopped() -> dict[str, np.ndarray]:
        with torch.no_grad(), model.trace(clean) as tracer:
            states = nnsight.save([])
            for layer in layers:
                states.append(layer.output)
            tracer.stop()
        return {"states": torch.stack(states).numpy()}

    def sources() -> dict[tuple[str, int], torch.Tensor]:
        with torch.no_grad(), model.trace(clean) as tracer:
            attn, mlp, resid = nnsight.save([]), nnsight.save([]), nnsight.save([])
            for layer in layers:
                attn.append(layer.self_attn.output[0][:, -1])
                mlp.append(layer.mlp.output[:, -1])
                resid.append(layer.output[:, -1])
            tracer.stop()
        return {
            (kind, n): x
            for kind, found in (("attn_out", attn), ("mlp_out", mlp), ("resid_post", resid))
            for n, x in enumerate(found)
        }

    def put(kind: str, n: int, value: torch.Tensor) -> None:
        if kind == "attn_out":
            layers[n].self_attn.output[0][:, -1] = value
        elif kind == "mlp_out":
            layers[n].mlp.output[:, -1] = value
        else:
            layers[n].output[:, -1] = value

    def patch(**options: int) -> dict[str, np.ndarray]:
        values, found = sources(), []
        for kind, n in cells:
            with torch.no_grad(), model.trace(corrupt, **options):
                put(kind, n, values[kind, n])
                last = model.output.logits[:, -1].save()
            found.append(last[:, TARGET] - last[:, FOIL])
        return {"effects": torch.stack(found).numpy()}

    def patch_invokes() -> dict[str, np.ndarray]:
        values = sources()
        with torch.no_grad(), model.trace(logits_to_keep=1) as tracer:
            found = nnsight.save([])
            for kind, n in cells:
                with tracer.invoke(corrupt):
                    put(kind, n, values[kind, n])
                    last = model.output.logits[:, -1]
                    found.append(last[:, TARGET] - last[:, FOIL])
        return {"effects": torch.stack(found).numpy()}

    serve(
        {
            "record": record,
            "record_stopped": record_stopped,
            "patch": patch,
            "patch_one_row": lambda: patch(logits_to_keep=1),
            "patch_invokes": patch_invokes,
        },
        out,
    )


if __name__ == "__main__":
    main(*(Path(x) for x in sys.argv[1:]))
