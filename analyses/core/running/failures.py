"""Members of a sweep that could not be computed: told at the end, not in the way of the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from analyses.core.store.files import StoreError
from probe.errors import ProbeError

if TYPE_CHECKING:
    from probe import Checkpoint

T = TypeVar("T")
Member = tuple[Mapping[str, int], Mapping[str, "Checkpoint"]]


@dataclass
class Failures:
    """What went wrong with which member of a sweep.

    An error that says the same of the first two members, and nothing was computed yet, is not a checkpoint's but the
    sweep's (an option, a prompt file): it is raised at once.
    """

    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    first: ProbeError | None = None
    made: int = 0
    _said: str = ""

    def of(self, member: Member, make: Callable[[], T]) -> T | None:
        """What `make` gives for a member, or None with its error kept.

        Raises:
            ProbeError: the error is not this checkpoint's own (a store that takes nothing never is).
        """
        try:
            found = make()
        except StoreError:
            raise
        except ProbeError as error:
            self._keep(member, error)
            return None
        self.made += 1
        return found

    def _keep(self, member: Member, error: ProbeError) -> None:
        at, models = member
        text = str(error)
        for checkpoint in models.values():
            for name in (checkpoint.path, checkpoint.adapter or checkpoint.path, checkpoint.label):
                text = text.replace(name, "...")
        if not self.made and text == self._said:
            raise self.first or error
        self._said = text
        self.first = self.first or error
        self.rows.append({**at, "error": str(error)})

    @property
    def warnings(self) -> list[str]:
        """One sentence a member."""
        return [f"step {row['step']} is missing: {row['error']}" for row in self.rows]
