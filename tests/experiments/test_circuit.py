"""Cross patching on the lab: the table is written from numbers, not read out of sentences."""

from __future__ import annotations

import json

import numpy as np
import xarray as xr

from experiments.circuit import report
from experiments.circuit.__main__ import differences


def test_the_readme_shows_the_committed_results():
    found = json.loads((report.FOLDER / "results.json").read_text())
    assert report.table(found) in (report.FOLDER / "README.md").read_text()


def test_the_clearest_difference_is_where_t_is_largest():
    dims = {
        "direction": ["tuned_to_base"],
        "answer_kind": ["gold_final"],
        "site": ["attn_out", "mlp_out"],
        "layer": [0, 1],
    }
    cells = {
        "contrast": [0.1, 0.9, -0.5, 0.0],
        "contrast_t": [1.0, 2.0, -7.0, 0.0],
        "contrast_p": [0.9, 0.2, 0.01, 1.0],
    }
    data = xr.Dataset({k: (tuple(dims), np.reshape(v, (1, 1, 2, 2))) for k, v in cells.items()}, dims)
    found = differences(data)["tuned_to_base"]
    assert found == {"at": "mlp_out.0", "value": -0.5, "p": 0.01}
    assert report.difference(found) == "mlp_out.0 (-0.5, p 0.01)"
    assert report.difference(found | {"p": 0.2}) == "none found (p 0.2)"
    assert report.difference(differences(data * np.nan)["tuned_to_base"]) == "not tested"
