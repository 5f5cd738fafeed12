"""One item: a prompt, its accepted answers, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from probe.errors import InputError

Turn: TypeAlias = Mapping[str, Any]
"""One message of a conversation: role, content and what else its writer put there."""

OUTCOMES = "outcomes"
"""Value of an item's column `group_from` where its group was made from outcomes of the checkpoints compared."""


@dataclass(frozen=True)
class Chat:
    """The conversation that an item's prompt ends: the turns before it, what else its own turn says, the tools.

    Attributes:
        before: earlier turns (`role`, `content` and what else a template reads), a system prompt included.
        last: fields of the last turn but its content, which is the item's `prompt`.
        tools: functions offered to the model, as chat templates take them.
        answer: fields of the answer's turn but its content (`reasoning_content`).
    """

    before: tuple[Turn, ...] = ()
    last: Turn = field(default_factory=lambda: {"role": "user"})
    tools: tuple[Turn, ...] = ()
    answer: Turn = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Item:
    """One prompt with what is known of it. `answer_kind` says whose answer it is and is never pooled over.

    Attributes:
        id: names the item; another wording of a problem is an item of its own (`ID/VARIANT`).
        prompt: the question as text; of a conversation, the last turn's.
        answer: the text that is scored, an accepted one; "" where only an abstention is right.
        group: whatever is compared. No meaning is read from its name.
        meta: every other column (difficulty, source, confidence ...): covariates.
        also: other accepted answers; `golds` are all of them.
        choices: the options of a multiple-choice item, in order; `correct` is the right one's index.
        variant: name of this wording of the problem.
        cluster: what is resampled as one (template, document); by default the problem.
        seen: training may have shown the item; None where nobody said.
        chat: the conversation before the prompt, where there is one.
    """

    id: str
    prompt: str
    answer: str
    group: str = "all"
    answer_kind: str = "given"
    meta: Turn = field(default_factory=dict[str, Any], hash=False)
    also: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    correct: int | None = None
    variant: str = ""
    cluster: str | None = None
    seen: bool | None = None
    chat: Chat | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if self.correct is not None and not 0 <= self.correct < len(self.choices):
            raise InputError(f"item {self.id}: correct={self.correct}, but it has {len(self.choices)} choices")

    @property
    def key(self) -> tuple[str, str]:
        """What names the item: its id and the kind of its answer."""
        return (self.id, self.answer_kind)

    @property
    def golds(self) -> tuple[str, ...]:
        """All accepted answers, the scored one first; () where only an abstention is right."""
        return () if self.abstain else tuple(dict.fromkeys((self.answer, *self.also)))

    @property
    def abstain(self) -> bool:
        """True for an unanswerable item: its answer is empty and only an abstention is right."""
        return not self.answer.strip()

    @property
    def problem(self) -> str:
        """Id of the problem: the same for all its wordings."""
        return self.id.removesuffix(f"/{self.variant}") if self.variant else self.id

    @property
    def unit(self) -> str:
        """What is resampled as one: its cluster, else its problem."""
        return self.cluster or self.problem

    @property
    def messages(self) -> list[dict[str, object]]:
        """The prompt as the turns of a conversation, as chat templates take them."""
        chat = self.chat or Chat()
        return [*(dict(turn) for turn in chat.before), {**chat.last, "content": self.prompt}]
