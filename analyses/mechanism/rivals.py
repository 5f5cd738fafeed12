"""How much of a gain is a change of form: answers that can be read, boxed, code, length, repetition; a twin run.

Definition: responses at the first and the last step are sorted by one feature (read: an answer could be read; boxed;
    code; long and repeated: above the first step's median). With p the share of responses of each kind and a the
    share right among them, gain = sum over kinds of (change of p) x (mean a) + (mean p) x (change of a): the first
    sum, mix, is what the change of form is worth, the second, within, what is left at equal form. share = mix / gain.
    With twin, a run whose reward is random (or another control), beyond_twin = gain - the twin's gain, over items
    that both measured.
Units: fractions; share has none (NaN where the gain's interval holds 0).
Source: arXiv 2506.10947 (code and boxing behind gains from spurious rewards); the split is Kitagawa's (1955).
Does not show: cause: a form may come with what makes answers right. Features are told by patterns. Mixes overlap and
    do not add up. Sensitivity to the template is asked with the analysis wordings.
Control: the other features; the twin; a constant form (mix 0).
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.analysis import analysis
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.figures import forest
from analyses.core.result import Result
from analyses.core.stats import clusters_of, mean_of_items
from probe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from plotly.graph_objects import Figure

FEATURES = ("read", "boxed", "code", "long", "repeated")
CODE = re.compile(r"```|\bdef \w+\(|\bimport \w+|\bprint\(")
FEWEST = 8  # items
MOST = 0.5  # of the gain, beyond which it is called one of form
TAIL = 0.025 / len(FEATURES)  # intervals hold for all features together
GRAM = 4  # words of what is counted as repeated
WHAT = "the gain is one of form"


@analysis
def rivals(
    evaluate: Annotated[Result, "evaluate"],
    twin: Annotated[Result, "evaluate"] | None = None,
    *,
    draws: int = 500,
    seed: int = 0,
) -> Result:
    """The gain from first to last step, split by every feature into a change of form and what is left.

    Rows: item, group, variant (the feature), n_first, n_last, right_first, right_last, shown_first,
    shown_last (shares of responses that show it).

    Args:
        evaluate: sweep of `evaluate`, of a model or a log.
        twin: the same of a run with a random reward, or of another control.
        draws: bootstrap draws over items.
        seed: the bootstrap.
    """
    rows = _ends(evaluate.table)
    counts = {name: _counts(rows, name) for name in FEATURES}
    data = _aggregate(counts, draws, seed)
    if twin is not None:
        data = data.merge(_beyond(counts["read"], _counts(_ends(twin.table), "read")))
    table = pd.concat([_table(c, rows).assign(variant=name) for name, c in counts.items()], ignore_index=True)
    return Result.of(table, data, claims=_claims(data, len(counts["read"])))


def _ends(table: pd.DataFrame) -> pd.DataFrame:
    """Responses at the first and the last step, with their features.

    Raises:
        InputError: fewer than two steps.
    """
    if "step" not in table or table["step"].nunique() < 2:
        raise InputError("rivals compares two steps: sweep evaluate over checkpoints, or give a log of several steps")
    rows = table[(table["status"] != "gold_unparsed") & table["step"].isin([table["step"].min(), table["step"].max()])]
    texts = [str(t) for t in rows["text"]]
    rows = rows.assign(
        last=(rows["step"] == rows["step"].max()).astype(int),
        right=(rows["status"] == "correct").astype(float),
        read=(rows["status"] != "unparsed").astype(float),
        boxed=[float("\\boxed" in t) for t in texts],
        code=[float(CODE.search(t) is not None) for t in texts],
    )
    for name, measured in (("long", _words), ("repeated", repetition)):
        values = np.array([measured(t) for t in texts])
        rows[name] = (values > np.median(values[rows["last"].to_numpy() == 0])).astype(float)
    return rows


def _words(text: str) -> float:
    return float(len(text.split()))


def repetition(text: str) -> float:
    """Share of a text's runs of four words that occurred before in it."""
    words = text.split()
    runs = [tuple(words[k : k + GRAM]) for k in range(len(words) - GRAM + 1)]
    return 1 - len(Counter(runs)) / len(runs) if runs else 0.0


def _counts(rows: pd.DataFrame, feature: str) -> pd.DataFrame:
    """Of every item, shares over its responses: by end (0, 1) and kind (0, 1), of responses and of right ones."""
    parts: dict[str, pd.Series] = {}
    per = rows.groupby(["item", "last"]).size()
    for end in (0, 1):
        for kind in (0, 1):
            own = rows[(rows["last"] == end) & (rows[feature] == kind)].groupby("item")["right"]
            for name, value in (("p", own.size()), ("right", own.sum())):
                parts[f"{name}{end}{kind}"] = value
    found = pd.DataFrame(parts, index=pd.Index(sorted(rows["item"].unique()), name="item")).fillna(0.0)
    for end in (0, 1):
        size = per.xs(end, level="last").reindex(found.index)
        for name in ("p", "right"):
            for kind in (0, 1):
                found[f"{name}{end}{kind}"] = found[f"{name}{end}{kind}"] / size
    return found.dropna()


def split(mean: dict[str, float]) -> tuple[float, float]:
    """(mix, within) of a gain, from mean shares of responses and of right ones by end and kind.

    A kind that one end lacks has the other end's share right: then all of its change is mix.
    """
    mix = within = 0.0
    for kind in "01":
        p = [mean[f"p{end}{kind}"] for end in "01"]
        right = [mean[f"right{end}{kind}"] / p[n] if p[n] > 0 else np.nan for n, end in enumerate("01")]
        first, last = (right[n] if p[n] > 0 else right[1 - n] for n in (0, 1))
        if p[0] + p[1] > 0:
            mix += (p[1] - p[0]) * (first + last) / 2
            within += (p[0] + p[1]) / 2 * (last - first)
    return mix, within


