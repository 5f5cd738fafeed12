"""The steering experiment: README and numbers say the same (its notebook: test_notebooks.py)."""

from __future__ import annotations

import json

import pytest

from experiments.steering.report import END, FOLDER, START, tables


def test_the_readme_shows_the_numbers_of_results_json() -> None:
    path = FOLDER / "results.json"
    if not path.is_file():
        pytest.skip("no results.json: python -m experiments.steering")
    shown = (FOLDER / "README.md").read_text().partition(START)[2].partition(END)[0].strip()
    assert shown == tables(json.loads(path.read_text())).strip()
