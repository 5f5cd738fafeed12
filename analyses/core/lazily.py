"""Tables, arrays and their files, loaded when first used: a list of results needs none of them.

`from analyses.core.lazily import pandas as pd` at a file's head, as `probe.lazily` is for models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from probe.later import Later

__all__ = ["duckdb", "h5py", "pandas", "parquet", "pyarrow", "xarray"]

if TYPE_CHECKING:
    import duckdb
    import h5py
    import pandas
    import pyarrow
    import pyarrow.parquet as parquet
    import xarray
else:
    duckdb, h5py, pandas, pyarrow, xarray = map(Later, ("duckdb", "h5py", "pandas", "pyarrow", "xarray"))
    parquet = Later("pyarrow.parquet")
