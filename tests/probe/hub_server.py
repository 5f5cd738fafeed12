"""A small server on loopback that speaks the part of the Hub's protocol its client needs to read models."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

Repos = dict[str, dict[str, Path]]
"""Repository -> revision -> folder of its files."""


class _Handler(BaseHTTPRequestHandler):
    repos: Repos
    log: list[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.log.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) > 4:
            self._api("/".join(parts[2:4]), parts[4], "/".join(parts[5:]))
        elif len(parts) > 4 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]), body=body)
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _api(self, repo: str, what: str, revision: str) -> None:
        known = self.repos.get(repo)
        if known is None:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif what == "refs":
            rows = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": sha(repo, n)} for n in known]
            self._json({"branches": rows, "tags": [], "converts": []})
        elif revision.split("/")[0] not in {*known, *(sha(repo, n) for n in known)}:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            name = self._name(repo, revision.split("/")[0])
            files = sorted(f for f in known[name].iterdir() if f.is_file())
            if what == "tree":
                self._json(
                    [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": sha(f.name)} for f in files]
                )
            else:
                self._json({"id": repo, "sha": sha(repo, name), "siblings": [{"rfilename": f.name} for f in files]})

    def _name(self, repo: str, revision: str) -> str:
        return next(n for n in self.repos[repo] if revision in (n, sha(repo, n)))

    def _file(self, repo: str, revision: str, name: str, *, body: bool) -> None:
        known = self.repos.get(repo, {})
        if revision not in {*known, *(sha(repo, n) for n in known)}:
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        file = known[self._name(repo, revision)] / name
        if not file.is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        data = file.read_bytes()
        headers = {
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Repo-Commit": sha(repo, self._name(repo, revision)),
        }
        self._send(200, data, headers, body=body)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str], *, body: bool = True) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(data)


def sha(*parts: str) -> str:
    """A commit-like hash."""
    return hashlib.sha1("/".join(parts).encode()).hexdigest()


@contextmanager
def serving(repos: Repos) -> Iterator[tuple[str, list[str]]]:
    """Address of the server and the log of its requests."""
    log: list[str] = []
    handler = type("Handler", (_Handler,), {"repos": repos, "log": log})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", log
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
