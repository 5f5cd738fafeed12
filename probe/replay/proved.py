"""A clean run whose way of running edits is proved: only the rows an edit reaches, or whole forward passes."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch

from probe.errors import InputError
from probe.interventions import Edit
from probe.prompts import Item
from probe.replay.clean import CleanPass
from probe.replay.decoder import NotByRowsError
from probe.replay.engine import replay
from probe.replay.metric import Metric
from probe.replay.passes import whole_run
from probe.sites import Site
from probe.tokens import SPANS, Encoded, plan

if TYPE_CHECKING:
    from torch import Tensor, nn

    from probe.handle import Handle
    from probe.tokens import TokenBatch

_LENGTHS = (7, 4)
_PROVEN: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
"""Model -> why its blocks cannot be run on chosen rows, or nothing if they can."""


class Clean(CleanPass):
    """The unedited run of one batch, from which `replay` computes edited ones.

    Attributes:
        why_whole: why edited runs of this model are whole forward passes; empty where only rows after an edit are
            computed. Both give the same numbers (proved once per model on two short texts); whole passes take longer.
    """

    def _why_whole(self) -> str:
        plain = self.model.backend.plain
        if plain not in _PROVEN:
            _PROVEN[plain] = why_not_by_rows(self.model)
        return _PROVEN[plain]


def why_not_by_rows(model: Handle) -> str:
    """Why this model's blocks cannot be run on chosen rows; empty if they can.

    Two short texts are edited at the start, in the embedding and before the first block, and the edit's effect at
    their ends is computed both ways: through every block by rows, and in a whole pass.
    """
    try:
        clean = CleanPass(model, _short(model))
        metric = _last_row(clean.batch)
        edits = [Edit(Site(*site), _shifted, [0]) for site in (("resid_pre", 0), ("embed", None))]
        fast = replay(clean, edits, metric)
    except NotByRowsError as reason:
        return str(reason)
    except InputError:
        raise
    except (RuntimeError, TypeError, IndexError, KeyError, AttributeError, ValueError) as error:
        # What a family's own code says to a call on rows of many texts.
        return f"its blocks do not run on rows joined from several texts ({type(error).__name__})"
    rows = metric.rows.cpu()
    with torch.no_grad():
        whole = torch.stack([whole_run(clean, [edit], metric, rows, 64)[rows] for edit in edits])
    before = replay(clean, [()], metric)
    size = float((whole - before).abs().max())
    bound = (1e-3 if clean.decoder.dtype == torch.float32 else 0.2) * max(size, 1e-4)
    off = float((fast - whole).abs().max())
    return "" if off <= bound else "what a block does depends on more than its residual stream and its keys"


def _short(model: Handle) -> TokenBatch:
    prompt = SPANS.index("prompt")
    rows = [[(11 * n + 5 * i + 1) % model.shape.d_vocab for i in range(length)] for n, length in enumerate(_LENGTHS)]
    encoded = [Encoded(Item(str(n), "-", "-"), tuple(ids), (prompt,) * len(ids)) for n, ids in enumerate(rows)]
    return plan(encoded, len(encoded), "left", model.pad_id)[0]


def _last_row(batch: TokenBatch) -> Metric:
    """A few logits at each text's last token, mixed into one number."""
    rows = torch.zeros_like(batch.mask)
    rows[:, -1] = True

    def score(logits: Tensor, _item: Tensor, _pos: Tensor) -> Tensor:
        few = logits[:, :32].float()
        return few @ torch.linspace(-1.0, 1.0, few.shape[-1], device=few.device)

    return Metric("mixed logits", "logits", rows, score)


def _shifted(x: Tensor) -> Tensor:
    noise = torch.randn(x.shape[-1], generator=torch.Generator().manual_seed(2)).to(x)
    return x + noise * (x.float().std() + 0.1).to(x.dtype)
