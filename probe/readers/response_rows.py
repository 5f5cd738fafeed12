"""One record of a log as responses: by its shape, lm-evaluation-harness, inspect, or a response under a usual name."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from probe.errors import InputError
from probe.readers.columns import letter
from probe.readers.conversations import is_conversation
from probe.readers.conversations import turns as conversation
from probe.readers.messages import all_text, cleaned, is_messages, own_text

Fields: TypeAlias = dict[str, Any]  # fields of a response by name

TEXT = ("text", "response", "responses", "output", "outputs", "completion", "completions", "generation", "generations",
        "output_response", "response_text", "model_output")  # fmt: skip
GOLD = ("gold", "golds", "answer", "answers", "target", "ground_truth", "gts", "label")
PROMPT = ("prompt", "question", "problem", "input", "input_prompt", "prompt_text")
NAME = ("item", "id", "doc_id", "idx", "unique_id", "task_id", "question_id", "example_id")
VERDICT = ("verdict", "passed", "resolved")
GROUP = ("group", "data_source")
STEP = ("step", "global_step", "global_steps")
N_TOKENS = ("n_tokens", "response_length", "completion_tokens", "output_tokens")
STRATA = ("subject", "category", "subset", "type", "level", "difficulty")
Row: TypeAlias = Mapping[str, Any]
Reader: TypeAlias = Callable[[Row, str], Iterable[Mapping[str, object]]]


def read(records: Sequence[Row], source: str, where: Sequence[str]) -> list[Fields]:
    """The responses of all records of a file; `where` names each for errors."""
    if not records:
        raise InputError(f"{source}: empty; expected one JSON object per response or item")
    records = [_of_conversation(r, at) for r, at in zip(records, where, strict=True)]
    kind = _shape(records[0], source)
    places = list(zip(records, where, strict=True))
    if kind is _harness:  # the same document is logged once per answer filter; responses are the same
        places = [(r, w) for r, w in places if r.get("filter") == records[0].get("filter")]
    found = [dict(row) for record, at in places for row in kind(record, at)]
    if not found and kind is _inspect:
        raise InputError(f"{source}: no responses: all {len(records)} samples ended in an error")
    return found


def _of_conversation(row: Row, where: str) -> Row:
    """A record whose prompt and response are one list of turns: the response is what follows the last question."""
    name = next((n for n in ("messages", "conversations", "conversation") if is_conversation(row.get(n))), None)
    if name is None or any(row.get(n) is not None for n in (*TEXT, "resps", "target")):
        return row
    turns = conversation(row[name], where)
    asked = max((n for n, turn in enumerate(turns) if turn["role"] == "user"), default=-1)
    rest = {k: v for k, v in row.items() if k != name}
    said = {"prompt": turns[: asked + 1]} if asked >= 0 and not any(n in row for n in PROMPT) else {}
    return {**rest, **said, "response": turns[asked + 1 :]}


def _shape(first: Row, source: str) -> Reader:
    if "resps" in first:
        return _harness
    if "target" in first and isinstance(first.get("output"), dict):
        return _inspect
    if _first(first, TEXT) is not None or any(n in first for n in TEXT):
        return _plain
    raise InputError(
        f"{source}: fields {sorted(map(str, first))} hold no response; expected one of {list(TEXT)}, or resps (lm-eval)"
    )


def _first(row: Row, names: Sequence[str]) -> Any:
    """The first of these fields that says anything: null and NaN say nothing."""
    return next((row[n] for n in names if row.get(n) is not None and row[n] == row[n]), None)


def _gold(value: object) -> str | tuple[str, ...] | None:
    """A gold answer, or several any of which counts."""
    if isinstance(value, list | tuple):
        return tuple(_said(v) for v in value)
    return None if value is None else _said(value)


def _said(value: object) -> str:
    """A value of a cell as text: 4.0 is the number 4, true is True."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return value if isinstance(value, str) else str(value)


# --- lm-evaluation-harness


def _harness(row: Row, where: str) -> Iterable[Mapping[str, object]]:
    """`resps` is a list over requests of lists over repeats; requests of a choice task are log-likelihoods."""
    doc: Fields = row["doc"] if isinstance(row.get("doc"), dict) else {}
    strata = {n: doc[n] for n in STRATA if isinstance(doc.get(n), str | int | float)}
    group = next((str(strata[n]) for n in STRATA[:3] if n in strata), "all")
    shared = {"item": _said(row.get("doc_id", "")), "prompt": _harness_prompt(row), "group": group, **strata}
    if not isinstance(row.get("resps"), list):
        raise InputError(f"{where}: resps is {row.get('resps')!r:.60}; expected a list of the model's responses")
    texts = [text for request in row["resps"] for text in (request if isinstance(request, list) else [request])]
    if not all(isinstance(t, str) for t in texts):
        yield from _harness_choices(row, shared, where)
        return
    for sample, text in enumerate(texts):
        yield {**shared, "gold": _gold(row.get("target")), "sample": sample, "text": text}


