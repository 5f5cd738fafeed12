"""Options that several analyses have: one name is one thing, with one type, one unit and one text of help.

An analysis that takes `seed: int = 0` needs no line for it under `Args:`; a line it has is what is particular to it
and follows the text that all share. A name of this table with another type is refused when the analysis is read.
Nothing here imports torch.
"""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Word:
    """One option's meaning.

    `type`: its annotation; of a Literal, all values there are, of which an analysis may take some; None may stand
    beside it. `help` says what it is, without a full stop. `unit`: of its numbers, "" where they have none. `default`:
    what it usually is, None where each analysis says its own.
    """

    type: Any
    help: str
    unit: str = ""
    default: object = None

    def told(self, particular: str) -> str:
        """The line of help: what all share, then what is particular to one analysis."""
        return f"{self.help}: {particular}" if particular else f"{self.help}."

    def fits(self, annotation: object) -> bool:
        """True for an annotation of this type, of some of its values, or of either or None."""
        if types.NoneType in (given := typing.get_args(annotation)) and len(given) == 2:
            return self.fits(next(a for a in given if a is not types.NoneType))
        if typing.get_origin(self.type) is Literal and typing.get_origin(annotation) is Literal:
            return set(given) <= set(typing.get_args(self.type))
        return annotation == self.type


Texts, Wholes, Shares = tuple[str, ...], tuple[int, ...], tuple[float, ...]
POOLED = Literal["last_prompt", "mean_prompt", "mean", "answer_first", "answer", "answer_last", "rationale"]
PLACES = Literal["each", "all_prompt", "last_prompt", "all", "prompt", "answer"]
STREAMS = Literal["resid_post", "resid_pre", "resid_mid", "mlp_out", "attn_out", "head"]
VARIANTS = Literal["denoise", "noise", "both", "before_after", "lens_to_final", "in_out"]

