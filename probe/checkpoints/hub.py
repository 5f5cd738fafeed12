"""The Hub: repositories and their revisions, fetched through its own client (cache and offline use included)."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from probe.errors import InputError
from probe.lazily import huggingface_hub

_SMALL = ["*.json", "*.txt", "*.model", "*.jinja"]
_FILES = [*_SMALL, "*.safetensors", "pytorch_model*.bin"]


@cache
def snapshot(repo: str, revision: str | None, weights: bool = True) -> Path:
    """The local folder of a repository at a revision, fetched if it is not in the cache.

    Asked of the Hub once per process, so that a branch that moves meanwhile is one commit here.

    Args:
        repo: owner/name.
        revision: branch, tag or commit, None for the default.
        weights: fetch weights too.

    Raises:
        InputError: no such repository or revision, or not in the cache while offline.
    """

    return Path(_call(huggingface_hub.snapshot_download, repo, revision, allow_patterns=_FILES if weights else _SMALL))


def revisions(repo: str) -> list[str]:
    """Names of the branches and tags of a repository (training steps are usually one branch each)."""

    refs = _call(huggingface_hub.HfApi().list_repo_refs, repo, None)
    return [ref.name for ref in (*refs.branches, *refs.tags)]


def _call(function: Any, repo: str, revision: str | None, **options: Any) -> Any:
    errors = huggingface_hub.errors
    if revision is not None:
        options["revision"] = revision
    name = f"{repo}@{revision}" if revision else repo
    try:
        return function(repo, **options)
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, *_transport_errors()) as error:
        raise InputError(
            f"{name} is neither a folder nor in the local cache, and the Hub cannot be reached "
            f"({type(error).__name__}); fetch it once while online, or give a folder"
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError) as error:
        raise InputError(f"{name}: the Hub has no such model or revision: {str(error).splitlines()[0]}") from error


def _transport_errors() -> list[type[Exception]]:
    """What the client raises where nobody answers (its HTTP library has two names, by version)."""
    found = [name for name in ("httpx2", "httpx") if find_spec(name) is not None]
    return [import_module(name).TransportError for name in found]
