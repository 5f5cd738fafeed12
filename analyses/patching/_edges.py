"""The edges of a model's graph: what each part writes, what each part reads, and what every edge contributes.

A node writes to the residual stream (the embedding, a head, an MLP); a receiver reads it (`_receivers`). An edge is a
node and a receiver behind it. Its contribution is what the metric loses if the receiver reads the corrupt run's write.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from analyses.patching._paths import Paths, Receiver, post_norm, reaches
from analyses.patching._receivers import gradients, receivers
from probe import patch
from probe.errors import InputError
from probe.replay import Clean, answer_logprob, clean_metric, replay
from probe.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from probe import Edit, Model, TokenBatch

    Cells = Float[np.ndarray, "item sender receiver"]

AT_ONCE = 64  # edges replayed together


@dataclass(frozen=True)
class Graph:
    """Nodes that write and receivers that read, of one architecture."""

    senders: tuple[Site, ...]
    receivers: tuple[Receiver, ...]
    exists: Bool[np.ndarray, "sender receiver"]

    @classmethod
    def of(cls, model: Model) -> Graph:
        """Every edge: the embedding, every head's output and every MLP, to all that reads the stream behind it.

        Raises:
            InputError: a family whose heads' writes cannot be told apart.
        """
        shape = model.shape
        sent = [Site("embed")]
        for layer in range(shape.n_layers):
            sent += [*(Site("z", layer, head) for head in range(shape.n_heads)), Site("mlp_out", layer)]
        read = receivers(model)
        parallel = not model.sites("resid_mid")
        exists = np.array([[reaches(s, r, parallel) for r in read] for s in sent])
        return cls(tuple(sent), tuple(read), exists)

    @property
    def n_edges(self) -> int:
        return int(self.exists.sum())

    @property
    def names(self) -> tuple[list[str], list[str]]:
        """Senders and receivers as tables name them: `embed`, `head.2.5`, `mlp.3`, `q.4.1`, `final`."""
        return [named(s) for s in self.senders], [str(r) for r in self.receivers]


def named(sender: Site) -> str:
    """A node's name."""
    parts = {"z": "head", "mlp_out": "mlp"}.get(sender.kind, sender.kind), sender.layer, sender.head
    return ".".join(str(p) for p in parts if p is not None)


class Runs:
    """One checkpoint's clean and corrupt runs of one batch."""

    def __init__(self, model: Model, graph: Graph, clean: TokenBatch, corrupt: TokenBatch) -> None:
        self.graph, self.metric = graph, answer_logprob(clean)
        self.clean, self.corrupt = Clean(model, clean), Clean(model, corrupt)
        if post_norm(self.clean):
            raise InputError(
                f"this {model.shape.family} model norms what attention adds, so its heads' writes do not add up and a "
                "graph of heads is not defined; path_patching takes its heads one at a time"
            )
        self.paths = Paths(self.clean, self.corrupt, self.clean.batch.mask)

    @cached_property
    def values(self) -> tuple[np.ndarray, np.ndarray]:
        """The metric of the clean and of the corrupt run [item]."""
        clean, corrupt = (clean_metric(run, self.metric).numpy().astype(float) for run in (self.clean, self.corrupt))
        return clean, corrupt

    def scores(self, steps: int) -> Cells:
        """First-order contribution of every edge; NaN where there is none.

        (u(clean) - u(corrupt)) x dM/d(what the receiver reads), summed over positions and coordinates: the gradient of
        the clean run, or the mean over `steps` runs whose embeddings lie between corrupt (0) and clean (1), at the
        midpoints of equal parts (the paper takes their upper ends).
        """
        first, last = self.corrupt.inputs[0], self.clean.inputs[0]
        shares = [1.0] if steps == 1 else [(k + 0.5) / steps for k in range(steps)]
        slopes = gradients(self.clean, self.metric, [first + a * (last - first) for a in shares])
        home = slopes.device
        writes = torch.stack([-self.paths.write(s).to(home) for s in self.graph.senders])
        found = torch.einsum("sipd,ripd->isr", writes, slopes).double().cpu().numpy()
        return np.where(self.graph.exists, found, np.nan)

    def exact(self, edges: Sequence[tuple[int, int]]) -> Float[np.ndarray, "edge item"]:
        """Exact contribution of edges (sender, receiver by number; receiver -1: the node with all of its edges)."""
        return np.concatenate(list(self._replayed(edges))) if edges else np.empty((0, len(self.clean.batch)))

    def _replayed(self, edges: Sequence[tuple[int, int]]) -> Iterator[np.ndarray]:
        for first in range(0, len(edges), AT_ONCE):
            edits = [self._edit(*edge) for edge in edges[first : first + AT_ONCE]]
            yield self.values[0] - replay(self.clean, edits, self.metric).numpy().astype(float)

    def _edit(self, sender: int, receiver: int) -> Edit:
        sent = self.graph.senders[sender]
        if receiver >= 0:
            return self.paths.edit(sent, self.graph.receivers[receiver])
        site = Site("resid_pre", 0) if sent.kind == "embed" else sent
        return patch(site, self.corrupt.value(site))
