"""Intervals and tests over items; imports nothing of this project but its errors, and never torch."""

from analyses.core.stats.estimates import (
    Estimate,
    estimate,
    group_difference,
    mean_of_items,
    paired_difference,
    ratio_of_sums,
    widened,
    wilson,
)
from analyses.core.stats.intervals import percentiles
from analyses.core.stats.max_t import Alternative, MaxT, group_max_t, mean_max_t
from analyses.core.stats.resampling import (
    Array,
    Labels,
    clusters_of,
    divide,
    members_of,
    n_arrangements,
    permuted_labels,
    resample_counts,
    subsample_interval,
    subsamples,
    two_sample_t,
)
from analyses.core.stats.significance import change_points, holm, mcnemar_exact, sign_flip

__all__ = [
    "Alternative",
    "Array",
    "Estimate",
    "Labels",
    "MaxT",
    "change_points",
    "clusters_of",
    "divide",
    "estimate",
    "group_difference",
    "group_max_t",
    "holm",
    "mcnemar_exact",
    "mean_max_t",
    "mean_of_items",
    "members_of",
    "n_arrangements",
    "paired_difference",
    "percentiles",
    "permuted_labels",
    "ratio_of_sums",
    "resample_counts",
    "sign_flip",
    "subsample_interval",
    "subsamples",
    "two_sample_t",
    "widened",
    "wilson",
]
