"""List columns of Arrow tables as arrays, end to end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

Array = np.ndarray
pc: Any = pyarrow.compute  # its functions are made at import: no stub knows them


def is_list(kind: object) -> bool:
    """True for a list type of any width."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def lengths(table: pa.Table, name: str) -> Array:
    """Number of entries of each row of a list column; -1 where the row is null."""
    return pc.fill_null(pc.list_value_length(table[name]), -1).to_numpy().astype(np.int64)


def flat(table: pa.Table, name: str) -> Array:
    """The values of a list column, end to end; null rows have none."""
    column = table[name]
    values = pc.list_flatten(column)
    return values.to_numpy() if isinstance(values, pa.ChunkedArray) else values.to_numpy(zero_copy_only=False)
