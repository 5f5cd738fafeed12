"""Which texts a checkpoint has memorised: five scores per text, and whether they tell members from non-members.

Definition: of the scored tokens x_t with log-probability l_t: `loglik` = mean of l_t; `min_k` = mean of the lowest
`share` of l_t; `min_k_plus` = the same of (l_t - mu_t) / sigma_t, mu and sigma the mean and standard deviation of
log p over the model's own distribution; `zlib` = mean of l_t / compressed bytes of the text; `cdd` = share of sampled
responses within edit distance same_within x largest length of the greedy one (first 100 words; needs an evaluate result
with samples). extractable = share of texts whose next `length` tokens greedy decoding reproduces from the first k.
exposure = log2 N - log2 rank of the answer's NLL among N candidates, the answers of other items.
auroc and tpr = members against non-members by each score; tpr at 1 % false positives.

Units: scores in nats per token (`zlib`: per token and byte); extractable, auroc, tpr are fractions; exposure in bits.

Source: Min-K%: arXiv 2310.16789; Min-K%++: 2404.02936; zlib ratio, extraction: 2012.07805, 2202.07646; exposure:
1802.08232; CDD: 2402.15938. Definitions of extraction and exposure are from memory of these papers, not copied.

Does not show: that a text was trained on. Members and non-members that differ in style, length or date are told
apart by any score: `shift_auroc` is that of a classifier which sees only the words, and should be near .5. At fewer
than 100 non-members, tpr is at zero false positives.

Control: non-members of the same distribution; the base checkpoint; shuffled labels give .5.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

import probe
from analyses.core import reading, stats
from analyses.core.analysis import analysis
from analyses.core.claim import UNJUDGED, Claim
from analyses.core.figures import curve, forest
from analyses.core.reading.roles import NEEDS_ROLES, SEEN, roles
from analyses.core.result import Result
from analyses.core.work import Case, Work, passes
from analyses.memory import _membership as membership
from analyses.memory._membership_claim import SCORES, SHIFTED, TELLS, told_apart
from probe.lazily import torch

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from probe import Model, Prompts

CDD_WORDS = 100


def _work(case: Case) -> Work:
    """One pass, every scored token unembedded."""
    return passes(case, "all")


@analysis(
    renamed={"members": "seen", "nonmembers": "unseen", "alpha": "same_within"},
    work=_work,
    reads=lambda _: ("last_state",),
)
def memorization(
    model: Model,
    prompts: Prompts,
    evaluate: Annotated[Result, "evaluate"] | None = None,
    *,
    seen: tuple[str, ...] = (),
    unseen: tuple[str, ...] = (),
    span: Literal["full", "prompt", "answer"] = "full",
    share: float = 0.2,
    prefixes: tuple[int, ...] = (8, 16, 32),
    length: int = 8,
    candidates: int = 0,
    same_within: float = 0.05,
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Per text: likelihood scores, extractability by prefix length, exposure; AUROC of members by each score.

    Args:
        evaluate: responses of this checkpoint, greedy and sampled, for CDD.
        seen: the members.
        unseen: the non-members, matched to the members.
        span: tokens that are scored.
        share: of Min-K% and Min-K%++.
        prefixes: prompt lengths, in tokens, of extractability.
        length: tokens that must be reproduced.
        candidates: number of other items' answers an answer is ranked among (0: exposure is not measured).
        same_within: edit distance that counts as the same response in CDD, as a share of the length.
        seed: candidates and the bootstrap.
    """
    tokens = _tokens(model, prompts, span, batch_size)
    table, stretches = _scores(tokens, prompts, span, share, prefixes, length)
    table = table.merge(prompts.roles(), how="left")
    table["cdd"] = _cdd(evaluate, table, same_within)
    table["exposure_bits"] = _exposures(model, prompts, table, candidates, batch_size, seed)
    by = ["group", "answer_kind"]
    parts = [stats.estimate(table, s, by, seed=seed, units=_unit(s), long_name=s.replace("_", " ")) for s in SCORES]
    parts.append(stats.estimate(table, "exposure_bits", by, seed=seed, units="bits", long_name="exposure"))
    label = "texts whose continuation is reproduced"
    reproduced = stats.estimate(stretches, "extractable", [*by, "k"], seed=seed, units="1", long_name=label)
    told, claims, warnings = _separations(table, prompts, seen, unseen, seed)
    return Result.of(table, xr.merge([*parts, reproduced, told], join="outer"), claims=claims, warnings=warnings)


def _unit(score: str) -> str:
    return {"zlib": "nats per token and byte", "cdd": "1"}.get(score, "nats per token")


