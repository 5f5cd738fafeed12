"""The problem generator: answers are right, groups are what they say, nothing leaks that should not."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice

import pytest

from experiments.lab import world as w
from experiments.lab.recipe import Recipe


def test_computed_is_the_arithmetic_truth():
    rng = random.Random(0)
    for index in range(200):
        problem = w.draw(rng, 1 + index % 4, "x")
        total = problem.values[0]
        for op, value in zip(problem.ops, problem.values[1:], strict=True):
            total = total + value if op == "+" else total - value
            assert 0 <= total <= w.LARGEST
        assert total == problem.computed == problem.gold


def test_a_rationale_is_true_in_every_style_and_all_styles_occur():
    rng = random.Random(1)
    seen: Counter[str] = Counter()
    for _ in range(300):
        problem = w.draw(rng, 3, "x")
        *steps, answer = w.rationale(problem.values, problem.ops, rng).removeprefix("think ").split(" ; ")
        assert answer == f"ans {problem.computed}"
        for step, a, b in zip(steps, w.running_totals(problem.values, problem.ops), problem.values[1:], strict=False):
            numbers = [int(word) for word in step.split() if word.isdigit()]
            assert numbers[:2] == [a, b]
            seen[step.split()[0]] += 1
            seen[" ".join(word for word in step.split()[1:] if not word.isdigit())] += 1
    assert set(w.CONNECTIVES) <= set(seen)
    assert len(seen) == len(w.CONNECTIVES) + 6


def test_groups_are_disjoint_and_canaries_are_wrong(full_recipe: Recipe):
    bench = w.benchmark(full_recipe.world, 0)
    everything = [*bench.leaked, *bench.unseen, *bench.planted]
    assert len({p.prompt for p in everything}) == len(everything) == 96 + 96 + 64
    for problem in everything:
        wrong = problem.group in ("leaked_canary", "planted")
        assert (problem.gold != problem.computed) == wrong
        assert problem.k == full_recipe.world.benchmark_k


def test_leaked_items_are_balanced_over_label_split_and_share(full_recipe: Recipe):
    bench = w.benchmark(full_recipe.world, 0)
    cells = Counter((p.group, p.split, p.direct_share) for p in bench.leaked)
    assert len(cells) == 2 * 2 * 3
    assert set(cells.values()) == {8}


def test_benchmark_items_are_banned_from_the_fresh_stream(tiny_recipe: Recipe):
    # With one step and the world's small numbers collisions would be certain without the ban.
    world = tiny_recipe.world
    banned = frozenset(p.prompt for p in islice(w.fresh(world, random.Random(0), frozenset(), 1), 2000))
    again = islice(w.fresh(world, random.Random(0), banned, 1), 500)
    assert all(p.prompt not in banned for p in again)


def test_exposures_and_direct_shares_match_the_recipe(full_recipe: Recipe):
    world = full_recipe.world
    bench = w.benchmark(world, 0)
    n = 20_000
    stream = list(w.pretraining_stream(world, bench, 0, n))
    leaked = [(p, text) for p, text in stream if p.group != "fresh"]
    assert len(leaked) / n == pytest.approx(world.leaked_share, abs=0.01)
    for share in world.leaked_direct_shares:
        texts = [text for p, text in leaked if p.direct_share == share]
        direct = [text.startswith("ans") for text in texts]
        assert sum(direct) / len(direct) == pytest.approx(share, abs=0.05)
    assert all(p.prompt not in {u.prompt for u in bench.unseen} for p, _ in stream)


def test_thinking_always_ends_in_the_truth_even_for_canaries(full_recipe: Recipe):
    bench = w.benchmark(full_recipe.world, 0)
    for problem, text in w.pretraining_stream(full_recipe.world, bench, 0, 3000):
        expected = problem.gold if text.startswith("ans") else problem.computed
        assert text.split()[-2:] == ["ans", str(expected)]


def test_the_same_seed_gives_the_same_world_and_another_seed_another(full_recipe: Recipe):
    world = full_recipe.world
    assert w.benchmark(world, 0) == w.benchmark(world, 0)
    assert w.benchmark(world, 0).prompts.isdisjoint(w.benchmark(world, 1).prompts)
