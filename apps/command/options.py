"""From an analysis's signature to a command line: inputs become paths, options keep type, choices and help."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import click

import analyses
import probe
from analyses.core.analysis import Analysis, Input, Option
from apps.command.completion import keys, run_names
from probe import dtypes
from probe.errors import InputError
from probe.readers.schemas import SCHEMAS

Setting: TypeAlias = dict[str, Any]  # keyword arguments of a click option

INPUT_HELP = {
    "Model": "Checkpoint folder, BASE+ADAPTER, or Hub repository (repo@revision).",
    "Prompts": "Prompts: JSONL, JSON, CSV or Parquet (also of chat messages), or hf:NAME:SPLIT.",
    "Rollouts": "Rollout log (Parquet or JSONL, a file or a folder), or prompts with answers (an SFT set).",
    "RunLog": "Training log: trainer_state.json, CSV, or a folder that holds one.",
    "Table": "File of rows (CSV, Parquet, JSONL); as `--log` also what other programs logged, or a folder of it.",
    "Checkpoints": "Folder with a series of checkpoints, a glob of folders, STEP=FOLDER, or a Hub repository.",
    "Result": "Key of a stored result.",
}
COLUMNS_HELP = (
    f"How the prompt file's columns are called: {', '.join(SCHEMAS)}, or a JSON object such as "
    '{"id": "#", "prompt": "{context} {question}", "answer": "label"}.'
)
SEEN_HELP = "Groups whose items training may have shown; all others count as not shown (or give a column `seen`)."
Verb = Literal["run", "sweep", "plan"]
BACKENDS = click.Choice(["transformer_lens", "nnsight"])
DTYPES = click.Choice(list(dtypes.NAMES))
PAIRS = click.Choice(["first", "adjacent", "all"])
HOLD_HELP = (
    "Checkpoints of a pair in memory; `one` spills the base's states to disk, `auto` only where both do not fit."
)
RUN_HELP = "Run whose stored results are read, by its name in `probe show`."
CONFIG_HELP = "Folder with config.json and tokenizer, for sharded checkpoints that have none beside them."
BASE_HELP = {
    True: "The model training started from: step 0, and what adapters are merged into.",
    False: "What an adapter is merged into, where that is not the place its configuration names.",
}


def _renamed(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> None:
    """`--set top_k=3` of earlier versions: the option has its own name now."""
    if given:
        now = (f"--{name.strip().replace('_', '-')} {value}" for name, _, value in (g.partition("=") for g in given))
        raise click.UsageError(f"--set is gone: a plan takes the analysis's own options, here {' '.join(now)}")


def _former(old: str, new: str) -> click.Option:
    """A hidden option of a name that is gone: it says the one that took its place."""
    flag, now = (f"--{name.replace('_', '-')}" for name in (old, new))

    def say(_ctx: click.Context, _param: click.Parameter, given: str | None) -> None:
        if given is not None:
            raise click.UsageError(f"{flag} is called {now} now: {now} {given}")

    return click.Option([flag], hidden=True, expose_value=False, callback=say)


def _shown(default: str, help_text: str, kind: object = str) -> Setting:
    return {"default": default, "show_default": True, "help": help_text, "type": kind}


def _template_options(ctx: click.Context, param: click.Parameter, given: Sequence[str]) -> dict[str, object]:
    """`NAME=VALUE` texts as variables of a chat template; values are JSON, anything else is text."""
    found: dict[str, object] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r}: expected NAME=VALUE", ctx, param)
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = {"True": True, "False": False, "None": None}.get(value, value)
    return found


ENGINE_SETTINGS: dict[str, Setting] = {
    "--engine": _shown(
        "local",
        "Who computes the checkpoints: this process one by one, or workers of a Ray cluster at once.",
        click.Choice(["local", "ray"]),
    ),
    "--workers": {
        "type": click.IntRange(min=1),
        "default": 2,
        "show_default": True,
        "help": "How many workers (--engine ray); each loads models of its own and uses one thread.",
    },
    "--address": {
        "metavar": "HOST:PORT",
        "help": "Cluster to join [default: one started for the sweep]; it must see the same folders.",
    },
}
MODEL_SETTINGS: dict[str, Setting] = {
    "--backend": _shown("transformer_lens", "Library that hooks the model.", BACKENDS),
    "--dtype": _shown("float32", "Weights and activations; metrics are always fp32.", DTYPES),
    "--device": _shown("cpu", "Torch device, `auto`, `stream` (from its files), or a JSON device map."),
    "--generate-with": {"metavar": "URL", "help": "Server of this checkpoint that writes texts (docs: Scale)."},
    "--revision": {"help": "Revision of a hub repository."},
    "--allow-pickle": {"is_flag": True, "help": "Read pickle weights (weights_only); refused by default."},
    "--trust-remote-code": {"is_flag": True, "help": "Run code shipped with the checkpoint; off by default."},
    "--bos/--no-bos": {"default": None, "help": "Put BOS before every text, or not [default: as the tokenizer does]."},
    "--template-option": {
        "multiple": True,
        "metavar": "NAME=VALUE",
        "callback": _template_options,
        "help": "A variable of the chat template, e.g. enable_thinking=false; repeatable.",
    },
}

PLAN_SETTINGS: dict[str, Setting] = {
    "--device-memory": {"type": float, "metavar": "GIB", "help": "Memory that may be used [default: what is free]."},
    "--budget": {"metavar": "TIME", "help": "Say how many items and which layers fit into a time: 2h, 45m."},
    "--set": {"hidden": True, "multiple": True, "callback": _renamed, "expose_value": False},
}


class Values(click.ParamType[Any]):
    r"""A list: `0,0.5,1`, the option given several times, or a JSON list.

    A text without a comma is taken as it is, white space included (a stop text may be a line feed); `\,` is a comma
    that separates nothing.
    """

    def __init__(self, element: type) -> None:
        self.element = element
        self.name = f"{element.__name__},..."

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self.element(part) for part in self._parts(str(value)))
        except ValueError:
            self.fail(f"{value!r} is not a comma-separated list of {self.element.__name__}", param, ctx)

    def _parts(self, text: str) -> list[object]:
        if text.lstrip().startswith("["):
            try:
                return json.loads(text)
            except json.JSONDecodeError:
                pass  # a text that happens to begin with a bracket
        first, *rest = [part.replace("\0", ",") for part in text.replace("\\,", "\0").split(",")]
        parts = [first, *(part.removeprefix(" ") for part in rest)]
        if self.element is not str:
            return [part for part in parts if part.strip()]
        return [part for part in parts if part] or ([text] if text else [])


def joined(_ctx: click.Context, _param: click.Parameter, given: Sequence[tuple[object, ...]]) -> tuple[Any, ...]:
    """The lists of an option that was given several times, as one."""
    return tuple(value for values in given for value in values)


def analysis_command(of: Analysis, verb: Verb, callback: Callable[..., int | None] | None = None) -> click.Command:
    """The click command that runs, sweeps or plans ``of``: one line of words is understood by all three.

    Args:
        of: the analysis.
        verb: what is done; a plan takes the flags of a run and those of a sweep.
        callback: what the command calls with its values.
    """
    parameters: list[click.Parameter] = [
        *_inputs(of, verb),
        *map(_option, of.options),
        *(_former(old, new) for old, new in of.renamed.items()),
        *_settings(of, verb),
        # A shell writes out `--checkpoints out/checkpoint-*`: what follows the first folder comes here.
        *([click.Argument(["more"], nargs=-1, metavar="")] if verb != "run" else []),
    ]
    help_text = f"{of.title}\n\n" + "\n\n".join(f"{h}: {t}" for h, t in of.sections.items())
    return click.Command(of.name, params=parameters, callback=callback, help=help_text)


def together_command(analyses_named: Sequence[Analysis], callback: Callable[..., int | None]) -> click.Command:
    """The click command that sweeps several analyses at once: every option that one of them has.

    Args:
        analyses_named: the analyses.
        callback: what the command calls with its values.
    """
    parameters: dict[str, click.Parameter] = {}
    for of in analyses_named:
        for parameter in analysis_command(of, "sweep").params:
            if parameter.name and parameter.name not in ("hold", *parameters):
                parameters[parameter.name] = parameter
    text = "\n\n".join(f"{of.name}: {of.title}" for of in analyses_named)
    name = " ".join(of.name for of in analyses_named)
    return click.Command(name, params=list(parameters.values()), callback=callback, help=text)


def read_prompts(path: str, columns: str | None, seen: tuple[str, ...] = ()) -> Any:
    """The prompt file as ``--columns`` and ``--seen`` say; the path as it is where nothing is said.

    Raises:
        InputError: neither a schema's name nor JSON.
    """
    if columns is None and not seen:
        return path
    try:
        mapping = json.loads(columns) if columns and columns.lstrip().startswith("{") else columns
    except json.JSONDecodeError as error:
        raise InputError(f"--columns is neither a name nor a JSON object: {error}") from error
    prompts = probe.Prompts.read(path, mapping)
    return prompts.seen(*seen) if seen else prompts


def _inputs(of: Analysis, verb: Verb) -> list[click.Option]:
    own = [i for i in of.inputs if not (verb == "sweep" and i.kind == "Model")]
    if verb == "plan":  # what costs is computed from checkpoints and prompts: the rest may be named, as in a run
        own = [i if i.kind == "Prompts" else replace(i, optional=True) for i in own]
    found = [_input(i) for i in own]
    # An upstream result may be given by the inputs it is computed from.
    names = {i.name for i in of.inputs}
    for source in {i.upstream: i for i in of.inputs if i.upstream}:
        extra = [i for i in analyses.get(str(source)).inputs if i.name not in names]
        found += [_input(Input(i.name, i.kind, optional=True)) for i in extra]
        names |= {i.name for i in extra}
    if any(i.upstream for i in of.inputs):
        found.append(click.Option(["--run"], metavar="NAME", help=RUN_HELP, shell_complete=run_names))
    if verb != "run" and "checkpoints" not in names:
        text = f"{INPUT_HELP['Checkpoints']} May be given several times, or followed by several."
        how: Setting = {"required": verb == "sweep", "multiple": True, "metavar": "SOURCE", "help": text}
        found.insert(0, click.Option(["--checkpoints"], **how))
    return found


def _input(wanted: Input) -> click.Option:
    flags = [f"--{wanted.name.replace('_', '-')}", wanted.name]
    required = not wanted.optional and wanted.upstream is None
    text = (
        f"Stored {wanted.upstream} result: its key, or the name of its run."
        if wanted.upstream
        else INPUT_HELP[wanted.kind]
    )
    metavar = "KEY" if wanted.kind == "Result" else "PATH"
    complete = keys if wanted.kind == "Result" else None
    return click.Option(flags, required=required, metavar=metavar, help=text, shell_complete=complete)


def _option(option: Option) -> click.Option:
    flag = option.name.replace("_", "-")
    bare = [m for m in _members(option.annotation) if m is not type(None)]
    if option.choices:
        kind: Any = click.Choice([str(c) for c in option.choices])
    elif bare[0] is bool:
        return click.Option([f"--{flag}/--no-{flag}", option.name], default=option.default, help=option.help)
    elif typing.get_origin(bare[0]) is tuple:
        shown = ",".join(str(v) for v in option.default) or False
        return click.Option(
            [f"--{flag}", option.name], type=Values(typing.get_args(bare[0])[0]), default=[option.default],
            show_default=shown, multiple=True, callback=joined, help=option.help,
        )  # fmt: skip
    else:
        kind = bare[0]
    return click.Option(
        [f"--{flag}", option.name], type=kind, default=option.default, show_default=True, help=option.help
    )


def flags(flag: str) -> list[str]:
    """The names of a setting: the flag, and the word it is passed on under where that is another."""
    return [flag, "template_options"] if flag == "--template-option" else [flag]


def _members(annotation: object) -> tuple[Any, ...]:
    is_union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    return typing.get_args(annotation) if is_union else (annotation,)


def _settings(of: Analysis, verb: Verb) -> list[click.Option]:
    needs = _kinds(of)
    takes = bool({"Model", "Checkpoints"} & needs)
    # Where only a result that is read would be computed with a model, its settings are understood and not shown.
    shown: Setting = {} if {"Model", "Checkpoints"} & {i.kind for i in of.inputs} else {"hidden": True}
    found = [click.Option(flags(f), **k, **shown) for f, k in MODEL_SETTINGS.items()] if takes else []
    if takes:
        found.append(click.Option(["--config", "config_folder"], metavar="FOLDER", help=CONFIG_HELP, **shown))
    if "Model" in needs and "base" not in {o.name for o in _inputs(of, verb)}:
        found.append(click.Option(["--base", "base_model"], metavar="FOLDER", help=BASE_HELP[verb != "run"]))
    if "Prompts" in needs:
        found.append(click.Option(["--limit"], type=click.IntRange(min=1), help="Use only the first items."))
        found.append(click.Option(["--columns"], metavar="NAME|JSON", help=COLUMNS_HELP))
        if all(o.name != "seen" for o in of.options):  # some rules take the groups themselves
            how: Setting = {"type": Values(str), "multiple": True, "callback": joined, "help": SEEN_HELP}
            found.append(click.Option(["--seen", "seen_groups"], **how))
    if verb != "run" and of.arity == "pair":
        text = "Which checkpoints are compared."
        found.append(click.Option(["--pairs"], type=PAIRS, default="first", show_default=True, help=text))
    if verb != "run":
        found += [click.Option([f], **k) for f, k in ENGINE_SETTINGS.items()]
    if verb == "plan":
        found += [click.Option([f], **k) for f, k in PLAN_SETTINGS.items()]
    if of.takes_turns:
        kind = click.Choice(["auto", "both", "one"])
        found.append(click.Option(["--hold"], type=kind, default="auto", show_default=True, help=HOLD_HELP))
    return [
        *found,
        click.Option(["--results"], metavar="DIR", help="Folder of results [default: $PROBE_RESULTS or ./results]."),
        click.Option(["--json", "as_json"], is_flag=True, help="One line of JSON on standard output."),
    ]


def _kinds(of: Analysis) -> set[str]:

    own = {i.kind for i in of.inputs}
    return own.union(*(_kinds(analyses.get(i.upstream)) for i in of.inputs if i.upstream))
