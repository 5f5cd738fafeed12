"""A figure on a page: plotly's own script for curves and maps, a third of the whole, served from this package.

Streamlit's chart element loads all of plotly, which takes a browser longer than everything else on a page. This one
draws the same figures in the page's colours, keeps zooms, and sends the point that was clicked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import streamlit as st
from streamlit.components.v2 import component

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from streamlit.components.v2.types import ComponentRenderer

NAME = "probe_chart"
BUNDLE = "plotly-cartesian.min.js"  # of plotly.js 4.1.1 (MIT), in the folder `static` beside `app.py`
Point: TypeAlias = Mapping[str, Any]
"""A point that was clicked: curve_number, x, y; {} where a choice was taken back by a double click."""

LOADED = """
const plotly = () => window.probePlotly ??= new Promise((done, failed) => {
  const script = document.createElement('script');
  script.src = new URL('app/static/BUNDLE', document.baseURI).href;
  script.onload = () => done(window.Plotly);
  script.onerror = failed;
  document.head.appendChild(script);
});
""".replace("BUNDLE", BUNDLE)
AHEAD = f"<script>{{{LOADED} plotly();}}</script>"
SCRIPT = (
    LOADED
    + """
const colours = box => {
  const of = getComputedStyle(box), ink = of.getPropertyValue('--st-text-color') || '#222';
  const quiet = `color-mix(in srgb, ${ink} 72%, transparent)`, line = `color-mix(in srgb, ${ink} 30%, transparent)`;
  const solid = text => {
    const probe = box.appendChild(document.createElement('i'));
    probe.style.color = text;
    const canvas = document.createElement('canvas').getContext('2d');
    canvas.fillStyle = getComputedStyle(probe).color;
    canvas.fillRect(0, 0, 1, 1);
    probe.remove();
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return `rgba(${r},${g},${b},${(a / 255).toFixed(2)})`;
  };
  const grid = `color-mix(in srgb, ${ink} 12%, transparent)`;
  const page = of.getPropertyValue('--st-background-color') || '#fff';
  return { ink: solid(ink), quiet: solid(quiet), line: solid(line), grid: solid(grid), page: solid(page),
    font: of.getPropertyValue('--st-font') || 'sans-serif' };
};
const dressed = (figure, look) => {
  const layout = structuredClone(figure.layout), base = (layout.template ??= {}).layout ??= {};
  const axis = { linecolor: look.line, gridcolor: look.grid, tickfont: { color: look.quiet },
    title: { standoff: 12, font: { color: look.quiet, size: 13 } } };
  Object.assign(base, { paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', modebar: {
    bgcolor: 'rgba(0,0,0,0)', color: look.quiet, activecolor: look.ink },
    hoverlabel: { bgcolor: look.page, font: { color: look.ink } } });
  base.font = { ...base.font, family: look.font, color: look.ink };
  base.title = { ...base.title, font: { ...base.title?.font, weight: 600 } };
  for (const name of ['xaxis', 'yaxis']) base[name] = { ...base[name], ...axis, showgrid: name === 'yaxis' };
  for (const bar of [layout.coloraxis?.colorbar]) if (bar) {
    bar.tickfont = { ...bar.tickfont, color: look.quiet };
    bar.title = { ...bar.title, font: { ...bar.title?.font, color: look.quiet } };
  }
  for (const slider of layout.sliders ?? []) slider.font = { ...slider.font, color: look.ink };
  return { ...layout, autosize: true, width: undefined };
};
export default function ({ data, parentElement, setTriggerValue }) {
  let box = parentElement.querySelector('.probe-chart');
  if (!box) {
    box = document.createElement('div');
    box.className = 'probe-chart';
    parentElement.appendChild(box);
  }
  box.setAttribute('role', 'figure');
  box.setAttribute('aria-label', data.alt);
  const figure = JSON.parse(data.figure);
  box.style.minHeight = `${figure.layout.height ?? 380}px`;
  let gone = false, seen = '';
  // A reader's zoom outlives the chart: Streamlit may set it up anew. `uirevision` says for how long it means the same.
  const zooms = (window.probeZooms ??= {}), view = `${data.name} ${figure.layout.uirevision}`;
  const keep = event => {
    const kept = (zooms[view] ??= {});
    for (const [name, value] of Object.entries(event)) {
      const [, axis, what, end] = name.match(/^([xy]axis\\d*)\\.(range|autorange)(?:\\[(\\d)\\])?$/) ?? [];
      if (axis && end === undefined) delete kept[axis];
      else if (what === 'range') (kept[axis] ??= [])[end] = value;
    }
  };
  const draw = async Plotly => {
    if (gone) return;
    const look = colours(box), layout = dressed(figure, look);
    for (const [axis, range] of Object.entries(zooms[view] ?? {})) layout[axis] = { ...layout[axis], range };
    seen = JSON.stringify(look);
    const full = { name: 'Full screen', icon: Plotly.Icons.zoombox, click: plot => plot.requestFullscreen?.() };
    const config = { ...data.config, displaylogo: false, responsive: true, modeBarButtonsToAdd: [full] };
    if (figure.frames?.length) await Plotly.newPlot(box, { data: figure.data, layout, config, frames: figure.frames });
    else await Plotly.react(box, figure.data, layout, config);
    if (layout.uirevision !== undefined) {
      box.removeAllListeners('plotly_relayout');
      box.on('plotly_relayout', keep);
    }
    if (!data.picks) return;
    box.removeAllListeners('plotly_click');
    box.removeAllListeners('plotly_doubleclick');
    box.on('plotly_click', ({ points: [point] }) =>
      setTriggerValue('point', { curve_number: point.curveNumber, x: point.x, y: point.y }));
    box.on('plotly_doubleclick', () => setTriggerValue('point', {}));
  };
  const drawn = plotly().then(draw);
  // The page's colours change when the reader's system or the menu turns to dark.
  const again = setInterval(() => {
    if (seen && JSON.stringify(colours(box)) !== seen) drawn.then(() => plotly()).then(draw);
  }, 1000);
  return () => { gone = true; clearInterval(again); };
}
"""
)


def show(
    figure: Figure, *, key: str, alt: str, config: Mapping[str, Any], on_point: Callable[[Point], None] | None = None
) -> None:
    """Put a figure on the page.

    Args:
        figure: curves, maps, dots or bars.
        key: names the chart on its page.
        alt: what it is, for those who hear it.
        config: of plotly.
        on_point: what a click on a point means; it runs before the page does.
    """

    def picked() -> None:
        point = getattr(st.session_state.get(key), "point", None)
        if on_point and isinstance(point, Mapping):
            on_point(point)

    data = {"figure": figure.to_json(), "alt": alt, "config": dict(config), "picks": on_point is not None, "name": key}
    _registered()(data=data, key=key, on_point_change=picked)


def ahead() -> None:
    """Let the browser load what charts need while the page is still being made; nothing is seen of it."""
    with st.container(key="ahead"):
        st.html(AHEAD, unsafe_allow_javascript=True)


@st.cache_resource(show_spinner=False)
def _registered() -> ComponentRenderer:
    return component(NAME, js=SCRIPT, isolate_styles=False)
