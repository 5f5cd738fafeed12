"""The state of a view lives in its URL: a link to a view is that view.

A widget starts from what it was in this session, else from the URL, else from where this session last left it on
another page, else from its default. Whatever the URL holds is only ever compared with the options on offer. The URL
is written once a run, so that each change is one entry of the browser's history: Back and Forward bring an earlier
URL, and then it alone counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

T = TypeVar("T")
USED, LAST, WHOLE = "_used_parameters", "_last_values", "_whole_page_runs"
SHOWN, BEFORE, SENT, DEFAULTS = "_shown_page", "_used_before", "_sent_along", "_last_defaults"


def begin() -> None:
    """Start a run of the page: forget which parameters it used before, and after Back or Forward all it was set to."""
    context = get_script_run_ctx()
    if context is not None and context.is_history_navigation:
        for key in {*st.session_state.pop(LAST, {}), *st.session_state.get(USED, {})}:
            st.session_state.pop(key, None)
    st.session_state[BEFORE] = st.session_state.get(USED, {})
    st.session_state[USED] = {}
    st.session_state[WHOLE] = True


def turn(page: str) -> None:
    """On a turn to another page, forget what its widgets share with the last one's at defaults: it has its own."""
    sent = st.session_state.pop(SENT, {})
    if st.session_state.get(SHOWN, page) != page:
        for key in {k for k, v in st.session_state[BEFORE].items() if v is None} - {"page", *sent}:
            st.session_state.pop(key, None)
    st.session_state[SHOWN] = page


def write(*, part: bool = False) -> None:
    """Make the URL say what the widgets are set to; ``part``: at the end of a part of the page that also runs alone."""
    if part and st.session_state.get(WHOLE):
        return
    st.session_state[WHOLE] = False
    wanted: dict[str, list[str]] = {k: v or [""] for k, v in st.session_state[USED].items() if v is not None}
    if wanted != {name: st.query_params.get_all(name) for name in st.query_params}:
        st.query_params.from_dict(wanted)


def select(
    label: str,
    options: Sequence[T],
    *,
    key: str,
    default: T | None = None,
    name: Callable[[T], str] = str,
    radio: bool = False,
    where: Any = st,
    **more: Any,
) -> T:
    """One of ``options``, as a drop-down or a row of buttons."""
    start = default if default is not None and default in options else options[0]
    _start(key, {address(o): o for o in options}, start)
    if radio:
        value = where.radio(label, options, key=key, format_func=lambda o: escaped(name(o)), **more)
    else:
        value = where.selectbox(label, options, key=key, format_func=name, **more)
    _keep(key, [address(value)], value == start)
    return value


def select_many(
    label: str,
    options: Sequence[T],
    *,
    key: str,
    name: Callable[[T], str] = str,
    default: Sequence[T] = (),
    buttons: bool = True,
) -> list[T]:
    """Any of ``options``; the default where nothing was chosen by hand, or nothing of it is on offer here."""
    by_address = {address(o): o for o in options}
    defaults = st.session_state.setdefault(DEFAULTS, {})
    if key in st.session_state and list(st.session_state[key]) == defaults.get(key):
        before = chosen = list(default)
    elif key in st.session_state:
        before = list(st.session_state[key])
        chosen = [o for o in before if o in options]
    else:
        before = st.query_params.get_all(key) or st.session_state.get(LAST, {}).get(key, list(map(address, default)))
        chosen = [by_address[a] for a in before if a in by_address]
    st.session_state[key] = list(default) if before not in ([], [""]) and not chosen else chosen
    defaults[key] = list(default)
    if buttons:
        value = st.pills(label, options, key=key, selection_mode="multi", format_func=lambda o: escaped(name(o)))
    else:
        value = st.multiselect(label, options, key=key, format_func=name)
    _keep(key, [address(v) for v in value], list(value) == list(default))
    return list(value)