def _aggregate(counts: dict[str, pd.DataFrame], draws: int, seed: int) -> xr.Dataset:
    """gain, and mix, within and share by feature, with percentiles over items drawn again."""
    data = xr.Dataset(coords={"variant": np.asarray(FEATURES, object)})
    rng = np.random.default_rng(seed)
    n = len(counts["read"])
    picks = rng.integers(0, n, (draws, n))
    found = {name: _drawn(c, picks) for name, c in counts.items()}
    gain = _gain(counts["read"])
    told = mean_of_items(gain.to_numpy(float), clusters=clusters_of(gain.index))
    label = {"units": "1", "long_name": "share right, last step minus first"}
    data["gain"] = ((), float(told.value), label)
    data["gain_ci_low"], data["gain_ci_high"] = (((), float(x)) for x in (told.ci_low, told.ci_high))
    data["gain_n"] = ((), float(n))
    sure = float(told.ci_low) > 0 or float(told.ci_high) < 0
    measures: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "mix": lambda v: v[:, 0],
        "within": lambda v: v[:, 1],
        "share": lambda v: v[:, 0] / v.sum(1) if sure else np.full(len(v), np.nan),
    }
    for name, of in measures.items():
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.stack([of(found[f]) for f in FEATURES])
        value = values[:, 0]
        low, high = (
            np.nanquantile(values[:, 1:], [TAIL, 1 - TAIL], axis=1) if sure or name != "share" else (value, value)
        )
        data[name] = ("variant", value, {"units": "1"})
        data[f"{name}_ci_low"] = ("variant", np.fmin(low, value))
        data[f"{name}_ci_high"] = ("variant", np.fmax(high, value))
        data[f"{name}_n"] = ("variant", np.full(len(FEATURES), float(n)))
    return data


def _drawn(counts: pd.DataFrame, picks: np.ndarray) -> np.ndarray:
    """(mix, within) of the items as they are, then of every draw [1 + draw, 2]."""
    values, names = counts.to_numpy(float), list(counts.columns)
    means = [values.mean(0), *(values[p].mean(0) for p in picks)]
    return np.array([split(dict(zip(names, map(float, m), strict=True))) for m in means])


def _gain(counts: pd.DataFrame) -> pd.Series:
    return counts["right10"] + counts["right11"] - counts["right00"] - counts["right01"]


def _beyond(own: pd.DataFrame, twin: pd.DataFrame) -> xr.Dataset:
    both = pd.concat([_gain(own), _gain(twin)], axis=1, join="inner")
    apart = both.iloc[:, 0] - both.iloc[:, 1]
    told = mean_of_items(apart.to_numpy(float), clusters=clusters_of(apart.index))
    data = xr.Dataset({"beyond_twin": ((), float(told.value), {"units": "1", "long_name": "gain beyond the twin's"})})
    data["beyond_twin_ci_low"], data["beyond_twin_ci_high"] = (((), float(x)) for x in (told.ci_low, told.ci_high))
    data["beyond_twin_n"] = ((), float(len(both)))
    return data


def _table(counts: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    groups = rows.drop_duplicates("item").set_index("item")["group"]
    sizes = rows.groupby(["item", "last"]).size().unstack("last")
    columns = {
        "item": counts.index,
        "group": groups.reindex(counts.index).to_numpy(),
        "n_first": sizes[0].reindex(counts.index).to_numpy(),
        "n_last": sizes[1].reindex(counts.index).to_numpy(),
        "right_first": (counts["right00"] + counts["right01"]).to_numpy(),
        "right_last": (counts["right10"] + counts["right11"]).to_numpy(),
        "shown_first": counts["p01"].to_numpy(),
        "shown_last": counts["p11"].to_numpy(),
    }
    return pd.DataFrame(columns)


def _claims(data: xr.Dataset, n: int) -> list[Claim]:
    """Whether one change of form is worth most of the gain: its share's interval, as wide as for all features."""
    said: Fields = {"n": n, "control": "equal form", "caveat": "a form may come with what makes answers right"}
    if n < FEWEST:
        needs = f"at least {FEWEST} items"
        return [Claim("form", UNJUDGED, WHAT, why=f"{n} items are too few", needs=needs, n=n)]
    gain: Fields = {
        "effect": float(data["gain"]),
        "low": float(data["gain_ci_low"]),
        "high": float(data["gain_ci_high"]),
    }
    if not gain["low"] > 0:
        gain["estimand"] = "share right, last minus first"
        return [Claim("form", NONE, "a gain, so nothing to explain", **gain, **said)]
    best = int(np.nanargmax(data["share"].to_numpy()))
    value, low, high = (float(data[f"share{part}"][best]) for part in ("", "_ci_low", "_ci_high"))
    name = FEATURES[best]
    told: Fields = {
        **said, "effect": value, "low": low, "high": high, "is_change": False, "family": f"{len(FEATURES)} features",
        "estimand": f"share of the gain that the change of {name} is worth at unchanged accuracy", "place": name,
        "assumptions": (f"gain {gain['effect']:+.2f} [{gain['low']:+.2f}, {gain['high']:+.2f}]",),
    }  # fmt: skip
    if low > MOST:
        return [Claim("form", FOUND, f"most of the gain is a change of form ({name}), its share", **told)]
    return [Claim("form", NONE, "that most of the gain is a change of form, the largest share", **told)]


def figures(result: Result) -> dict[str, Figure]:
    """What every change of form is worth, beside what is left."""
    rows = result.summary()
    shown = rows[rows["quantity"].isin(["mix", "within"])]
    return {"split": forest(shown, label="variant", color="quantity", title="A gain split by the form of responses")}
