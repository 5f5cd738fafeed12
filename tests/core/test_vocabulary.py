"""One vocabulary of options: a name is one thing in all analyses that have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import pytest

import analyses
from analyses.core import vocabulary
from analyses.core.analysis import Option, analysis
from analyses.core.result import Result
from analyses.core.running.functions import _AROUND as AROUND  # pyright: ignore[reportPrivateUsage]
from analyses.core.vocabulary import OTHERWISE, WORDS, Word
from apps.command.options import ENGINE_SETTINGS, MODEL_SETTINGS, PLAN_SETTINGS, analysis_command, flags

if TYPE_CHECKING:
    from probe import Prompts

OWN_DEFAULTS: Mapping[tuple[str, str], str] = {
    ("legacy_classifier", "seed"): "that of the published code",
    ("cross_patching", "boundary"): "what is patched lies in the prompt, and its tokens must not depend on the answer",
    ("mlp_key_steering", "boundary"): "the same, of what is steered",
    ("cross_patching", "grade"): "as in earlier versions: one strict rule for all arms",
    ("mlp_key_steering", "grade"): "as in earlier versions: one strict rule for all arms",
    ("weight_reset", "grade"): "as in earlier versions: one strict rule for all arms",
    ("parallel_texts", "pooling"): "a sentence is all of its tokens",
    ("multiple_choice", "score"): "letters where the answer is one",
}
"""(analysis, option) with another default than the table's, and why."""


def options() -> list[tuple[str, Option]]:
    """(analysis, option) of the whole registry."""
    return [(name, option) for name in analyses.names() for option in analyses.get(name).options]


def test_what_two_analyses_have_stands_in_the_table() -> None:
    times: dict[str, set[str]] = {}
    for name, option in options():
        if (name, option.name) not in OTHERWISE:
            times.setdefault(option.name, set()).add(name)
    unknown = {option: sorted(names) for option, names in times.items() if len(names) > 1 and option not in WORDS}
    assert not unknown, "say once what they are, in analyses/core/vocabulary.py, or give one another name"


def test_the_table_holds_what_is_used_and_no_more() -> None:
    used = {option.name for _, option in options()}
    assert set(WORDS) <= used
    assert all(o in {x.name for x in analyses.get(n).options} for n, o in OTHERWISE)


@pytest.mark.parametrize("name", sorted(WORDS))
def test_one_name_has_one_type_and_one_text(name: str) -> None:
    word = WORDS[name]
    having = [(n, o) for n, o in options() if o.name == name and (n, name) not in OTHERWISE]
    assert all(word.fits(o.annotation) for _, o in having)
    assert all(o.help.startswith(word.help) for _, o in having)
    if word.default is not None:
        other = {n for n, o in having if o.default != word.default}
        assert other == {n for n, option in OWN_DEFAULTS if option == name}, "say why in OWN_DEFAULTS"


def test_no_option_is_a_setting_of_run_sweep_or_plan() -> None:
    """But `seen`: some rules take the groups themselves, and it then means the same."""
    settings = {*MODEL_SETTINGS, *ENGINE_SETTINGS, *PLAN_SETTINGS}
    taken = {n.removeprefix("--").replace("-", "_") for flag in settings for f in flags(flag) for n in f.split("/")}
    taken |= {
        "config",
        "base",
        "limit",
        "columns",
        "seen",
        "pairs",
        "hold",
        "results",
        "json",
        "run",
        "checkpoints",
        "more",
    }
    taken |= {*AROUND, "engine", "pool", "name"}
    assert {o.name for _, o in options()} & taken == {"seen"}


@pytest.mark.parametrize("verb", ["run", "sweep", "plan"])
def test_no_flag_of_a_command_is_there_twice(verb: Literal["run", "sweep", "plan"]) -> None:
    for name in analyses.names():
        given = [
            flag for p in analysis_command(analyses.get(name), verb).params for flag in (*p.opts, *p.secondary_opts)
        ]
        assert len(given) == len(set(given)), f"{verb} {name}: {sorted(f for f in given if given.count(f) > 1)}"


def test_a_name_with_another_type_is_refused() -> None:
    def counted(prompts: Prompts, *, groups: int = 2) -> Result:
        raise NotImplementedError

    with pytest.raises(TypeError, match=r"counted: 'groups' is .*needs another name"):
        analysis(counted)


def test_some_of_the_values_or_none_of_them_fit() -> None:
    word = Word(Literal["a", "b"], "one of two")
    assert word.fits(Literal["a"]) and word.fits(Literal["a", "b"] | None)
    assert not word.fits(Literal["a", "c"]) and not word.fits(str)


def test_a_particular_line_follows_what_all_share() -> None:
    def drawn(prompts: Prompts, *, seed: int = 0, draws: int = 3) -> Result:
        """Drawn.

        Args:
            draws: of coins.
        """
        raise NotImplementedError

    helps: dict[str, Any] = {o.name: o.help for o in analysis(drawn).options}
    assert helps == {"seed": f"{WORDS['seed'].help}.", "draws": f"{WORDS['draws'].help}: of coins."}
    assert vocabulary.told("mlp_key_steering", "layers", tuple[str, ...], "numbers.") == "numbers."


@pytest.mark.parametrize("name", analyses.names())
def test_former_names_are_no_present_ones(name: str) -> None:
    of = analyses.get(name)
    present = {o.name for o in of.options}
    assert set(of.renamed.values()) <= present and not set(of.renamed) & present
