"""Markup of `apps.drawn` on a page, where it can be clicked: the one component of the dashboard.

The markup names what a click means: an element with `data-pick="word"` sends that word, one with `data-key="j"` is
clicked by that key as well. Nothing else crosses; the markup is made by `apps.drawn`, which escapes every text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import streamlit as st
from streamlit.components.v2 import component

from apps.drawn.look import CSS

if TYPE_CHECKING:
    from streamlit.components.v2.types import ComponentRenderer

NAME = "probe_markup"
SCRIPT = """
export default function ({ data, parentElement, setTriggerValue }) {
  let box = parentElement.querySelector('.probe-live');
  if (!box) { box = document.createElement('div'); box.className = 'probe-live'; parentElement.appendChild(box); }
  if (box.shown !== data) {
    const kept = [...box.querySelectorAll('[data-keep]')].map(e => [e.dataset.keep, e.scrollTop]);
    box.innerHTML = data;
    box.shown = data;
    for (const [name, top] of kept) {
      const again = box.querySelector(`[data-keep="${CSS.escape(name)}"]`);
      if (again) again.scrollTop = top;
    }
    box.querySelector('[data-now]')?.scrollIntoView({ block: 'nearest' });
  }
  const send = e => setTriggerValue('pick', e.dataset.pick);
  box.onclick = event => {
    const picked = event.target.closest('[data-pick]');
    if (picked) { event.preventDefault(); send(picked); }
  };
  box.onkeydown = event => {
    if ((event.key === 'Enter' || event.key === ' ') && event.target.matches('[data-pick]:not(button)')) {
      event.preventDefault(); send(event.target);
    }
  };
  const hide = () => box.querySelector('.tip')?.remove();
  box.onmouseleave = hide;
  box.onmouseover = event => {
    hide();
    const told = event.target.closest('[data-tip]');
    if (!told) return;
    const tip = document.createElement('div');
    tip.className = 'tip';
    for (const line of told.dataset.tip.split('\\n')) {
      const [word, share] = line.split('\\t');
      const row = tip.appendChild(document.createElement('div'));
      if (share === undefined) { row.textContent = word; continue; }
      row.className = 'bar';
      row.append(word, document.createElement('i'), Number(share).toFixed(3));
      row.querySelector('i').style.width = `${100 * share}%`;
    }
    (box.querySelector('.probe') || box).appendChild(tip);
    const at = told.getBoundingClientRect(), own = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(at.left, innerWidth - own.width - 8))}px`;
    tip.style.top = `${at.bottom + own.height + 8 > innerHeight ? at.top - own.height - 4 : at.bottom + 4}px`;
  };
  const pressed = event => {
    const typing = event.target.matches('input, textarea, [role=slider]');
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const key = CSS.escape(event.key);
    const bound = box.querySelector(`[data-key="${key}"]`);
    if (bound) send(bound);
  };
  document.addEventListener('keydown', pressed);
  return () => document.removeEventListener('keydown', pressed);
}
"""


def show(markup: str, *, key: str, on_pick: Callable[[str], None] | None = None) -> None:
    """Put markup on the page; a click on a part that has a word of its own calls ``on_pick`` with it.

    Args:
        markup: of `apps.drawn`: every text in it is escaped.
        key: names the component on its page.
        on_pick: what a click means; it runs before the page does.
    """

    def picked() -> None:
        word = getattr(st.session_state.get(key), "pick", None)
        if on_pick and isinstance(word, str):
            on_pick(word)

    _renderer()(data=markup, key=key, on_pick_change=picked)


def _renderer() -> ComponentRenderer:
    """The component, registered once a server: the same definition again would be one more."""
    return _registered()


@st.cache_resource(show_spinner=False)
def _registered() -> ComponentRenderer:
    return component(NAME, css=CSS, js=SCRIPT)
