"""Intervals and tests over items; imports nothing of this project but its errors, and never torch."""

from analyses.core.stats.estimates import (
    CELLS_AT_ONCE,
    Estimate,
    bootstrap_mean,
    bootstrap_ratio,
    estimate,
    group_difference,
    paired_difference,
    wilson,
)
from analyses.core.stats.paired import (
    has_series,
    since,
)
from analyses.core.stats.resampling import (
    Array,
    Labels,
    divide,
    members_of,
    n_arrangements,
    permuted_labels,
    resample_counts,
    two_sample_t,
)
from analyses.core.stats.significance import (
    Alternative,
    MaxT,
    bootstrap_argmax,
    change_points,
    holm,
    mcnemar_exact,
    permutation_max_t,
    sign_flip,
    sign_flip_max_t,
)

__all__ = [
    "CELLS_AT_ONCE",
    "Alternative",
    "Array",
    "Estimate",
    "Labels",
    "MaxT",
    "bootstrap_argmax",
    "bootstrap_mean",
    "bootstrap_ratio",
    "change_points",
    "divide",
    "estimate",
    "group_difference",
    "has_series",
    "holm",
    "mcnemar_exact",
    "members_of",
    "n_arrangements",
    "paired_difference",
    "permutation_max_t",
    "permuted_labels",
    "resample_counts",
    "sign_flip",
    "sign_flip_max_t",
    "since",
    "two_sample_t",
    "wilson",
]
