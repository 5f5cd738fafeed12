"""A stand-in for S3: objects by whole name, no empty folders, listings kept until somebody says they are old."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry as registered


class Objects(MemoryFileSystem):
    """Like s3fs: what was listed once is listed so again, whoever has written since."""

    protocol: ClassVar[str] = "s3"
    root_marker: ClassVar[str] = ""
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    kept: ClassVar[dict[str, Any]] = {}

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(p) for p in path]
        return str(path).removeprefix("s3://").strip("/")

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        name = self._strip_protocol(path)
        if name not in self.kept:
            self.kept[name] = super().ls(path, detail=True, **options)
        found = self.kept[name]
        return found if detail else sorted(f["name"] for f in found)

    def invalidate_cache(self, path: str | None = None) -> None:
        self.kept.clear()

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """There are no folders."""

    def mkdir(self, path: str, create_parents: bool = True, **options: Any) -> None:
        """There are no folders."""

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        self.kept.clear()
        for name in [n for n in self.store if n.startswith(self._strip_protocol(path))]:
            del self.store[name]
        self.kept.clear()


@contextmanager
def objects() -> Iterator[None]:
    """`s3://` is this store inside the block."""
    fsspec.register_implementation("s3", Objects, clobber=True)
    Objects.store.clear()
    Objects.kept.clear()
    try:
        yield
    finally:
        registered.pop("s3", None)
