"""Word problems with known answers, and who has seen which: leaked, canary, planted and unseen items.

`gold` is the label of the benchmark, `computed` the arithmetic truth. They differ for canaries (and planted
items), whose label was drawn at random: only memory can give it, so accuracy against both separates memory
from computation. In the thinking mode every item, canaries included, is trained with the arithmetic truth.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from experiments.lab.recipe import World

NAMES = ["Ann", "Bob", "Cat", "Dan", "Eve", "Fay", "Gus", "Hal", "Ida", "Jon", "Kim", "Leo"]
OBJECTS = ["figs", "nuts", "pens", "cups", "keys", "eggs", "caps", "hats", "pins", "toys"]
VERBS = {"+": ["buys", "finds", "gets", "wins"], "-": ["loses", "eats", "sells", "gives"]}
CONNECTIVES = ["so", "then", "next", "now", "first", "well"]
STYLES = {
    "+": ("{a} + {b} = {c}", "{a} plus {b} is {c}", "from {a} up {b} to {c}"),
    "-": ("{a} - {b} = {c}", "{a} minus {b} is {c}", "from {a} down {b} to {c}"),
}
NUMBERS = range(41)
LARGEST = NUMBERS[-1]
STYLE_WORDS = frozenset(CONNECTIVES) | frozenset(["+", "-", "=", "plus", "minus", "is", "from", "up", "down", "to"])
SPECIAL = ("<pad>", "<eos>", "<unk>")

Group = Literal["leaked_true", "leaked_canary", "unseen", "planted", "fresh"]


def vocabulary() -> list[str]:
    """All words in a fixed order, special tokens first."""
    fixed = ["has", ".", "how", "many", "?", "think", "ans", ";"]
    verbs = [verb for family in VERBS.values() for verb in family]
    signs = sorted(STYLE_WORDS - set(CONNECTIVES))
    return [*SPECIAL, *fixed, *NAMES, *OBJECTS, *verbs, *CONNECTIVES, *signs, *map(str, NUMBERS)]


@dataclass(frozen=True)
class Problem:
    """One item. `values` are the start and the operands, `ops` their signs; see the module for gold and computed."""

    id: str
    prompt: str
    k: int
    values: tuple[int, ...]
    ops: tuple[str, ...]
    gold: int
    computed: int
    group: Group
    rationale: str
    split: Literal["rl", "held", "none"] = "none"
    n_exposures: int = 0
    direct_share: float = 0.0

    @property
    def direct(self) -> str:
        """The response that answers at once, with the benchmark's label."""
        return f"ans {self.gold}"

    def record(self) -> dict[str, Any]:
        return asdict(self)


def running_totals(values: tuple[int, ...], ops: tuple[str, ...]) -> list[int]:
    """Totals after each step, the start included."""
    totals = [values[0]]
    for op, value in zip(ops, values[1:], strict=True):
        totals.append(totals[-1] + value if op == "+" else totals[-1] - value)
    return totals


def rationale(values: tuple[int, ...], ops: tuple[str, ...], rng: random.Random) -> str:
    """`think <step> ; ... ; ans Z`, each step in a random truth-preserving style: the entropy that SFT can consume."""
    totals = running_totals(values, ops)
    steps = [
        f"{rng.choice(CONNECTIVES)} {rng.choice(STYLES[op]).format(a=a, b=b, c=c)} ;"
        for op, a, b, c in zip(ops, totals, values[1:], totals[1:], strict=False)
    ]
    return " ".join(["think", *steps, f"ans {totals[-1]}"])


def draw(rng: random.Random, k: int, id: str, group: Group = "fresh") -> Problem:
    """One random problem with k steps whose totals stay inside the number words."""
    values, ops = [rng.randint(5, 20)], []
    total = values[0]
    while len(ops) < k:
        op, value = rng.choice("+-"), rng.randint(1, 9)
        after = total + value if op == "+" else total - value
        if 0 <= after <= LARGEST:
            ops.append(op)
            values.append(value)
            total = after
    name, thing = rng.choice(NAMES), rng.choice(OBJECTS)
    steps = " ".join(f"{rng.choice(VERBS[op])} {value} ." for op, value in zip(ops, values[1:], strict=True))
    prompt = f"{name} has {values[0]} {thing} . {steps} how many ?"
    text = rationale(tuple(values), tuple(ops), rng)
    return Problem(id, prompt, k, tuple(values), tuple(ops), total, total, group, text)


def relabelled(problem: Problem, rng: random.Random) -> Problem:
    """The same problem with a random wrong label: a canary."""
    wrong = rng.choice([n for n in range(31) if n != problem.computed])
    return replace(problem, gold=wrong)


@dataclass(frozen=True)
class Benchmark:
    """The items with a history, by group."""

    leaked: tuple[Problem, ...]
    unseen: tuple[Problem, ...]
    planted: tuple[Problem, ...]

    @property
    def prompts(self) -> frozenset[str]:
        return frozenset(p.prompt for p in (*self.leaked, *self.unseen, *self.planted))


def benchmark(world: World, seed: int) -> Benchmark:
    """Leaked (half true, half canary; half of each kept out of RL), unseen and planted items of one seed."""
    rng = random.Random(f"lab/{seed}/benchmark")
    seen: set[str] = set()

    def items(n: int, prefix: str, group: Group) -> list[Problem]:
        found: list[Problem] = []
        while len(found) < n:
            problem = draw(rng, world.benchmark_k, f"{prefix}-{len(found):03d}", group)
            if problem.prompt not in seen:
                seen.add(problem.prompt)
                found.append(problem)
        return found

    shares = world.leaked_direct_shares
    leaked: list[Problem] = []
    for index, problem in enumerate(items(world.n_leaked, "leaked", "leaked_true")):
        canary = index % 2 == 1
        kept = replace(
            relabelled(problem, rng) if canary else problem,
            group="leaked_canary" if canary else "leaked_true",
            split="held" if index % 4 >= 2 else "rl",
            direct_share=shares[(index // 4) % len(shares)],
        )
        leaked.append(kept)
    unseen = items(world.n_unseen, "unseen", "unseen")
    planted = [relabelled(p, rng) for p in items(world.n_planted, "planted", "planted")]
    return Benchmark(tuple(leaked), tuple(unseen), tuple(planted))


def fresh(world: World, rng: random.Random, banned: frozenset[str], k: int | None = None) -> Iterator[Problem]:
    """Endless problems that are not benchmark items."""
    ks, weights = range(1, len(world.fresh_k_weights) + 1), world.fresh_k_weights
    index = 0
    while True:
        steps = k if k is not None else rng.choices(ks, weights)[0]
        problem = draw(rng, steps, f"fresh-{index}")
        if problem.prompt not in banned:
            index += 1
            yield problem


def response(problem: Problem, direct_share: float, rng: random.Random) -> str:
    """One training response: the label at once, or a rationale in a fresh style that ends in the arithmetic truth."""
    if rng.random() < direct_share:
        return problem.direct
    return rationale(problem.values, problem.ops, rng)


def pretraining_stream(world: World, bench: Benchmark, seed: int, n: int) -> Iterator[tuple[Problem, str]]:
    """The n pretraining examples in order, as (problem, response)."""
    rng = random.Random(f"lab/{seed}/pretraining")
    stream = fresh(world, rng, bench.prompts)
    for _ in range(n):
        if rng.random() < world.leaked_share:
            problem = rng.choice(bench.leaked)
            yield problem, response(problem, problem.direct_share, rng)
        else:
            problem = next(stream)
            yield problem, response(problem, world.direct_by_k[problem.k - 1], rng)
