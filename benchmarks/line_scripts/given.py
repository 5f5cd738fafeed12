"""What every script of the ten tasks is given, and how its values and line counts come back."""

from __future__ import annotations

import ast
import inspect
import json
import sys
import textwrap
from dataclasses import dataclass
from typing import Any

LAYER, HEAD, NEW = 1, 2, 5
TEXT, CLEAN, CORRUPT = "what is 3 plus 7 ?", "Ann has 12 figs", "Ann has 12 fox"
TEXTS = ["what is 3 plus 7 ?", "the fox"]
PAIRS = [("the quick fox jumps over", "the lazy dog"), ("what is 3", "what is 7 take away 5")]
TASKS = ("steered_completion", "lens_table", "patching_map", "attention", "head_ablation", "direction",
         "cached_residuals", "two_checkpoints", "generation_under_edits", "attribution")  # fmt: skip
CHECKS = ("last_states_of_a_batch",)  # no task of its own: right only where padding is minded


@dataclass(frozen=True)
class Folders:
    """Two checkpoints of one model."""

    base: str
    tuned: str

    @classmethod
    def given(cls) -> Folders:
        """Those on the command line."""
        return cls(*sys.argv[1:3])


def targets() -> tuple[str, str]:
    """The two continuations whose logits a patching map compares."""
    return " ans", " the"


def serve(found: dict[str, Any]) -> None:
    """Print values and lines of every task there is, as one line of JSON; an error is a task's value as text."""
    told = {name: {"lines": lines(found[name]), **_value(found[name])} for name in (*TASKS, *CHECKS) if name in found}
    print(json.dumps(told))


def lines(task: Any) -> int:
    """Lines of code of a task's body: no blank ones, no comments, the last one gives the value."""
    (function,) = ast.parse(textwrap.dedent(inspect.getsource(task))).body
    return len({line for node in ast.walk(function) if isinstance(node, ast.stmt | ast.expr) and node is not function
                for line in (node.lineno, node.end_lineno)})  # fmt: skip


def _value(task: Any) -> dict[str, Any]:
    try:
        return {"value": _plain(task())}
    except Exception as error:  # noqa: BLE001  what a library cannot do is told, not hidden
        return {"error": f"{type(error).__name__}: {str(error)[:200]}"}


def _plain(value: Any) -> Any:
    if hasattr(value, "detach"):
        return value.detach().float().cpu().tolist()
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
