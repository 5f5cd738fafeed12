"""The server starts on this machine's own address, and says so when it does not."""

from __future__ import annotations

import socket

import pytest

from analyses.core.store.store import Store
from apps.dashboard import serve
from probe.errors import InputError


@pytest.mark.parametrize(("host", "own"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("10.0.0.1", False), ("example", False)])  # fmt: skip  # noqa: E501
def test_loopback_is_recognised(host, own):
    assert serve.is_loopback(host) is own
    assert serve.environment(host)["PROBE_DASHBOARD_OPEN"] == ("0" if own else "1")


class Ended:
    """A server that ends at once."""

    def __init__(self, command, env):
        self.command = command

    def wait(self, timeout=None):
        return 0

    def terminate(self):
        pass


@pytest.fixture
def _ends(monkeypatch):
    monkeypatch.setattr("apps.dashboard.serve.subprocess.Popen", Ended)
    monkeypatch.setattr("apps.dashboard.serve.signal.signal", lambda *_: None)


@pytest.mark.usefixtures("_ends")
def test_address_and_tunnel_are_printed(tmp_path, capsys):
    assert serve.serve(Store(tmp_path), "127.0.0.1", 0) == 0
    out = capsys.readouterr()
    assert "http://127.0.0.1:0" in out.out
    assert "ssh -L" in out.out
    assert not out.err


@pytest.mark.usefixtures("_ends")
def test_leaving_loopback_is_said(tmp_path, capsys):
    serve.serve(Store(tmp_path), "0.0.0.0", 0)
    assert "everybody who reaches port" in capsys.readouterr().err


def test_command_has_the_settings_that_keep_it_private(tmp_path):
    words = serve.command(Store(tmp_path), "127.0.0.1", 8501)
    assert words[words.index("--server.address") + 1] == "127.0.0.1"
    assert words[words.index("--browser.gatherUsageStats") + 1] == "false"
    assert words[-2:] == ["--results", str(tmp_path.resolve())]


def test_a_taken_port_is_an_input_error(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="--port"):
            serve.serve(Store(tmp_path), "127.0.0.1", taken.getsockname()[1])
