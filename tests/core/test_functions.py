"""Analyses as functions: what completion and help show, and the same results as `run`."""

from __future__ import annotations

import inspect

import pytest

import analyses
from analyses import names
from probe import InputError, Model
from tests import tiny


def test_completion_and_help_name_everything() -> None:
    assert {*names(), "run", "sweep", "Store"} <= set(dir(analyses))
    for name in names():
        of, function = analyses.get(name), getattr(analyses, name)
        if name == "entropy":  # the group's own name
            function = analyses.core.running.functions.function_of(name)
        parameters = inspect.signature(function).parameters
        assert [p for p in parameters if parameters[p].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        for option in of.options:
            assert parameters[option.name].default == option.default
            assert f"    {option.name}: {option.help}" in function.__doc__
        assert all(f"    {i.name}: " in function.__doc__ for i in of.inputs)


@pytest.fixture(scope="module")
def model() -> Model:
    tokenizer = tiny.tokenizer("llama")
    return Model.wrap(tiny.model("llama", vocab_size=len(tokenizer)), tokenizer)


def test_a_function_gives_what_run_gives(model: Model) -> None:
    prompts = tiny.twelve_items().limit(3)
    one = analyses.logit_lens(model, prompts, top_k=2)
    two = analyses.run("logit_lens", model=model, prompts=prompts, top_k=2)
    assert one.key == two.key and one.summary().equals(two.summary())


def test_wrong_calls_are_told(model: Model) -> None:
    with pytest.raises(InputError, match="Did you mean top_k"):
        analyses.logit_lens(model, tiny.twelve_items(), topk=2)
    with pytest.raises(InputError, match="model twice"):
        analyses.logit_lens(model, model=model)
    with pytest.raises(InputError, match="3 values by position"):
        analyses.logit_lens(model, tiny.twelve_items(), 5)
    with pytest.raises(AttributeError, match="logit_lense"):
        _ = analyses.logit_lense
    with pytest.raises(InputError, match="entropy needs"):
        analyses.entropy()


def test_a_result_is_short_in_a_terminal_and_a_card_in_a_notebook(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[object] = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    prompts = tiny.twelve_items()
    result = analyses.logit_lens(model, prompts)
    assert len(repr(result)) < 600 and len(result._repr_html_()) < 8000
    result._ipython_display_()
    assert [type(s).__name__ for s in shown] == ["HTML", "Figure"]
    assert len(repr(prompts)) < 200 and prompts._repr_html_().count("<tr>") == 11
    noted = result.with_record(warnings=["<script>"])
    assert "<script>" not in noted._repr_html_() and "warning: <script>" in repr(noted)