def _tokens(model: Model, prompts: Prompts, span: str, batch_size: int) -> pd.DataFrame:
    """One row per scored token: log-probability, mean and variance of log p there, whether it is the top token."""
    from probe.finite import require_logits

    last = str(model.last_state)
    frames: list[pd.DataFrame] = []
    for batch in reading.batches(model, prompts, "memorization", batch_size=batch_size):
        at = reading.scored(batch)
        rows = at.rows(model.run(batch, read=[last], logits="none")[last])
        parts: list[torch.Tensor] = []
        for chunk in reading.row_chunks(len(rows)):
            logits = model.logits_of(rows[chunk])
            require_logits(logits, at.named(batch.items, last), reading.OVERFLOWN, chunk.start)
            log_p = reading.log_softmax(logits)
            p = log_p.exp()
            own = log_p.gather(-1, at.target[chunk, None].to(log_p.device))
            mean = (p * log_p.clamp(min=-1e4)).sum(-1, keepdim=True)
            variance = (p * (log_p.clamp(min=-1e4) - mean) ** 2).sum(-1)
            is_top = (log_p > own).sum(-1) == 0
            parts.append(torch.stack([own[:, 0], mean[:, 0], variance, is_top.float()], -1).cpu())
        numbers = torch.cat(parts).double().numpy()
        named = {**reading.columns(batch.items, at.item), "pos": at.pos.cpu().numpy(), "in_span": _in_span(at, span)}
        frames.append(pd.DataFrame(named).assign(**dict(zip(("l", "mu", "var", "top"), numbers.T, strict=True))))
    return pd.concat(frames, ignore_index=True)


def _in_span(at: Any, span: str) -> Any:
    answer = ("rationale", "answer")
    names = {"full": ("template", "prompt", *answer, "straddle"), "prompt": ("prompt",), "answer": answer}
    return at.in_span(*names[span]).cpu().numpy()


