"""The registry: what is read off a signature, and what a wrong one is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import pytest

from analyses.core.analysis import analysis, argument_help, checked_options, docstring_sections, get, names
from analyses.core.result import Result
from probe.errors import InputError

if TYPE_CHECKING:
    from probe import Model, Prompts


@analysis
def sample(
    base: Model,
    tuned: Model,
    prompts: Prompts | None,
    earlier: Annotated[Result, "perplexity"] | None,
    *,
    kind: Literal["a", "b"] = "a",
    layers: tuple[int, ...] | None = None,
    words: tuple[str, ...] = (),
    on: bool = True,
) -> Result:
    """A sample.

    Args:
        kind: which one, told
            over two lines.
        layers: which layers.
        words: any.
        on: whether.
    """
    raise NotImplementedError


def test_inputs_and_options_are_read_off_the_signature_without_torch_types() -> None:
    found = {i.name: (i.kind, i.optional, i.upstream) for i in sample.inputs}
    assert found == {
        "base": ("Model", False, None),
        "tuned": ("Model", False, None),
        "prompts": ("Prompts", True, None),
        "earlier": ("Result", True, "perplexity"),
    }
    assert sample.arity == "pair"
    assert [o.name for o in sample.options] == ["kind", "layers", "words", "on"]
    assert sample.option("kind").choices == ("a", "b")
    assert sample.option("kind").help == "which one, told over two lines."


def test_options_are_completed_and_checked() -> None:
    assert checked_options(sample, {"on": False}) == {"kind": "a", "layers": None, "words": (), "on": False}
    with pytest.raises(InputError, match=r"kind='c' is not one of \['a', 'b'\]"):
        checked_options(sample, {"kind": "c"})
    with pytest.raises(InputError, match=r"words='one' is one text; a list is expected, such as \['one'\]"):
        checked_options(sample, {"words": "one"})
    with pytest.raises(InputError, match="Did you mean layers"):
        checked_options(sample, {"layer": 3})


def test_a_wrong_signature_is_refused_when_written() -> None:
    def no_default(model: Model, *, n: int) -> Result:
        raise NotImplementedError

    def no_kind(model: int) -> Result:
        raise NotImplementedError

    with pytest.raises(TypeError, match="option 'n' needs a default"):
        analysis(no_default)
    with pytest.raises(TypeError, match="input 'model' must be one of"):
        analysis(no_kind)


def test_docstrings_are_taken_apart() -> None:
    assert docstring_sections("Title.\n\nUnits: nats;\n    per token.\nSource: x.", ("Units", "Source")) == {
        "Units": "nats;\nper token.",
        "Source": "x.",
    }
    assert argument_help("T.\n\nArgs:\n    a: one.\n    b: two\n        lines.\n\nRaises:\n    X: y.") == {
        "a": "one.",
        "b": "two lines.",
    }


def test_the_folder_is_the_registry() -> None:
    assert {"perplexity", "logit_lens"} <= set(names())
    assert get("perplexity").name == "perplexity"
    with pytest.raises(InputError, match="Did you mean logit_lens"):
        get("logitlens")
