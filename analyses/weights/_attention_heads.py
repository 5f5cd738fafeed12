"""The parts of a stored attention matrix that belong to one head each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from analyses.weights import _names
from probe import families

if TYPE_CHECKING:
    from torch import Tensor


class HeadPart(NamedTuple):
    """q, k, v or o of one head: rows of the matrix as stored, or columns."""

    part: str
    head: int
    rows: list[int] | None
    columns: list[int] | None

    def of(self, weight: Tensor) -> Tensor:
        """This head's part of a weight."""
        return weight[self.rows] if self.rows is not None else weight[:, self.columns]


def head_parts(name: str, shape: tuple[int, ...], config: object) -> Iterator[HeadPart]:
    """Every head's part of a weight; none of one that is no attention matrix of heads (compressed keys, vectors)."""
    width = families.d_head(config)
    if len(shape) != 2 or not width or not name.endswith(".weight") or _names.layer_of(name) is None:
        return
    is_transposed = families.is_conv1d(config, name)  # stored [in, out]
    outputs = shape[1] if is_transposed else shape[0]
    inputs = shape[0] if is_transposed else shape[1]
    module = re.sub(r"^.*?(?:^|\.)\d+\.", "", name, count=1).removesuffix(".weight")
    last, part = module.rpartition(".")[2], families.part_of(module, in_block=True)
    split = families.split_heads(config, last, outputs) if last in families.FUSED else None
    if split is not None:
        for kind, where in split.items():
            yield from _chunks(kind, list(where), width, is_transposed)
    elif part in ("attn.q", "attn.k", "attn.v") and outputs % width == 0:
        yield from _chunks(part[-1], list(range(outputs)), width, is_transposed)
    elif part == "attn.o" and inputs == width * families.n_heads(config):
        yield from _chunks("o", list(range(inputs)), width, not is_transposed)


def _chunks(part: str, where: list[int], width: int, as_columns: bool) -> Iterator[HeadPart]:
    for head in range(len(where) // width):
        own = where[head * width : (head + 1) * width]
        yield HeadPart(part, head, None if as_columns else own, own if as_columns else None)
