"""Two checkpoints in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from probe.texts import Text, one_text
from probe.views.comparing import Compared, compared

if TYPE_CHECKING:
    from probe.by_text import ByText
    from probe.tokens import Template


def compare(base: ByText, tuned: ByText, text: Text, *, top_k: int = 5, template: Template | None = None) -> Compared:
    """What two checkpoints say next in one text, and how far apart they are, by layer and position.

    Args:
        base: the earlier checkpoint.
        tuned: the later one, of the same architecture and token ids.
        text: a text or conversation.
        top_k: next tokens kept of each distribution.
        template: `chat` or `none`; by default conversations alone go through the chat template.

    Raises:
        InputError: tokenizers that give other ids, other numbers of blocks, several texts.
    """
    given = one_text(text, "compare")
    return compared(base, tuned, base.batch(given, template), tuned.batch(given, template), top_k)