def _harness_choices(row: Row, shared: Mapping[str, object], where: str) -> Iterable[Mapping[str, object]]:
    """The choice of largest log-likelihood, raw and per character, as that program defines `acc` and `acc_norm`."""
    scores = [_score(request) for request in row["resps"]]
    options = _options(row, len(scores))
    right = _right_choice(row.get("target"), options)
    if len(scores) < 2 or None in scores or right is None:
        raise InputError(
            f"{where}: responses are log-likelihoods, not text, and {len(scores)} choice(s) with target "
            f"{row.get('target')!r} name no right one; log a generate_until or a multiple_choice task"
        )
    rules = {"loglikelihood": [1.0] * len(scores)}
    if any(options):  # without the choices' texts nobody knows their lengths
        rules["loglikelihood_norm"] = [float(len(o) or 1) for o in options]
    named = tuple(option or letter(index) for index, option in enumerate(options))
    for decoding, by in rules.items():
        values = [float(s) / n for s, n in zip(scores, by, strict=True) if s is not None]
        chosen = max(range(len(values)), key=values.__getitem__)
        said = {"sample": 0, "decoding": decoding, "text": letter(chosen), "gold": None}
        yield {**shared, **said, "choices": named, "right_choice": right}


def _score(request: Any) -> float | None:
    """The log-likelihood of one request: `[[-1.5, false]]`, `[-1.5, false]`, numbers perhaps as text."""
    if isinstance(request, list | tuple):
        return _score(request[0]) if request else None
    try:
        value = float(request)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(value) else value


def _options(row: Row, n: int) -> list[str]:
    """The choices' texts: the requests' continuations, which begin with the delimiter that does not count."""
    found: list[str] = []
    for request in _requests(row):
        said = request[1] if len(request) > 1 else None
        found.append(said.removeprefix(" ") if isinstance(said, str) else "")
    if len(found) != n:
        doc = row.get("doc") if isinstance(row.get("doc"), dict) else {}
        assert isinstance(doc, dict)
        listed = doc.get("choices")
        listed = listed.get("text") if isinstance(listed, dict) else listed
        found = [str(c) for c in listed] if isinstance(listed, list) else []
    return found if len(found) == n else [""] * n


def _right_choice(target: object, options: Sequence[str]) -> int | None:
    """Index of the right choice: a number from 0, the text of one, or its letter."""
    if isinstance(target, int) or (isinstance(target, str) and target.strip().isdigit() and target not in options):
        index = int(target)
    elif isinstance(target, str) and target.strip() in [o.strip() for o in options]:
        index = [o.strip() for o in options].index(target.strip())
    elif isinstance(target, str) and len(target.strip()) == 1:
        index = ord(target.strip().upper()) - ord("A")
    else:
        return None
    return index if 0 <= index < len(options) else None


def _requests(row: Row) -> list[list[Any]]:
    """The arguments of every request, whichever way the version writes them."""
    given = row.get("arguments")
    listed = list(given.values()) if isinstance(given, dict) else given if isinstance(given, list) else []
    if listed and not isinstance(listed[0], list | dict):
        listed = [listed]
    return [list(r.values()) if isinstance(r, dict) else list(r) for r in listed]


def _harness_prompt(row: Row) -> str | None:
    requests = _requests(row)
    return str(requests[0][0]) if requests and requests[0] else None


# --- inspect


def _inspect(row: Row, where: str) -> Iterable[Fields]:
    """One record per (id, epoch); an errored sample is missing, not wrong."""
    if row.get("error"):
        return
    output: Fields = row.get("output") or {}
    choice: Fields = (output.get("choices") or [{}])[0]
    text = output.get("completion")
    if text is None:
        text = (choice.get("message") or {}).get("content", "")
    target, options = row.get("target"), row.get("choices") or ()
    gold = _gold(target)
    if options and isinstance(gold, tuple):  # several letters of a choice are all to be named
        gold = "".join(sorted(gold)) if all(len(g) == 1 for g in gold) else gold
    metadata = row.get("metadata") if isinstance(row.get("metadata"), dict) else {}
    yield {
        **{k: v for k, v in (metadata or {}).items() if isinstance(v, str | int | float | bool)},
        "item": _said(row["id"]) if row.get("id") is not None else _named(row.get("input"), where),
        "sample": int(row.get("epoch") or 1) - 1,
        "prompt": _text_of(row.get("input"), where, all_text) if row.get("input") else None,
        "text": _text_of(text, where, own_text) if text is not None else "",
        "gold": gold,
        "n_tokens": (output.get("usage") or {}).get("output_tokens"),
        "truncated": choice.get("stop_reason") == "max_tokens" if "stop_reason" in choice else None,
        "group": "all",
        **({"choices": tuple(map(str, options))} if options else {}),
    }


