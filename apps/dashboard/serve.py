"""`probe dashboard`: starts Streamlit on this machine's own address and says how to reach it."""

from __future__ import annotations

import importlib
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import webbrowser
from contextlib import suppress
from pathlib import Path

import click

from analyses.core.store.store import Store
from apps.catalog import listing
from probe.errors import InputError

SCRIPT = Path(__file__).with_name("app.py")
PAGES = Path(__file__).with_name("pages")
WARM = (
    "plotly.subplots",
    "duckdb",
    "h5netcdf",
    "apps.report",
    *(f"apps.dashboard.pages.{p.stem}" for p in PAGES.glob("[a-z]*.py")),
)
SETTINGS = {
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "server.enableStaticServing": "true",  # of the folder `static` beside the script: plotly's own
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "viewer",
    "client.showSidebarNavigation": "false",  # pages are chosen by the page itself, not found in `pages` by Streamlit
    "client.showErrorDetails": "none",
    "theme.light.primaryColor": "#0072B2",
    "theme.dark.primaryColor": "#56B4E9",
}


def serve(store: Store, host: str, port: int, *, opened: bool = False) -> int:
    """Run the dashboard until it is stopped; its exit code.

    Args:
        store: the results.
        host: address to bind.
        port: to listen on.
        opened: whether a browser is opened on it once it answers.

    Raises:
        InputError: the port is taken, the address is not this machine's, or the results are in this process's memory.
    """
    _check(host, port)
    if store.place.startswith("memory://"):
        raise InputError(f"{store.place} is inside one process, and the dashboard is another: give a folder or a URL")
    where = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    click.echo(f"Dashboard of {store.place}: http://{where}:{port}  (Ctrl-C stops it)")
    if is_loopback(host):
        machine = socket.gethostname()
        click.echo(f"From another machine: ssh -L {port}:127.0.0.1:{port} {machine}, then open http://127.0.0.1:{port}")
    else:
        click.echo(f"warning: bound to {host}; everybody who reaches port {port} can read these results.", err=True)
    server = subprocess.Popen(command(store, host, port), env=environment(host))
    if opened:
        threading.Thread(target=_open, args=(where, port, server), daemon=True).start()
    # A terminated command must not leave a server behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        server.terminate()
        server.wait(timeout=10)


def _open(where: str, port: int, server: subprocess.Popen[bytes]) -> None:
    """Open a browser on the page as soon as somebody answers there."""
    while server.poll() is None:
        with suppress(OSError), socket.create_connection((where, port), timeout=1):
            webbrowser.open(f"http://{where}:{port}")
            return
        time.sleep(0.2)


def command(store: Store, host: str, port: int) -> list[str]:
    """The command line that starts Streamlit."""
    settings = {**SETTINGS, "server.address": host, "server.port": str(port)}
    flags = [word for name, value in settings.items() for word in (f"--{name}", value)]
    script = ["run", str(SCRIPT), *flags, "--", "--results", store.place]
    return [sys.executable, "-m", "apps.dashboard.serve", *script]


def environment(host: str) -> dict[str, str]:
    """What the page needs to know: whether it can be reached from other machines; and how memory is shared."""
    own = {"PROBE_DASHBOARD_OPEN": "0" if is_loopback(host) else "1"}
    # Every page is a thread of its own: with an arena each, memory that is free again would not be used again.
    return {"MALLOC_ARENA_MAX": "2", **os.environ, **own}


def is_loopback(host: str) -> bool:
    """True where only this machine can connect."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise InputError(f"cannot listen on {host}:{port} ({error}); give another --port or --host") from error


def main() -> None:
    """Streamlit's own command line, after everything a first visitor would wait for is imported and listed."""
    from streamlit.web import cli

    for name in WARM:
        importlib.import_module(name)
    listing(Store.at(sys.argv[-1]))
    cli.main(prog_name="streamlit")


if __name__ == "__main__":
    main()