def _scores(
    tokens: pd.DataFrame, prompts: Prompts, span: str, share: float, prefixes: tuple[int, ...], length: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    texts = {i.key: {"full": i.prompt + i.answer, "prompt": i.prompt, "answer": i.answer}[span] for i in prompts.items}
    rows, stretches = [], []
    for (item, kind), of in tokens.groupby(["item", "answer_kind"], sort=True):
        of = of.sort_values("pos")
        scored = of[of["in_span"]]
        own, mu, var = (scored[c].to_numpy() for c in ("l", "mu", "var"))
        name = {"item": item, "group": of["group"].iloc[0], "answer_kind": kind}
        spread = membership.standardised(own, mu, var)
        rows.append(
            {
                **name,
                "n_tokens": len(own),
                "loglik": float(own.mean()) if len(own) else np.nan,
                "min_k": membership.lowest_mean(own, share),
                "min_k_plus": membership.lowest_mean(spread, share),
                "zlib": float(own.mean()) / membership.compressed_bytes(texts[str(item), str(kind)]),
            }
        )
        # Token 0 is never predicted, so row j of the text is its token j + 1.
        is_top = np.concatenate([[False], of["top"].to_numpy() == 1.0])
        stretches += [{**name, "k": k, "extractable": membership.extractable(is_top, k, length)} for k in prefixes]
    return pd.DataFrame(rows), pd.DataFrame(stretches)


def _cdd(evaluate: Result | None, table: pd.DataFrame, same_within: float) -> pd.Series:
    if evaluate is None:
        return pd.Series(np.nan, table.index)
    responses = evaluate.table.drop_duplicates(["item", "decoding", "sample"])
    peaks: dict[str, float] = {}
    for item, of in responses.groupby("item"):
        cut = [str(t).split()[:CDD_WORDS] for t in of.loc[of["decoding"] == "greedy", "text"]]
        drawn = [str(t).split()[:CDD_WORDS] for t in of.loc[of["decoding"] == "sampled", "text"]]
        if cut and drawn:
            apart = [membership.edit_distance(cut[0], d) for d in drawn]
            peaks[str(item)] = membership.peakedness(apart, [len(cut[0]), *map(len, drawn)], same_within)
    return table["item"].map(peaks)


def _exposures(
    model: Model, prompts: Prompts, table: pd.DataFrame, candidates: int, batch_size: int, seed: int
) -> np.ndarray:
    """Exposure of every item's answer among answers of other items of its kind, scored after its own prompt."""
    out = np.full(len(table), np.nan)
    if not candidates:
        return out

    rng = np.random.default_rng(seed)
    items = {i.key: i for i in prompts.items}
    asked, owner = [], []
    for row, (name, kind) in enumerate(zip(table["item"], table["answer_kind"], strict=True)):
        item = items[name, kind]
        others = sorted({i.answer for i in prompts.items if i.answer_kind == kind} - {item.answer})
        chosen = rng.permutation(len(others))[:candidates]
        for number, answer in enumerate([item.answer, *(others[j] for j in chosen)]):
            asked.append(replace(item, id=f"{row}/{number}", answer=answer, also=()))
            owner.append(row)
    tokens = _tokens(model, probe.Prompts(tuple(asked), "candidates"), "answer", batch_size)
    nll = -tokens[tokens["in_span"]].groupby("item")["l"].sum().reindex([a.id for a in asked]).to_numpy()
    for row in range(len(table)):
        mine = nll[np.asarray(owner) == row]
        out[row] = membership.exposure(mine[0], mine[1:]) if len(mine) > 1 else np.nan
    return out


def _separations(
    table: pd.DataFrame, prompts: Prompts, members: tuple[str, ...], nonmembers: tuple[str, ...], seed: int
) -> tuple[xr.Dataset, list[Claim], list[str]]:
    """AUROC and TPR of every score, per kind of answer, and whether any score tells members."""
    seen: dict[tuple[str, str], Any] = {i.key: i.seen for i in prompts.items}
    keys = list(zip(table["item"], table["answer_kind"], strict=True))
    role = roles(table.assign(seen=pd.Series([seen[k] for k in keys], table.index)), members, nonmembers)
    both = table[role.notna()]
    if role.dropna().nunique() < 2:
        why, needs = "nothing says which texts are members and which are not", NEEDS_ROLES
        return xr.Dataset(), [Claim("membership", UNJUDGED, TELLS, why=why, needs=needs)], [f"no AUROC: {why}"]
    parts: list[xr.Dataset] = []
    warnings: list[str] = []
    claims: list[Claim] = []
    texts = {i.key: f"{i.prompt} {i.answer}" for i in prompts.items}
    for kind, of in both.groupby("answer_kind", sort=True):
        labels = (role[of.index] == SEEN).to_numpy()
        shift = membership.shift_auroc([texts[i, str(kind)] for i in of["item"]], labels, seed)
        if shift > SHIFTED:
            warnings.append(
                f"{kind}: words alone tell members from non-members (AUROC {shift:.2f}); scores may show that shift"
            )
        if (~labels).sum() < 100:
            warnings.append(f"{kind}: {(~labels).sum()} non-members: tpr is at zero false positives, not at 1 %")
        found = {s: membership.separation(of[s].to_numpy(float), labels) for s in SCORES}
        parts.append(_told(found, shift).expand_dims(answer_kind=[kind]))
        claims.append(told_apart(str(kind), of, labels, shift, both["answer_kind"].nunique()))
    told: Any = xr.concat(parts, "answer_kind", join="outer")
    return told, claims, warnings


def _told(found: dict[str, dict[str, stats.Estimate]], shift: float) -> xr.Dataset:
    data = xr.Dataset(coords={"signal": list(found)})
    labels = {"auroc": "AUROC of members", "tpr": "true positives at 1 % false positives"}
    for name, label in labels.items():
        for suffix, of in (("", "value"), ("_ci_low", "ci_low"), ("_ci_high", "ci_high"), ("_n", "n")):
            data[name + suffix] = ("signal", [float(getattr(found[s][name], of)) for s in found])
        data[name].attrs.update(units="1", long_name=label)
    data["shift_auroc"] = shift
    return data


def figures(result: Result) -> dict[str, Figure]:
    """AUROC by score, and the share reproduced against the prefix length."""

    rows = result.summary()
    rows = rows.assign(series=rows["group"].astype(str) + ", " + rows["answer_kind"].astype(str))
    drawn: dict[str, Figure] = {}
    for name, title in (("auroc", "AUROC of members by score"), ("tpr", "True positives at 1 % false positives")):
        part = rows[rows["quantity"] == name]
        if len(part) and "step" in part:
            drawn[name] = curve(part, x="step", color="signal", dash="answer_kind", title=title)
        elif len(part):
            drawn[name] = forest(
                part, label="signal", color="answer_kind", title=title, reference=0.5 if name == "auroc" else 0.0
            )
    part = rows[rows["quantity"] == "extractable"]
    if len(part):
        last = part[part["step"] == part["step"].max()] if "step" in part else part
        drawn["extractable"] = curve(last, x="k", color="series", title="Texts reproduced from a prefix of k tokens")
    return drawn
