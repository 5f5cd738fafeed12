"""How the columns of the usual benchmark and training files are called: field -> source (see `columns`)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from probe.readers.columns import Row, Source, parsed_list

Schema = Mapping[str, Source]
BOXED = r" ~ \boxed{}"


def _ending(value: object) -> str:
    """A HellaSwag text as lm-eval's harness cleans it."""
    cleaned = re.sub(r"\[.*?\]", "", str(value).strip().replace(" [title]", ". "))
    return cleaned.replace("  ", " ")


def _hellaswag_prompt(row: Row) -> str:
    return _ending(f"{row['activity_label']}: {row['ctx_a']} {str(row['ctx_b']).capitalize()}")


def _hellaswag_choices(row: Row) -> list[str]:
    listed = parsed_list(row["endings"])
    return [_ending(e) for e in listed] if isinstance(listed, list) else listed


def _gpqa_order(row: Row) -> list[str]:
    """The four answers in an order that the question's hash decides: the file has the right one always first."""
    names = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
    question = str(row["Question"])
    return sorted(names, key=lambda name: hashlib.sha256(f"{question}\0{row[name]}".encode()).hexdigest())


def _gpqa_choices(row: Row) -> list[str]:
    return [re.sub(r"\s+", " ", str(row[name])).strip() for name in _gpqa_order(row)]


def _gpqa_prompt(row: Row) -> str:
    lines = "\n".join(f"({'ABCD'[n]}) {choice}" for n, choice in enumerate(_gpqa_choices(row)))
    return f"What is the correct answer to this question:{row['Question']}\nChoices:\n{lines}\nAnswer:"


def _question_of_mbpp(row: Row) -> str:
    shown = "\n".join(str(t) for t in parsed_list(row.get("test_list") or []))
    return f"{row.get('text', row.get('prompt'))}\nYour code should pass these tests:\n\n{shown}\n"


_FINAL = r" ~ ####\s*(.+)$"
SCHEMAS: dict[str, Schema] = {
    "default": {"id": "id", "prompt": "prompt", "answer": "answer", "group": "group"},
    "ttrl": {"id": "id", "prompt": "prompt", "answer": "answer", "group": "source"},
    "gsm8k": {"id": "#", "prompt": "question", "answer": f"answer{_FINAL}", "group": "=gsm8k"},
    "minerva_math": {"id": "idx", "prompt": "problem", "answer": f"solution{BOXED}", "group": "type"},
    "math": {
        "id": "unique_id || id || #", "prompt": "problem || question", "answer": f"answer || solution{BOXED}",
        "group": "subject || type || =math",
    },
    "aime": {
        "id": "id || ID || problem_idx || #", "prompt": "problem || Problem || question || Question",
        "answer": "answer || Answer || expected_answer", "group": "year || Year || =aime",
    },
    "svamp": {"id": "ID", "prompt": "{Body} {Question}", "answer": "Answer", "group": "Type"},
    "mmlu": {
        "id": "#", "prompt": "{question}\n{choices:A. }\nAnswer:", "choices": "choices", "correct": "answer",
        "answer": "@letter", "group": "subject || =mmlu",
    },
    "mmlu_pro": {
        "id": "question_id", "prompt": "{question}\n{options:A. }\nAnswer:", "choices": "options",
        "correct": "answer_index || answer", "answer": "@letter", "group": "category",
    },
    "arc": {
        "id": "id", "prompt": "Question: {question}\nAnswer:", "choices": "choices", "correct": "answerKey",
        "answer": "@choice", "group": "=arc",
    },
    "hellaswag": {
        "id": "ind || #", "prompt": _hellaswag_prompt, "choices": _hellaswag_choices, "correct": "label",
        "answer": "@choice", "group": "activity_label",
    },
    "gpqa": {
        "id": "Record ID || #", "prompt": _gpqa_prompt, "choices": _gpqa_choices, "answer": "@letter",
        "correct": lambda row: _gpqa_order(row).index("Correct Answer"), "group": "High-level domain || =gpqa",
    },
    "humaneval": {"id": "task_id", "prompt": "prompt", "answer": "canonical_solution", "group": "=humaneval"},
    "mbpp": {"id": "task_id", "prompt": _question_of_mbpp, "answer": "code", "group": "=mbpp"},
    "squad": {"id": "id", "prompt": "{context}\nQuestion: {question}\nAnswer:", "answer": "answers", "group": "title"},
    "triviaqa": {"id": "question_id || #", "prompt": "Question: {question}\nAnswer:", "answer": "answer",
                 "group": "question_source || =triviaqa"},
    "nq": {"id": "id || #", "prompt": "Question: {question}\nAnswer:", "answer": "answer || answers", "group": "=nq"},
}  # fmt: skip
"""By name. `ttrl`: math500.json, amc.json, aime24.json; `math`: Hendrycks's MATH and MATH-500; the others as their data
sets are published. Multiple choice as lm-eval's harness asks it; `@letter` and `@choice` stand for the right option's
letter and text."""

_NEEDS: dict[str, set[str]] = {
    "gsm8k": {"question", "answer"}, "minerva_math": {"problem", "solution", "idx"}, "math": {"problem"},
    "svamp": {"Body", "Question"}, "mmlu": {"question", "choices", "answer"}, "arc": {"choices", "answerKey"},
    "mmlu_pro": {"options", "answer_index"}, "hellaswag": {"endings", "label"}, "humaneval": {"canonical_solution"},
    "mbpp": {"code", "test_list"}, "gpqa": {"Question", "Correct Answer"}, "squad": {"context", "question", "answers"},
    "aime": {"Problem", "Answer"},
}  # fmt: skip


def hint(row: Row) -> str:
    """Which schema the columns look like."""
    fits = [name for name, need in _NEEDS.items() if need <= set(row)]
    best = max(fits, key=lambda name: len(_NEEDS[name]), default=None)
    return f"It looks like columns={best!r}." if best else f"Map them with columns=, or one of {list(SCHEMAS)}."
