"""Intervals and tests over items; imports nothing of this project but its errors.

Names are imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    "Estimate",
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
_HOME = {
    "Alternative": "significance",
    "CELLS_AT_ONCE": "estimates",
    "Estimate": "estimates",
    "MaxT": "significance",
    "bootstrap_argmax": "significance",
    "bootstrap_mean": "estimates",
    "bootstrap_ratio": "estimates",
    "change_points": "significance",
    "divide": "resampling",
    "estimate": "estimates",
    "group_difference": "estimates",
    "has_series": "paired",
    "holm": "significance",
    "mcnemar_exact": "significance",
    "members_of": "resampling",
    "n_arrangements": "resampling",
    "paired_difference": "estimates",
    "permutation_max_t": "significance",
    "permuted_labels": "resampling",
    "resample_counts": "resampling",
    "sign_flip": "significance",
    "sign_flip_max_t": "significance",
    "since": "paired",
    "two_sample_t": "resampling",
    "wilson": "estimates",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
