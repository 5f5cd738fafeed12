"""Grades on known pairs, by kind of answer; golds decide what counts; hostile responses; real benchmark answers."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest

from analyses.core.reading import timed
from analyses.core.reading.exact_numbers import numbers, plain
from analyses.core.reading.grading import Expected, Grade, grader, has_code, is_boxed, read
from analyses.core.reading.wording import is_prose
from probe import Item
from probe.errors import InputError

MATHEMATICS = [
    (r"so \boxed{\frac{1}{2}}", "0.5", "correct"),
    (r"so \boxed{\frac{1}{3}}", "0.5", "wrong"),
    (r"\boxed{p-q}", "p - q", "correct"),
    (r"\boxed{\left(3,\frac{\pi}{2}\right)}", r"\left( 3, \frac{\pi}{2} \right)", "correct"),
    (r"\boxed{3}", r"\left( 3, \frac{\pi}{2} \right)", "wrong"),
    ("the answer is 142", "142.0", "correct"),
    (r"\boxed{SRAC=LRAC}", "SRAC=LRAC", "correct"),
    (r"so \boxed{\frac{a_{1}}{2}}", r"\frac{a_{1}}{2}", "correct"),
    ("so it is 18", "She makes 9 * 2 = 18 a day.\n#### 18", "correct"),
    ("ans 23", "ans 22", "wrong"),
    ("no idea", "7", "unparsed"),
    ("", "7", "unparsed"),
    # mixed numbers, ratios, thin spaces, exponents
    ("The answer is 2 2/3", "2", "wrong"),
    ("The answer is 2 2/3", "8/3", "correct"),
    (r"\boxed{2\frac{2}{3}}", "8/3", "correct"),
    ("1 1/4", "5/4", "correct"),
    (r"\boxed{2:1}", "2", "wrong"),
    (r"\boxed{2:1}", "2:1", "correct"),
    (r"\boxed{1\,000}", "1000", "correct"),
    ("1{,}000", "1000", "correct"),
    ("1e3", "1000", "correct"),
    (r"\boxed{4.5 \times 10^{-3}}", "0.0045", "correct"),
    # words beside the number, other boxes, thoughts
    (r"\boxed{\text{The answer is } 460}", "460", "correct"),
    (r"\boxed{460 \text{ apples}}", "460", "correct"),
    (r"\fbox{3}", "3", "correct"),
    (r"\boxed 4", "4", "correct"),
    (r"\boxed{5}, no: \boxed{7}", "7", "correct"),
    (r"<think>\boxed{5}</think> The answer is 7", "7", "correct"),
    (r"<think>\boxed{5}</think> The answer is 7", "5", "wrong"),
    (r"<answer>12</answer>", "12", "correct"),
    ("He answers 5 calls a day for 2 days.\nA: 10", "10", "correct"),
    ("**Answer:** 4.", "4", "correct"),
    # sets, tuples, intervals, equations, bases
    (r"\boxed{6, 5}", "5,6", "correct"),
    (r"\boxed{5} and \boxed{6}", "5,6", "correct"),
    (r"\boxed{5 \text{ or } 6}", "5,6", "correct"),
    (r"\boxed{[3,4]}", "(3,4)", "wrong"),
    (r"\boxed{x=3}", "3", "correct"),
    # a difference of letters is no hyphenated word
    (r"\boxed{\frac{1}{b-a}(e^{-a t}-e^{-b t})}", r"\frac{1}{b-a}\left(e^{-a t}-e^{-b t}\right)", "correct"),
    (r"\boxed{\frac{e^{-bt}-e^{-at}}{a-b}}", r"\frac{1}{b-a}\left(e^{-a t}-e^{-b t}\right)", "correct"),
    (r"\boxed{1}", r"\frac{1}{b-a}\left(e^{-a t}-e^{-b t}\right)", "wrong"),
    (r"\boxed{k x-a}", "-a + kx", "correct"),
    (r"\boxed{0}", "x^2-2x+10=0", "wrong"),
    (r"\boxed{(1)(3)}", "4", "wrong"),
    (r"\boxed{52}", "52_8", "correct"),
    (r"\boxed{52_7}", "52_8", "wrong"),
    # variables are no units
    (r"\boxed{2k}", "2", "wrong"),
    (r"\boxed{3i}", "3", "wrong"),
    (r"\boxed{5\text{ m}}", "5", "correct"),
    # an answer of another kind is an answer, not a gap
    (r"\boxed{\text{no solution}}", "5", "wrong"),
    (r"\boxed{2\sqrt{3}}", "3", "wrong"),
    (r"\boxed{2\sqrt{4}}", "4", "correct"),
    (r"so $x = 2\sqrt{3}$.", "3", "wrong"),
    (r"The answer is $\frac{1}{2}$ meters.", "0.5", "correct"),
    ("The answer is x^2+1.", "1+x^2", "correct"),
    (r"\boxed{50\%}", "0.5", "correct"),
    (r"\boxed{7!}", "5040", "correct"),
    ("The answer is 7!", "7", "correct"),
    ("0.333333", "1/3", "correct"),
    ("0.33", "1/3", "wrong"),
    (r"\boxed{10^{10^{10}}}", "10^{10^{10}}", "correct"),
]


@pytest.mark.parametrize("name", ["auto", "math"])
def test_mathematics(name: str):
    grade = grader(name)
    found = grade.many([(response, gold) for response, gold, _ in MATHEMATICS])
    wrong = [(r, g, f.status) for (r, g, want), f in zip(MATHEMATICS, found, strict=True) if f.status != want]
    assert not wrong


NUMBERS = [
    ("It is 2 2/3", "8/3", "correct"), ("It is 2 2/3", "2/3", "wrong"), ("so 1/3 of it", "2/6", "correct"),
    ("the range is 3-5", "5", "correct"), ("8-3", "-3", "wrong"), ("−5", "5", "wrong"), ("x = .5", "0.5", "correct"),
    ("1e3", "1000", "correct"), ("1.5e-3", "0.0015", "correct"), ("values 1,2,3", "3", "correct"),
    ("1,234 in all", "1234", "correct"), ("1\u202f000", "1000", "correct"), ("2.5/5", "0.5", "correct"),
    ("1.5/2.5", "0.6", "correct"), ("-$3", "-3", "correct"), (r"\boxed{\frac{3}{4}}", "4", "wrong"),
    (r"\boxed{\frac{3}{4}}", "0.75", "correct"), ("2^10", "1024", "correct"), ("2^10", "10", "wrong"),
    ("711", "11", "wrong"), ("100,000", "100", "wrong"), ("H2O has 3 atoms", "3", "correct"), ("9" * 5000, "5", "unparsed"),  # noqa: E501
    ("it costs 5 million", "5000000", "correct"), ("1/0", "0", "unparsed"), ("1e999999999", "1", "unparsed"),
    ("nothing", "3", "unparsed"), ("5", "nothing", "gold_unparsed"),
]  # fmt: skip


def test_numbers_are_exact():
    found = grader("number").many([(response, gold) for response, gold, _ in NUMBERS])
    assert not [(r, g, f.status) for (r, g, want), f in zip(NUMBERS, found, strict=True) if f.status != want]
    assert math.isnan(grader("number")("nothing", "3").correct)
    assert last_number_of("from 3 to -4.50") == Fraction(-9, 2)


def last_number_of(text: str) -> Fraction | None:
    found = numbers(plain(text))
    return found[-1].value if found else None


WORDS = [
    (r"\boxed{True}", "True", "correct"), (r"\boxed{False}", "True", "wrong"), ("Yes, that is so.", "yes", "correct"),
    ("No.", "True", "wrong"), ("I think it's false", "False", "correct"), (r"\boxed{\text{Evelyn}}", "Evelyn", "correct"),  # noqa: E501
    (r"\boxed{Evelyn}", r"\text{Evelyn}", "correct"), ("The capital is Paris.", "Paris", "correct"),
    ("It is not Paris.", "Paris", "wrong"), ("Paris is not the capital, London is.", "Paris", "wrong"),
    ("Paris is not the capital, London is.", "London", "correct"), ("the answer is northeast", "east", "wrong"),
    ("The answer is: the Nile, of course.", "Nile", "correct"), ("red, green and blue", "blue, red, green", "correct"),
    ("red and blue", "red, green, blue", "wrong"), (r"\boxed{June 20}", r"\text{June 20}", "correct"),
    ("think 3 + 4 = 7 ; ans 22", "ans 22", "correct"), ("ans 23", "ans 22", "wrong"), ("", "Paris", "unparsed"),
    ("The answer is B", "B", "correct"), ("The answer is (A).", "B", "wrong"), ("(b)", "B", "correct"),
    ("B. because", "B", "correct"), (r"\boxed{\text{(C)}}", r"\text{(C)}", "correct"), ("I do not know", "B", "unparsed"),  # noqa: E501
    (r"\boxed{D, A, C}", "ACD", "correct"), (r"\boxed{288\pi}", r"\text{(C)}", "wrong"),
    ("A good question. It must be (D).", "D", "correct"), ("The answer is a banana", "A", "unparsed"),
    (r"\boxed{No solution}", "no solution", "correct"), (r"\boxed{m}", "m", "correct"), (r"\boxed{n}", "m", "wrong"),
]  # fmt: skip


def test_words_letters_and_lists():
    found = grader().many([(response, gold) for response, gold, _ in WORDS])
    assert not [(r, g, f.status) for (r, g, want), f in zip(WORDS, found, strict=True) if f.status != want]


def test_choices_are_named_by_letter_or_by_their_text():
    item = Item("q", "Capital of France?", "Paris", choices=("Rome", "Paris", "Bonn"), correct=1)
    answers = {
        "B": "correct",
        "The answer is Paris.": "correct",
        r"\boxed{A}": "wrong",
        "Bonn": "wrong",
        "?": "unparsed",
    }
    assert {a: grader()(a, item).status for a in answers} == answers
    assert grader("choice")("The answer is E", item).status == "unparsed"  # there is no E
    assert grader().kinds([item]) == ["choice"]


def test_any_of_several_golds_counts():
    both = Expected(("3", "4"))
    assert [grader(n)("4", both).status for n in ("exact", "number", "math", "auto")] == ["correct"] * 4
    assert grader()("Munich", Expected(("München", "Munich"))).status == "correct"


def test_an_abstention_is_right_only_where_there_is_no_answer():
    nothing, paris = Expected(()), Expected(("Paris",))
    assert grader()("I don't know.", nothing).status == "gold_unparsed"
    rule = grader("auto", abstain="usual")
    said = [("I don't know.", nothing), ("It cannot be determined.", nothing), ("Paris", nothing), ("Paris", paris),
            ("I do not know", paris)]  # fmt: skip
    assert [g.status for g in rule.many(said)] == ["correct", "correct", "wrong", "correct", "wrong"]


def test_the_kind_is_chosen_by_the_gold_alone():
    golds = [
        "B",
        "5",
        "$18.90",
        "20 apples",
        r"\frac{3}{4}",
        r"\sqrt{2}",
        "x+1",
        "Paris",
        r"\text{even}",
        "ACD",
        "",
        "June 20",
    ]
    assert grader().kinds(golds) == ["choice", "number", "number", "number", "number", "math", "math", "text", "text",
                                     "choice", None, "text"]  # fmt: skip
    assert grader("math").kinds(["True", r"\text{east}", "ans 22"]) == [None, "math", "math"]
    assert grader("number").kinds(["True", "5 m"]) == [None, "number"]


@pytest.mark.parametrize("response", ["True", r"\boxed{True}", "False", "7", "", "anything"])
def test_whether_an_item_counts_does_not_depend_on_the_response(response: str):
    assert grader("math")(response, "True").status == "gold_unparsed"


def test_a_pattern_says_where_the_answer_is():
    lab = grader("exact", r"ans (\d+)\s*$")
    assert lab("think so 3 + 4 = 7 ; ans 7", "ans 7") == Grade("correct", "7")
    assert lab("think so 3 + 4 = 7 ;", "ans 7") == Grade("unparsed", None)
    assert lab("ans 8", "7").status == "wrong"


def test_a_pattern_that_never_ends_ends():
    assert grader("exact", r"((?:a+)+)b").many([("a" * 60, "x"), ("aab", "aa")]) == [
        Grade("unparsed", None), Grade("correct", "aa"),
    ]  # fmt: skip


def test_a_function_of_ones_own():
    graded = grader("operator:eq")
    assert graded("a", "a").status == "correct"
    assert graded("a", "b").status == "wrong"


@pytest.mark.parametrize(
    ("name", "pattern", "message"),
    [("maths", None, "expected one of"), ("nowhere:f", None, "cannot be imported"),
     ("exact", "(", "not a regular expression"), ("exact", "x", "no group")],
)  # fmt: skip
def test_bad_graders_are_refused(name: str, pattern: str | None, message: str):
    with pytest.raises(InputError, match=message):
        grader(name, pattern)


def test_unlike_answers_in_letters_share_no_name():
    """Values far out would all be 0, or overflow."""
    texts = [rf"\boxed{{{t}}}" for t in ("e^{-at}", "e^{-bt}", "e^{-at}-e^{-bt}", "e^{at}", "e^{bt}", "n!", "m!", "0")]
    assert len({g.same for g in read(texts)}) == len(texts)
    assert len({g.same for g in read([r"\boxed{e^{-at}}", r"\boxed{\frac{1}{e^{at}}}"])}) == 1


def test_equal_answers_share_a_name():
    texts = [r"\boxed{1/2}", r"\boxed{0.5}", r"\boxed{\frac{1}{2}}", "so it is 0.50", r"\boxed{3}", r"\boxed{\sqrt{9}}",
             r"\boxed{x+1}", r"\boxed{1+x}", r"\boxed{x=\frac{\sqrt{2}}{2}}", r"\boxed{\frac{1}{\sqrt{2}}}",
             r"\boxed{\text{no}}", "hm"]  # fmt: skip
    same = [g.same for g in read(texts)]
    assert [len({*same[a:b]}) for a, b in ((0, 4), (4, 6), (6, 8), (8, 10))] == [1] * 4
    assert len({*same[:11]}) == 5
    assert same[11] is None
    wrong = [g.same for g in grader().many([(t, "7") for t in texts])]
    assert [len({*wrong[a:b]}) for a, b in ((0, 4), (4, 6), (6, 8), (8, 10))] == [1] * 4


HOSTILE = [
    "9" * 60_000,
    "1 " * 30_000,
    " " * 50_000 + "x",
    "$ " * 20_000,
    "**" * 20_000,
    "{" * 9000,
    "the answer is " * 3000,
    r"\frac{" * 5000,
    r"\boxed{" * 5000,
    r"\boxed{10^{10^{10}}}",
    r"\boxed{" + "9^{" * 30 + "9" + "}" * 31,
    r"\boxed{(x+1)^{1000000}}",
    r"\boxed{\binom{10^{9}}{10^{8}}}",
    r"\boxed{\sum_{n=1}^{10^9} \frac{1}{n}}",
]


def test_no_response_freezes_a_grading_in_any_thread():
    ordinary = [(r"\boxed{x+1}", "1+x"), ("so 7", "8"), (r"\boxed{\sqrt{3}}", r"\sqrt{2}")]
    pairs = [*((h, g) for h in HOSTILE for g in ("7", r"\frac{x+1}{2}", "Paris")), *ordinary]
    found: list[Grade] = []
    other = threading.Thread(target=lambda: found.extend(grader().many(pairs)), daemon=True)
    other.start()
    other.join()  # no clock but pytest's own: what froze would stand here
    assert [g.status for g in found[-3:]] == ["correct", "wrong", "wrong"]
    assert "correct" not in [g.status for g in found[:-3]]


@pytest.mark.verify
def test_a_thousand_responses_of_which_fifty_are_hostile():
    ordinary = [(rf"so $\frac{{{i % 9}}}{{x+{i % 5}}}$", rf"\frac{{{i % 7}}}{{x+{i % 5}}}") for i in range(950)]
    hostile = [(h, g) for h in HOSTILE * 2 for g in ("7", r"\frac{x+1}{2}")][:50]
    alone, before = grader().many(ordinary), time.monotonic()
    together = grader().many([*hostile, *ordinary])
    assert time.monotonic() - before < 150
    assert together[50:] == alone
    assert "correct" not in {g.status for g in together[:50]}


def test_a_job_that_cannot_be_stopped_from_inside_is_ended_with_its_worker():
    assert timed.done([["cut", r"^(\w+)$", "ok"], ["factorial", 10**9], ["cut", r"^(\w+)$", "fine"]]) == [
        "ok", None, "fine",
    ]  # fmt: skip


def test_a_file_named_like_a_module_of_python_is_not_in_the_workers_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "types.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(str(tmp_path))
    worker = timed._Worker()  # pyright: ignore[reportPrivateUsage]
    try:
        assert worker.do(["reads", "x+1"]) is True
        assert os.getpgid(worker.process.pid) != os.getpgid(0)  # a Ctrl-C in the terminal does not reach it
    finally:
        worker.close()


def test_text_features():
    assert is_boxed(r"\boxed{1}")
    assert not is_boxed("boxed 1")
    assert has_code("```python\nx\n```")
    assert has_code("so\nprint(3)")
    assert not has_code("we print the definition")


def test_prose_is_told_from_mathematics(benchmarks: Path):
    assert all(map(is_prose, ("ans 22", "the answer: 4", "True", "No solution", "abc", "x-ray", "I don't know")))
    assert not any(map(is_prose, ("b-a", "x-a", "k x-a", "a-b-c", "e-u", "sin-cos")))
    assert not any(map(is_prose, ("xy", "sin(x)", "log 2", r"\begin{pmatrix} 1 \end{pmatrix}", "x = 1 or x = 2")))
    for name in ("math500.json", "amc.json", "aime24.json"):
        assert not [r["answer"] for r in json.loads((benchmarks / name).read_text()) if is_prose(r["answer"])]


def golds_of(benchmarks: Path, name: str) -> list[str]:
    from probe import Prompts

    schema = {"gsm8k_test.jsonl": "gsm8k", "minerva_math.jsonl": "minerva_math", "svamp.jsonl": "svamp"}
    return [i.answer for i in Prompts.read(benchmarks / name, columns=schema.get(name, "ttrl")).items]


FILES = ["math500.json", "amc.json", "aime24.json", "gsm8k_test.jsonl", "svamp.jsonl", "minerva_math.jsonl"]


@pytest.mark.parametrize("name", FILES)
def test_real_answers_are_right_for_their_items_and_wrong_for_others(benchmarks: Path, name: str):
    golds = golds_of(benchmarks, name)
    golds = golds[::8] if name in FILES[::5] else golds  # mathematics proper takes longer; all of it under `verify`
    check_own_and_other(golds)


@pytest.mark.verify
@pytest.mark.parametrize("name", FILES[::5])
def test_all_real_answers_of_mathematics(benchmarks: Path, name: str):
    check_own_and_other(golds_of(benchmarks, name))


def boxed(text: str) -> str:
    return rf"\boxed{{{text}}}"


def check_own_and_other(golds: list[str]) -> None:
    grade, shifted = grader(), [*golds[1:], golds[0]]
    for form in (r"\boxed{%s}", "Adding up, 1 + 1 = 2, so the answer is $%s$."):
        found = grade.many([(form % g, g) for g in golds])
        assert not [g for g, f in zip(golds, found, strict=True) if f.status != "correct"]
    found = grade.many([(boxed(other), g) for g, other in zip(golds, shifted, strict=True)])
    equal = [read([boxed(g)])[0].same for g in golds] if len(golds) < 90 else None
    for at, f in enumerate(found):
        if f.status != "wrong":
            assert f.status == "correct"
            number = [last_number_of(g) for g in (golds[at], shifted[at])]
            assert number[0] == number[1] or (equal and equal[at] == equal[(at + 1) % len(golds)])


def test_the_worked_golds_of_gsm8k_are_their_last_number(benchmarks: Path):
    golds = [json.loads(line)["answer"] for line in (benchmarks / "gsm8k_test.jsonl").read_text().splitlines()]
    finals = [g.rpartition("####")[2].strip() for g in golds]
    for name in ("auto", "number"):
        found = grader(name).many([(f"so it is {final}", gold) for final, gold in zip(finals, golds, strict=True)])
        assert {f.status for f in found} == {"correct"}
    assert {f.status for f in grader().many(list(zip(golds, finals, strict=True)))} == {"correct"}
