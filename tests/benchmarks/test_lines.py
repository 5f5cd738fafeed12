"""Lines of code side by side: how they are counted, and that ours are the fewest and every value is had."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import lines
from benchmarks.line_scripts import given
from benchmarks.lines import OURS, TASKS


def example():
    # a comment
    first = [
        1,
        2,
    ]

    return first


def test_lines_are_those_of_the_body():
    assert given.lines(example) == 5


def test_values_of_other_shapes_or_ids_differ():
    assert lines.agrees([1.0, 2.0], [1.0, 2.0 + 1e-6])
    assert not lines.agrees([1.0], [1.0, 2.0])
    assert not lines.agrees([[1], [2, 3]], [[1], [2, 4]])


@pytest.mark.verify
def test_ours_takes_no_more_lines_than_any_other():
    found = lines.told()
    ours = found[OURS]
    assert isinstance(ours, dict) and not [t for t in TASKS if "error" in ours[t]]
    had = {name: told for name, told in found.items() if isinstance(told, dict)}
    assert {"TransformerLens", "nnsight"} <= set(had), found
    for task in TASKS:
        least = min(told[task]["lines"] for told in had.values() if task in told)
        assert ours[task]["lines"] == least, task
        if task in had["nnsight"]:
            assert lines.agrees(had["nnsight"][task]["value"], ours[task]["value"]), task


@pytest.mark.verify
def test_last_states_of_a_batch_are_those_of_its_texts_here_and_of_padding_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two libraries that pad on the left agree; the longer text has no padding, so all three are right about it."""
    own = {name: lines.LIBRARIES[name] for name in (OURS, "nnsight", "TransformerLens")}
    monkeypatch.setattr(lines, "LIBRARIES", own)
    last: dict[str, np.ndarray] = {}
    for name, told in lines.told().items():
        assert isinstance(told, dict), told
        last[name] = np.array(told["last_states_of_a_batch"]["value"])
    assert lines.agrees(last["nnsight"], last[OURS])
    assert lines.agrees(last["TransformerLens"][:, 0], last[OURS][:, 0])
    assert np.abs(last["TransformerLens"] - last[OURS])[:, 1].max() > 0.1
