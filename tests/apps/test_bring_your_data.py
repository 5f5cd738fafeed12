"""The page on data is followed to the letter: its files are written, its commands run on a tiny model."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from tests import tiny
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "start" / "bring-your-data.md").read_text()
FILES = dict(re.findall(r'^```json title="([^"]+)"\n(.*?)^```', PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^\$ (probe .*)$", PAGE, re.MULTILINE)
CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    model = tiny.save(folder / "my-model", max_position_embeddings=1024)
    (model / "chat_template.jinja").write_text(CHAT)
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_what_the_page_says_goes_in(command: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from apps.command.cli import main

    monkeypatch.chdir(workplace)
    monkeypatch.setenv("PROBE_CACHE", str(workplace / "cache"))
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(command.replace(r"$'\n'", "'\n'"))[1:])  # as a shell reads it
    assert ended.value.code == 0
    assert os.listdir(workplace / "results")