def slide(label: str, options: Sequence[T], *, key: str, default: T, **more: Any) -> T:
    """One of ordered ``options`` by a slider."""
    if len(options) == 1:
        _keep(key, [address(options[0])], True)
        return options[0]
    _start(key, {address(o): o for o in options}, default)
    value = st.select_slider(label, options, key=key, **more)
    _keep(key, [address(value)], value == default)
    return value


def flag(label: str, *, key: str, default: bool = False, **more: Any) -> bool:
    """A switch."""
    _start(key, {"true": True, "false": False}, default)
    value = bool(st.toggle(label, key=key, **more))
    _keep(key, ["true" if value else "false"], value == default)
    return value


def held(key: str, options: Sequence[str], default: str) -> str:
    """The value of a widget that may be in a closed box."""
    _start(key, {o: o for o in options}, default)
    value = str(st.session_state[key])
    _keep(key, [value], value == default)
    return value


def held_many(key: str, options: Sequence[str], default: Sequence[str]) -> list[str]:
    """Any of ``options``, set by something else than a widget of Streamlit's; the default where nothing was chosen."""
    given = st.session_state.get(key)
    if given is None:
        given = st.query_params.get_all(key) or st.session_state.get(LAST, {}).get(key, [])
    chosen = [o for o in options if o in given]
    value = chosen or [o for o in options if o in default]
    st.session_state[key] = chosen
    _keep(key, value, not chosen or value == list(default))
    return value


def folded(label: str, *, key: str, icon: str | None = None, popover: bool = False, default: bool = False) -> Any:
    """A box whose content is made only while it is open (``.open``); closed boxes cost nothing to send or draw."""
    _start(key, {"true": True, "false": False}, default)
    if popover:
        box = st.popover(label, key=key, icon=icon, on_change="rerun")
    else:
        box = st.expander(label, key=key, icon=icon, on_change="rerun")
    _keep(key, ["true" if box.open else "false"], bool(box.open) == default)
    return box


def text(label: str, *, key: str, default: str = "", limit: int = 200, area: bool = False, **more: Any) -> str:
    """A line of text, or with ``area`` several, of at most ``limit`` characters."""
    if key not in st.session_state:
        last = st.session_state.get(LAST, {}).get(key, [default])
        st.session_state[key] = str(st.query_params.get(key, last[0]))[:limit]
    box = st.text_area if area else st.text_input
    value = str(box(label, key=key, max_chars=limit, **more) or "")
    _keep(key, [value], value == default)
    return value


def go(**values: object) -> None:
    """Set the values of widgets of the next run: what a click on a link of this page means."""
    for key, value in values.items():
        st.session_state[key] = value
    st.session_state[SENT] = values


def address(value: object) -> str:
    """How a value stands in the URL."""
    return str(value)


def escaped(text: object) -> str:
    """Text as Markdown that shows it literally; labels and messages of Streamlit are Markdown.

    Addresses would become links even so: an invisible joiner in them keeps a model from putting links on a page.
    """
    unlinked = LINKS.sub(lambda found: found[0] + JOINER, str(text))
    return "".join("\\" + c if c in MARKDOWN else c for c in unlinked)


MARKDOWN = frozenset("\\`*_{}[]()#+-.!|<>~$:&@^='\"")
LINKS, JOINER = re.compile(r"(?i)https?:|ftp:|mailto:|www|@"), "\u2060"


def _start(key: str, by_address: dict[str, T], default: T) -> None:
    if key in st.session_state and st.session_state[key] in by_address.values():
        return
    given = st.query_params.get(key) or next(iter(st.session_state.get(LAST, {}).get(key, [])), None)
    st.session_state[key] = by_address.get(str(given), default)


def _keep(key: str, values: list[str], is_default: bool) -> None:
    st.session_state.setdefault(USED, {})[key] = None if is_default else values
    if is_default:  # another page may have another default
        st.session_state.setdefault(LAST, {}).pop(key, None)
    else:
        st.session_state.setdefault(LAST, {})[key] = values