WORDS: dict[str, Word] = {
    # how it is computed
    "seed": Word(int, "of all that is drawn at random, where anything is", default=0),
    "batch_size": Word(int, "items or responses per forward pass, which changes no value", "items", 8),
    "draws": Word(int, "how many random draws are made", "draws"),
    "permutations": Word(int, "relabellings of the items for p-values", "relabellings"),
    "splits": Word(int, "random halvings of the items", "halvings"),
    "folds": Word(int, "parts of the items, each held out once", "parts", 5),
    "deals": Word(int, "times that responses are dealt out anew at random", "deals", 50),
    "updates": Word(int, "optimiser steps of a fit", "steps"),
    "rate": Word(float, "learning rate of Adam"),
    "sketch": Word(
        int, "numbers a gradient is sketched to; 0: whole where that fits in 1 GB, else 4,096", "numbers", 0
    ),
    "shown": Word(int, "most rows or edges that are shown"),
    "verify": Word(int, "how many of the largest, and how many random others, are run exactly; 0 for none", "runs", 20),
    "legacy": Word(bool, "also as the released code has it", default=False),
    # which items and which of their groups
    "groups": Word(Texts, "two groups, the first minus the second; by default the only two there are", default=()),
    "targets": Word(Texts, "groups that are meant, all others being controls", default=()),
    "seen": Word(Texts, "groups training may have shown; by default the prompts' column `seen` says which", default=()),
    "unseen": Word(Texts, "groups training has not shown", default=()),
    "strata": Word(Texts, "columns of the prompts within whose values labels are permuted", default=()),
    "answer_kind": Word(str, "kind of answer that is read; needed where the result holds several"),
    # texts
    "template": Word(
        Literal["none", "chat"], "put prompts through the tokenizer's chat template, or not", default="none"
    ),
    "boundary": Word(
        Literal["joint", "concat", "offsets"],
        "tokens of the joint text, of both apart (concat), or joint without straddling ones (offsets)",
        default="joint",
    ),
    "out": Word(str, "folder for what is kept as an ordinary checkpoint; nothing is kept without it"),
    "separator": Word(str, "what stands between two texts", default=" "),
    "tokenizer": Word(str, "folder of the tokenizer that a log's ids are of", default=""),
    "evidence": Word(
        str, "column of the prompts: a text (or several) that the prompt holds, or [start, stop] characters"
    ),
    "tags": Word(
        Texts, "what opens and what closes the evidence in the prompt (two texts), in place of the column", default=()
    ),
    "corrupt": Word(
        Literal["column", "rotate"],
        "where corrupt prompts come from: the items' column of that name, or another item (rotate)",
        default="column",
    ),
    # responses and grades
    "pattern": Word(
        str, r"regular expression whose last match's first group is a response's answer, for example `ans (\S+)`"
    ),
    "grade": Word(
        str,
        "how answers are graded: `auto` (by each gold), `math`, `number`, `choice`, `text`, `exact` or "
        "`module:function`",
        default="auto",
    ),
    "unparsed": Word(
        Literal["missing", "wrong"],
        "responses without a readable answer are left out, or counted as not correct",
        default="missing",
    ),
    "max_new_tokens": Word(int, "most tokens of a response", "tokens"),
    "samples": Word(int, "sampled responses per item, beside the greedy one", "responses", 0),
    "temperature": Word(float, "temperature of samples"),
    "ks": Word(Wholes, "numbers of samples at which a rate is given", "samples", (1, 2, 4, 8, 16, 32, 64)),
    "k": Word(int, "how many samples, rollouts or continuations", "samples"),
    "bins": Word(int, "bins of equal mass in the calibration error", "bins", 10),
    "success_above": Word(float, "a reward above this is a success", "reward", 0.5),
    "at_temperature": Word(bool, "divide the logits by each response's sampling temperature", default=False),
    "alpha": Word(float, "level of error that is allowed", "share"),
    # where in the model
    "layers": Word(Wholes, "blocks, counted from 0; all where none is named", "blocks", ()),
    "layer": Word(int, "block, counted from 0; by default the middle one", "blocks"),
    "heads": Word(Wholes, "heads, counted from 0, at sites that have them; all where none is named", "heads", ()),
    "site": Word(STREAMS, "kind of site", default="resid_post"),
    "sites": Word(
        Texts,
        "kinds of sites: resid_pre, resid_mid, resid_post, attn_out, mlp_out, z (per head), q, k, v, mlp_post",
    ),
    "parts": Word(Texts, "kinds of weights, by name"),
    "width": Word(int, "blocks in a window", "blocks"),
    "size": Word(int, "edges of a circuit", "edges", 50),
    "steps": Word(int, "1 for the gradient at one run; more for integrated gradients over that many runs", "runs"),
    "components": Word(int, "principal components", "components"),
    "rank": Word(int, "directions in a subspace, at most half the smaller side", "directions", 8),
    "top_k": Word(int, "most likely tokens that are kept", "tokens"),
    "top_n": Word(int, "neurons that are chosen", "neurons"),
    # which tokens
    "positions": Word(PLACES, "which tokens, by their place in prompt and answer"),
    "at": Word(Wholes, "positions within the prompt instead (0: the first token, -1: the last)", "tokens", default=()),
    "pooling": Word(
        POOLED,
        "which tokens' states stand for an item; of the answer, the states that predict its tokens",
        default="last_prompt",
    ),
    "queries": Word(
        Literal["first", "answer"],
        "the position that predicts the answer's first token, or every one that predicts an answer token",
        default="first",
    ),
    "mask": Word(str, "scored tokens of the perplexity result", default="answer"),
    "score": Word(Literal["all", "answer", "auto", "text", "letter"], "what is scored"),
    "window": Word(int, "tokens in a window", "tokens"),
    "share": Word(float, "share of the tokens", "share", 0.2),
    "fractions": Word(Shares, "shares, between 0 and 1", "share"),
    "scope": Word(Literal["group", "step", "micro_batch"], "what one mean is taken over"),
    "variant": Word(VARIANTS, "which of the definition's variants"),
    "betas": Word(Shares, "doses of the direction; 0 is always among them"),
}
"""Name -> meaning."""

OTHERWISE = {
    ("mlp_key_steering", "layers"): "numbers, all, or from-verdict",
    ("mlp_key_steering", "score"): "how neurons are ranked; its flags are those of earlier versions",
    ("anchor_adapter", "site"): "of the cross_patching result, by its name there",
}
"""(analysis, option) that shares a name of the table and means something of its own, with the reason."""


def told(analysis: str, option: str, annotation: object, particular: str) -> str:
    """The line of help of an option.

    Args:
        analysis: whose it is.
        option: its name.
        annotation: its type.
        particular: what the analysis's docstring says of it, "" for nothing.

    Raises:
        TypeError: a name of the table with another type.
    """
    word = WORDS.get(option)
    if word is None or (analysis, option) in OTHERWISE:
        return particular
    if not word.fits(annotation):
        raise TypeError(
            f"{analysis}: {option!r} is {word.type} ({word.help}); what is something else needs another name"
        )
    return word.told(particular)
