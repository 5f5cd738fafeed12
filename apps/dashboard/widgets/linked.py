"""Panels that are pointed at together: a line at the same place of every panel beside the one under the pointer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st
from streamlit.components.v2 import component

if TYPE_CHECKING:
    from streamlit.components.v2.types import ComponentRenderer

# Plots are made after this script and made anew now and then: it looks for new ones while the page is there.
SCRIPT = """
export default function ({ data }) {
  const found = () => [...document.querySelectorAll(`.st-key-${data} .js-plotly-plot`)];
  const plots = () => found().filter(p => p._fullLayout?.xaxis);
  const guide = plot => {
    let line = plot.querySelector('.probe-guide');
    if (!line) {
      line = document.createElement('div');
      line.className = 'probe-guide';
      line.style.cssText = 'position:absolute;width:0;border-left:1px dashed #888;pointer-events:none;display:none';
      plot.style.position = 'relative';
      plot.appendChild(line);
    }
    return line;
  };
  const show = (from, x) => {
    for (const plot of plots()) {
      const line = guide(plot), axis = plot._fullLayout.xaxis, other = plot._fullLayout.yaxis;
      const at = x === null ? NaN : axis.d2p(x);
      const seen = plot !== from && at >= 0 && at <= axis._length;
      line.style.display = seen ? 'block' : 'none';
      if (seen) {
        line.style.left = `${axis._offset + at}px`;
        line.style.top = `${other._offset}px`;
        line.style.height = `${other._length}px`;
      }
    }
  };
  const known = new WeakSet();
  const join = () => {
    for (const plot of plots()) {
      if (known.has(plot) || !plot.on) continue;
      known.add(plot);
      plot.on('plotly_hover', event => show(plot, event.points[0].x));
      plot.on('plotly_unhover', () => show(plot, null));
    }
  };
  join();
  const again = setInterval(join, 700);
  return () => clearInterval(again);
}
"""


def show(within: str) -> None:
    """Link the plots inside the container with this key."""
    _registered()(data=within, key=f"linked-{within}", height=1)


@st.cache_resource(show_spinner=False)
def _registered() -> ComponentRenderer:
    return component("probe_linked", js=SCRIPT)