# --- a response under a usual name


def _plain(row: Row, where: str) -> Iterable[Mapping[str, object]]:
    prompt = _first(row, PROMPT)
    prompt = None if prompt is None else _text_of(prompt, where, all_text)
    name = next((row[n] for n in NAME if row.get(n) not in (None, "")), None)
    if name is None and not prompt:
        raise InputError(f"{where}: no id and no prompt; expected one of {list(NAME)}, got {sorted(map(str, row))}")
    used = {*TEXT, *GOLD, *PROMPT, *NAME, *VERDICT, *GROUP, *STEP, *N_TOKENS, "sample", "epoch", "truncated",
            "finish_reason", "stop_reason", "choices", "correct", "reward_model"}  # fmt: skip
    extra = {k: v for k, v in row.items() if k not in used and isinstance(v, str | int | float | bool)}
    step, group, verdict = (_first(row, n) for n in (STEP, GROUP, VERDICT))
    shared = {
        **extra,
        "item": _named(prompt, where) if name is None else _said(name),
        "prompt": prompt,
        "gold": _plain_gold(row),
        "n_tokens": _number(_first(row, N_TOKENS), "n_tokens", where),
        "truncated": _truncated(row, where),
        "group": "all" if group in (None, "") else _said(group),
        **({"step": _whole(step, "step", where)} if step not in (None, "") else {}),
        **({"verdict": verdict} if verdict is not None else {}),
        **_plain_choices(row),
    }
    number = _first(row, ("sample", "epoch"))
    said = _first(row, TEXT)
    texts = _texts(said, where)
    if number in (None, "") and not (isinstance(said, list) and not is_messages(said)):
        yield {**shared, "sample": None, "text": texts[0], "by_prompt": name is None}
        return
    start = 0 if number in (None, "") else _whole(number, "sample", where)
    for sample, text in enumerate(texts, start=start):
        yield {**shared, "sample": sample, "text": text}


def _plain_gold(row: Row) -> str | tuple[str, ...] | None:
    value = _first(row, GOLD)
    rule = row.get("reward_model")
    if value is None and isinstance(rule, dict):
        value = rule.get("ground_truth")
    return None if isinstance(value, dict) else _gold(value)


def _plain_choices(row: Row) -> dict[str, object]:
    options, right = row.get("choices"), row.get("correct")
    if not isinstance(options, list | tuple):
        return {} if right is None else {"correct_logged": right}
    index = right if isinstance(right, int) and not isinstance(right, bool) else None
    return {"choices": tuple(map(str, options)), **({} if index is None else {"right_choice": index})}


def _named(prompt: object, where: str) -> str:
    """The item's name where the log has none: a hash of its prompt, equal in every file of a series."""
    if prompt is None:
        raise InputError(f"{where}: neither an id nor a prompt names the item")
    text = prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _texts(value: Any, where: str) -> list[str]:
    """The responses of one record: a text, a list of texts, a conversation, or a list of conversations."""
    several = isinstance(value, list) and not is_messages(value)
    listed = value if several else [value]
    return [_text_of(v, f"{where}: response {n}", own_text) for n, v in enumerate(listed)]


def _text_of(value: object, where: str, join: Callable[[list[Fields]], str]) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(m, dict) for m in value):
        parts = value if is_messages(value) else [{"role": "", "content": value}]
        return join(cleaned(parts, where))
    if isinstance(value, dict) and "content" in value:
        return join(cleaned([value], where))
    raise InputError(f"{where} is {type(value).__name__}, not text")


def _truncated(row: Row, where: str) -> bool | None:
    value = row.get("truncated")
    if value is None or value == "":
        reason = _first(row, ("finish_reason", "stop_reason"))
        return None if reason in (None, "") else reason in ("length", "max_tokens")
    if isinstance(value, str):
        word = value.strip().lower()
        if word in ("true", "1", "yes"):
            return True
        if word in ("false", "0", "no"):
            return False
        raise InputError(f"{where}: truncated is {value!r}; expected true or false")
    return bool(value)


def _number(value: Any, name: str, where: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {name} is {value!r}; expected a number") from error


def _whole(value: object, name: str, where: str) -> int:
    if (number := _number(value, name, where)) is None or not math.isfinite(number) or not number.is_integer():
        raise InputError(f"{where}: {name} is {value!r}; expected a whole number")
    return int(number)
