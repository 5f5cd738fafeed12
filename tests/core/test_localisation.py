"""The arithmetic of the rule: contrasts, widths, draws; the rule itself is tested with anchor_adapter."""

import numpy as np
import pytest

from analyses.states import _window_rule as localisation
from probe.errors import InputError


def test_window_contrast_by_definition():
    values = np.random.default_rng(0).normal(size=(3, 9))
    found = localisation.window_contrasts(values, 3)
    for w in range(7):
        inside = values[:, w : w + 3]
        outside = np.delete(values, range(w, w + 3), axis=1)
        np.testing.assert_allclose(found[:, w], inside.mean(1) - outside.mean(1))
    np.testing.assert_allclose(localisation.window_contrasts(np.full((2, 9), 7.0), 3), 0, atol=1e-12)


def test_a_window_as_wide_as_the_model_has_no_outside():
    with pytest.raises(InputError, match="does not fit 3 layers"):
        localisation.window_contrasts(np.zeros((2, 3)), 3)


def test_a_drawn_curve_is_read_like_an_item_curve():
    """A curve with its own null and bootstrap: a clear bump is significant, a flat one is not, zeros have t 0."""
    rng = np.random.default_rng(0)
    null, boot = rng.normal(size=(500, 10)), rng.normal(size=(500, 10))
    bump = np.zeros(10)
    bump[4] = 8.0
    is_first = np.arange(12) < 6
    curves = {
        "bump": localisation.DrawnCurve(bump, null, bump + boot),
        "flat": localisation.DrawnCurve(np.full(10, 8.0), null, 8.0 + boot),
        "zero": localisation.DrawnCurve(np.zeros(10), np.zeros((500, 10)), np.zeros((500, 10))),
    }
    found = localisation.families(curves, is_first, width=1, draws=50)
    assert found["bump"].best == 4 and found["bump"].p < 0.01 and found["bump"].is_raised(4)
    assert found["flat"].p > 0.5 and not found["flat"].is_raised(found["flat"].best)
    assert (found["zero"].t == 0).all() and found["zero"].p == 1.0 and (found["zero"].argmax == -1).all()
