"""Plotly figures with one look: units on every axis, intervals as bands, gaps where nothing was measured.

Input is what ``Result.summary()`` gives: tidy rows ``quantity, unit, <dims>, value, ci_low, ci_high, n``, filtered by
the caller. Columns named by ``x``, ``color``, ``dash`` and ``facet`` must tell every row apart; a plot that would
silently join rows of different kinds is an error. Every text that may come from a model or a data file is escaped.
"""

from analyses.core.figures.charts import auto, curve, forest, heatmap, scatter
from analyses.core.figures.labels import named_ends
from analyses.core.figures.layout import (
    HEIGHT,
    NEUTRAL,
    TEMPLATE,
    TOKENS_PER_ROW,
    X_ORDER,
    empty,
    keyed,
    mark,
    peaks,
    shade,
    star,
)
from analyses.core.figures.paths import paths
from analyses.core.figures.scales import color_scale
from analyses.core.figures.stages import explained, stage_shades
from analyses.core.figures.strips import tokens
from analyses.core.figures.traces import (
    PALETTE,
    as_text,
    axis_name,
    faint,
    plain,
    quantity_name,
    unit_name,
    value_name,
)
from probe.token_text import visible

__all__ = [
    "HEIGHT",
    "NEUTRAL",
    "PALETTE",
    "TEMPLATE",
    "TOKENS_PER_ROW",
    "X_ORDER",
    "as_text",
    "auto",
    "axis_name",
    "color_scale",
    "curve",
    "empty",
    "explained",
    "faint",
    "forest",
    "heatmap",
    "keyed",
    "mark",
    "named_ends",
    "paths",
    "peaks",
    "plain",
    "quantity_name",
    "scatter",
    "shade",
    "stage_shades",
    "star",
    "tokens",
    "unit_name",
    "value_name",
    "visible",
]
