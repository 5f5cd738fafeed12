"""A model run with some of its edges alone: every receiver reads the corrupt run, but for the edges that are kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch

from analyses.patching._paths import PARTS, Paths, Receiver, out_matrix
from probe.errors import ProbeError
from probe.replay import attention
from probe.replay.metric import of_rows
from probe.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from analyses.patching._edges import Runs

ROWS_AT_ONCE = 64


class Wired:
    """Circuits of one checkpoint's runs.

    What a receiver reads is its corrupt input plus, for every kept edge into it, how much more its sender writes in
    the circuit than in the corrupt run. All edges kept: the clean run; none: the corrupt one.
    """

    def __init__(self, runs: Runs) -> None:
        self.runs, self.graph = runs, runs.graph
        self.paths = Paths(runs.corrupt, runs.clean, runs.clean.batch.mask)

    def metric(self, kept: Bool[np.ndarray, "sender receiver"]) -> Float[np.ndarray, " item"]:
        """The metric of every item with these edges alone."""
        with torch.no_grad():
            return self._scored(_Pass(self, kept & self.graph.exists).last())

    def _scored(self, last: Tensor) -> np.ndarray:
        metric, decoder = self.runs.metric, self.runs.corrupt.decoder
        item, pos = metric.rows.to(last.device).nonzero(as_tuple=True)
        scores = of_rows(metric, decoder, last[item, pos], item, pos, ROWS_AT_ONCE).double().cpu().numpy()
        count = np.bincount(item.cpu().numpy(), minlength=len(last))
        return np.bincount(item.cpu().numpy(), scores, minlength=len(last)) / count

    def prove(self) -> None:
        """Prove that all edges give the clean run and no edge the corrupt one.

        Raises:
            ProbeError: the family computes something between parts that no edge stands for.
        """
        for kept, wanted in zip((self.graph.exists, self.graph.exists & False), self.runs.values, strict=True):
            off = float(np.nanmax(np.abs(self.metric(kept) - wanted)))
            allowed = 1e-3 if self.runs.corrupt.decoder.dtype == torch.float32 else 0.1
            if not off <= allowed:
                raise ProbeError(
                    f"gate: the graph with {'all' if kept.any() else 'none'} of its edges misses the model's metric "
                    f"by {off:.3g} nats (at most {allowed:g} is rounding): this {self.runs.clean.model.shape.family} "
                    "model computes something that no edge stands for, so faithfulness is not defined"
                )


class _Pass:
    """One pass through a circuit: how much more than in the corrupt run every node writes, block by block."""

    def __init__(self, of: Wired, kept: Bool[np.ndarray, "sender receiver"]) -> None:
        self.runs, self.paths, self.kept = of.runs, of.paths, kept
        self.number = {sender: n for n, sender in enumerate(of.graph.senders)}
        self.column = {receiver: n for n, receiver in enumerate(of.graph.receivers)}
        self.more = {Site("embed"): of.runs.clean.inputs[0] - of.runs.corrupt.inputs[0]}

    def last(self) -> Float[Tensor, "item pos d_model"]:
        """The last residual state."""
        for layer in range(self.runs.corrupt.n_layers):
            self._attention(layer)
            self.more[Site("mlp_out", layer)] = self._mlp(layer)
        return self.runs.corrupt.inputs[-1] + self._sum(Receiver("final"))

    def _sum(self, receiver: Receiver) -> Tensor:
        """What reaches a receiver beyond the corrupt run."""
        column = self.kept[:, self.column[receiver]]
        arriving = [more for sender, more in self.more.items() if column[self.number[sender]]]
        return sum(arriving, torch.zeros_like(self.runs.corrupt.inputs[0]))

    def _mlp(self, layer: int) -> Tensor:
        corrupt = self.runs.corrupt
        return self.paths.mlp(layer, self._sum(Receiver("mlp", layer))) - corrupt.value(Site("mlp_out", layer))

    def _attention(self, layer: int) -> None:
        corrupt = self.runs.corrupt
        decoder, call, x = corrupt.decoder, corrupt.calls[layer], corrupt.inputs[layer]
        q, k, v = (self._read(layer, part, heads) for part, heads in zip(PARTS, self._heads(layer), strict=True))
        attended = attention.attend(q, k, v, corrupt.bias(layer), *corrupt.scaling(layer)).transpose(1, 2)
        z, before = decoder.z_of(layer, x, call, attended), corrupt.value(Site("z", layer))
        for head, matrix in enumerate(out_matrix(corrupt, layer)):
            self.more[Site("z", layer, head)] = (z[:, :, head] - before[:, :, head]) @ matrix

    def _heads(self, layer: int) -> Iterable[int]:
        return (values.shape[1] for values in self.runs.corrupt.qkv[layer])

    def _read(self, layer: int, part: str, heads: int) -> Tensor:
        """All heads' queries, keys or values, each from what reaches it; heads with equal edges are read together."""
        corrupt, number = self.runs.corrupt, PARTS.index(part)
        out = corrupt.qkv[layer][number].clone()
        alike: dict[bytes, list[int]] = {}
        for head in range(heads):
            column = self.kept[:, self.column[Receiver(part, layer, head, part != "q")]]
            if column.any():
                alike.setdefault(column.tobytes(), []).append(head)
        for own in alike.values():
            x = corrupt.inputs[layer] + self._sum(Receiver(part, layer, own[0], part != "q"))
            out[:, own] = corrupt.decoder.projections(layer, x, corrupt.calls[layer])[number][:, own]
        return out
