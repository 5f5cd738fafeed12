"""The linear probe as it was published: all dimensions, one split, C = 1, no covariates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from analyses.core import legacy
from probe.lazily import sklearn

if TYPE_CHECKING:
    from analyses.core.reading.pooled import States


def published(states: States, is_first: np.ndarray) -> xr.Dataset:
    """`legacy_auc` over `state`, beside the nested one (released code of arXiv 2601.11061).

    A standardised logistic regression with C = 1 and balanced classes on four fifths of the items, its AUC on the rest.
    With more dimensions than items every training set is separable, and one split has no interval: none is given.
    """
    split = sklearn.model_selection.train_test_split
    train, test = split(np.arange(len(is_first)), test_size=0.2, random_state=42, stratify=is_first)
    found: list[float] = []
    for state in range(states.n_layers + 1):
        x = states.layer(state)
        scaler = sklearn.preprocessing.StandardScaler().fit(x[train])
        fit = sklearn.linear_model.LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000)
        fit.fit(scaler.transform(x[train]), is_first[train])
        odds = fit.decision_function(scaler.transform(x[test]))
        found.append(float(sklearn.metrics.roc_auc_score(is_first[test], odds)))
    return legacy.beside("auc", found, ["state"], len(test), "fraction", "AUC of the published probe: one split, C = 1")
