"""Which analyses answer which question, and what each of them needs: the whole plan of a study, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from analyses.core.analysis import unknown
from probe.errors import InputError

How = Literal["series", "first", "pair", "fall", "log", "result"]
QUESTIONS = {
    "memory": "Is this gain memory?",
    "where": "Where does it sit?",
    "entropy": "Why did entropy fall?",
    "ship": "Which checkpoint should I ship?",
    "off": "Can I turn it off?",
    "mechanism": "What changed in the mechanism?",
}
USUAL = ("memory", "where", "entropy", "ship")  # `off` and `mechanism` are asked by name, once the others are answered
NEEDS = {
    "prompts": "a prompt file (--prompts FILE)",
    "answers": "answers in the prompt file",
    "several": "two checkpoints or more",
    "seen": "items marked as seen (--seen GROUP, or a column `seen` in the prompt file)",
    "corrupt": "a column `corrupt` in the prompt file: the same prompt without what makes the answer right",
    "rollouts": "a rollout log in the run's folder (rollouts/ or completions/)",
    "log": "a log of the run's entropy and reward",
}
DOSES: Mapping[str, Any] = {"alphas": (0.0, 0.5, 1.0, 2.0), "top_n": 0, "draws": 20}


@dataclass(frozen=True)
class Ask:
    """One analysis of a study.

    Attributes:
        analysis: its name.
        questions: what it helps to answer.
        how: over the `series`; over pairs of it with the `first`; of the `pair` that changed most; of the pair between
            which entropy had its largest `fall`; of the `log` of rollouts or scalars; of a `result`.
        needs: what must be there, of `NEEDS`.
        of: results it reads, by the names of its inputs.
        most: problems it is asked of at most; 0: all.
        options: that are not the analysis's defaults.
    """

    analysis: str
    questions: tuple[str, ...]
    how: How
    needs: tuple[str, ...] = ()
    of: tuple[str, ...] = ()
    most: int = 0
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


ASKS = (
    Ask("perplexity", ("memory", "ship", "where", "off", "mechanism"), "series", ("prompts", "answers")),
    Ask("evaluate", ("memory", "ship"), "series", ("prompts", "answers")),
    Ask("logit_lens", ("where",), "series", ("prompts", "answers"), most=64),
    Ask("divergence", ("where", "mechanism"), "first", ("prompts", "several"), most=64),
    Ask("weight_drift", ("where", "mechanism"), "first", ("several",)),
    Ask("gains", ("memory",), "result", ("prompts", "several", "seen"), of=("evaluate",)),
    Ask("perplexity_paradox", ("memory",), "result", ("prompts", "several", "seen"), of=("perplexity",)),
    Ask(
        "over_memorization",
        ("ship", "memory"),
        "result",
        ("prompts", "answers", "several"),
        of=("perplexity", "evaluate"),
    ),
    Ask(
        "cross_patching",
        ("where",),
        "pair",
        ("prompts", "answers", "several"),
        most=64,
        options={"positions": "all"},
    ),
    Ask("mlp_key_steering", ("off",), "pair", ("prompts", "answers", "several", "seen"), most=128, options=DOSES),
    Ask("circuit", ("mechanism",), "pair", ("prompts", "answers", "several", "corrupt"), most=32),
    Ask("circuit_transfer", ("mechanism",), "pair", ("prompts", "answers", "several", "corrupt"), most=32),
    Ask("behaviour_direction", ("mechanism",), "pair", ("prompts", "answers", "several", "corrupt"), most=32),
    Ask("crosscoder", ("mechanism",), "pair", ("prompts", "answers", "several"), most=256, options={"updates": 600}),
    Ask("sampler_mismatch", ("entropy",), "log", ("rollouts",)),
    Ask("sign_quadrants", ("entropy",), "log", ("rollouts",)),
    Ask("informative_groups", ("entropy",), "log", ("rollouts",)),
    Ask("entropy_reward_law", ("entropy",), "log", ("log",)),
    Ask("entropy_change", ("entropy",), "fall", ("rollouts", "several")),
)


def asked(questions: Sequence[str]) -> list[Ask]:
    """The analyses that the questions need, in the order in which they are computed.

    Raises:
        InputError: no such question.
    """
    for name in questions:
        if name not in QUESTIONS:
            raise InputError(unknown("question", name, QUESTIONS))
    wanted = [ask for ask in ASKS if set(ask.questions) & set(questions)]
    upstream = {name for ask in wanted for name in ask.of}
    return [ask for ask in ASKS if ask in wanted or ask.analysis in upstream]
