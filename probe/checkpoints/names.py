"""Steps in the names of folders and revisions, as trainers write them."""

from __future__ import annotations

import re

# checkpoint-N (transformers, TRL), global_step_N (verl), step_N (open-instruct, prime-rl), global_stepN_hf (OpenRLHF),
# iter_000N and iterN-ckpt, epoch=E-step=N, step1000 and stage1-step150-tokens2B (Hub revisions of Pythia and OLMo).
_STEP = re.compile(
    r"(?:^|[-_.=])(?:checkpoint|global_step|step|iteration|iter|ckpt)[-_=]?(\d+)(?:[-_](?:hf|ckpt|merged|policy)|-tokens\w+)*$",
    re.IGNORECASE,
)
_EPOCH = re.compile(r"(?:^|[-_.=])epoch[-_=]?(\d+)(?:[-_](?:hf|merged))*$", re.IGNORECASE)


def step_of(name: str) -> int | None:
    """The step (or, where there is none, the epoch) a folder's or revision's name states."""
    match = _STEP.search(name) or _EPOCH.search(name)
    return int(match.group(1)) if match else None


def counts_epochs(name: str) -> bool:
    """True if the number in the name is an epoch."""
    return _STEP.search(name) is None and _EPOCH.search(name) is not None
