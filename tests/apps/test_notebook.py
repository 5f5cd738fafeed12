"""Attention patterns in CircuitsVis form, for notebooks."""

from __future__ import annotations

import numpy as np
import pytest

from apps.notebook import attention
from probe.errors import InputError

pytest.importorskip("circuitsvis")
PATTERN = np.array([[[1.0, 0.0], [0.25, 0.75]]])


def test_pattern_is_shown_without_a_network():
    html = attention(["a", "b"], PATTERN, names=["L5H0"])._repr_html_()
    assert "CircuitsVis.AttentionHeads" in html
    assert "0.75" in html
    assert '"L5H0"' in html
    assert "unpkg.com" in attention(["a", "b"], PATTERN, offline=False).html


def test_token_text_cannot_end_the_script():
    html = attention(["</script><script>alert(1)</script>", "b"], PATTERN).html
    assert "<script>alert(1)" not in html
    assert html.count("</script>") == 1
    assert "\\u003c/script>" in html


def test_shapes_must_fit():
    with pytest.raises(InputError, match=r"expected \(head, 3, 3\)"):
        attention(["a", "b", "c"], PATTERN)
    with pytest.raises(InputError, match="2 names for 1 heads"):
        attention(["a", "b"], PATTERN, names=["x", "y"])


@pytest.mark.browser
def test_it_draws_in_a_browser(browser, tmp_path):
    page = browser.new_page()
    path = tmp_path / "page.html"
    path.write_text(f"<meta charset=utf-8><body>{attention(['alpha', 'beta'], PATTERN).html}", encoding="utf-8")
    page.goto(path.as_uri())
    page.wait_for_selector("text=Head Selector", timeout=10_000)
    page.close()
