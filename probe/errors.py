"""Errors of the toolkit: what was given, what was expected, what to do."""

from __future__ import annotations


class ProbeError(Exception):
    """Something could not be done faithfully; no number was produced."""


class InputError(ProbeError, ValueError):
    """The caller's input is at fault (exit code 2); nothing was computed or written."""
