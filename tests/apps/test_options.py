"""List options and template variables on the command line."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

import analyses
from apps.command.cli import app
from apps.command.options import MODEL_SETTINGS, Values, joined
from probe.errors import InputError


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ("\n\n", ("\n\n",)),
        ("\nQ:", ("\nQ:",)),
        (" end", (" end",)),
        (",", (",",)),
        ("a,b", ("a", "b")),
        ("a, b c", ("a", "b c")),
        (r"a\,b,c", ("a,b", "c")),
        ('["a,b", "\\n"]', ("a,b", "\n")),
        ("[x]", ("[x]",)),
        ("", ()),
    ],
)
def test_a_list_of_texts_keeps_white_space_and_commas(given: str, values: tuple[str, ...]) -> None:
    assert Values(str).convert(given, None, None) == values


def test_numbers_in_a_list_may_have_spaces() -> None:
    assert Values(float).convert("0, 0.5,1", None, None) == (0.0, 0.5, 1.0)
    assert Values(int).convert("[1, 2]", None, None) == (1, 2)


def asked(*given: str) -> Any:
    found: dict[str, Any] = {}
    stop = click.Option(["--stop"], type=Values(str), default=[("x",)], multiple=True, callback=joined)
    options = [stop, *(click.Option([f, *n], **MODEL_SETTINGS[f]) for f, n in
                       (("--template-option", ["template_options"]), ("--bos/--no-bos", [])))]  # fmt: skip
    command = click.Command("c", params=list(options), callback=lambda **k: found.update(k))
    result = CliRunner().invoke(command, list(given))
    return found or result.output


def test_a_list_option_adds_up_when_it_is_repeated() -> None:
    assert asked("--stop", "\n", "--stop", "a,b")["stop"] == ("\n", "a", "b")
    assert asked()["stop"] == ("x",)


def test_template_options_are_json_or_text_and_bos_has_three_states() -> None:
    given = asked("--template-option", "enable_thinking=false", "--template-option", "date=1 May", "--no-bos")
    assert given["template_options"] == {"enable_thinking": False, "date": "1 May"}
    assert (given["bos"], asked()["bos"], asked("--bos")["bos"]) == (False, None, True)
    assert asked("--template-option", "enable_thinking=False")["template_options"] == {"enable_thinking": False}
    assert "expected NAME=VALUE" in asked("--template-option", "thinking")


def test_a_former_name_of_an_option_is_answered_with_the_one_it_has_now() -> None:
    told = CliRunner().invoke(app, ["run", "semantic_entropy", "--alpha", "0.1"])
    assert told.exit_code == 2 and "--alpha is called --scaling now: --scaling 0.1" in told.output
    with pytest.raises(InputError, match="'alpha' is called 'scaling' now"):
        analyses.get("semantic_entropy").option("alpha")
    assert "--alpha" not in CliRunner().invoke(app, ["run", "semantic_entropy", "--help"]).output


def test_alpha_is_an_error_level_wherever_it_is_an_option() -> None:
    """One name, one thing: what other numbers were called alpha have names of their own."""
    having = {name for name in analyses.names() if any(o.name == "alpha" for o in analyses.get(name).options)}
    assert having == {"labels", "conformal_sets"}
