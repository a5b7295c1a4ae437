"""Options that commands share, and those made from the settings of a run."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from ailora.errors import UserError
from ailora.lab.setting_fields import Setting
from ailora.lab.settings import SETTINGS, RunConfig

if TYPE_CHECKING:
    from ailora.lab.training.published import Published

# A setting as Python's messages write it: rank=0, on_broken='skip', text=('a', 'b').
_SAID = re.compile(
    rf"(?<![\w.\-/?&:])(?P<name>{'|'.join(SETTINGS)})="
    r"(?P<value>\"[^\"]*\"|'[^']*'|\([^()]*\)|\[[^\[\]]*\]|[\w.+-]*[\w+-])"
)

Given = dict[str, Any]  # the settings that the user gave, by name

Preset = Annotated[
    str | None,
    typer.Option(
        help="'paper': the settings published for this task and model, where you give none."
    ),
]
Out = Annotated[Path, typer.Option(help="Folder for the results.")]
Estimate = Annotated[
    bool, typer.Option(help="Do a few steps of each kind of run first, to say how long it is.")
]
RetryFailed = Annotated[bool, typer.Option(help="Try again what failed before.")]

_LOCAL, _RAY = "Local engine", "Ray"
Engine = Annotated[str, typer.Option(help="local: processes on this machine; ray: a Ray cluster.")]
Workers = Annotated[
    int | None, typer.Option(help="Runs at a time. Default: the fastest.", rich_help_panel=_LOCAL)
]
Threads = Annotated[
    int | None,
    typer.Option(help="Threads of each worker. Default: the fastest.", rich_help_panel=_LOCAL),
]
Address = Annotated[
    str | None,
    typer.Option(help="Address of the cluster. Default: this machine.", rich_help_panel=_RAY),
]
CpusPerRun = Annotated[float, typer.Option(help="Cores that each run gets.", rich_help_panel=_RAY)]
GpusPerRun = Annotated[
    float, typer.Option(help="Accelerators that each run gets.", rich_help_panel=_RAY)
]

_FAIR = "Fair protocol"
Protocol = Annotated[
    str | None,
    typer.Option(
        help="fair: search each method's rate on some seeds, report on others, and test the "
        "differences.",
        rich_help_panel=_FAIR,
    ),
]
ChooseSeeds = Annotated[
    str | None,
    typer.Option(
        help="Seeds that choose each rate. Default: 0,1.",
        show_default=False,
        rich_help_panel=_FAIR,
    ),
]
Halving = Annotated[
    bool,
    typer.Option(
        help="Try later choosing seeds at the better half of the rates alone.",
        rich_help_panel=_FAIR,
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        help="Time for all runs, such as 45m or 2h: reporting seeds are left out until they fit.",
        rich_help_panel=_FAIR,
    ),
]
PlanOnly = Annotated[
    bool,
    typer.Option("--plan", help="Print runs, hours and power, and stop.", rich_help_panel=_FAIR),
]


@dataclass(frozen=True, kw_only=True)
class Fair:
    """The options of the fair protocol."""

    choose: tuple[int, ...] | None
    halving: bool
    budget: str | None
    plan_only: bool


def fair_options(
    protocol: str | None, choose: str | None, halving: bool, budget: str | None, plan_only: bool
) -> Fair | None:
    """The options of the fair protocol; None without it.

    Raises:
        UserError: Another protocol, or an option of the fair one without it.
    """
    if protocol not in (None, "fair"):
        raise UserError(f"--protocol {protocol!r}: there is only 'fair'")
    if protocol is None:
        given = {"--choose-seeds": choose, "--halving": halving, "--budget": budget}
        for name, value in {**given, "--plan": plan_only}.items():
            if value:
                raise UserError(f"{name} is an option of --protocol fair; give that too")
        return None
    seeds = tuple(map(int, numbers("--choose-seeds", choose, int))) if choose else None
    return Fair(choose=seeds, halving=halving, budget=budget, plan_only=plan_only)


def settings_as_options(
    names: Collection[str] | None = None,
    *,
    leave_out: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
    others: Mapping[str, str] = MappingProxyType({}),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each setting of a run, in place of its first parameter.

    That parameter gets the settings that the user gave, checked, by name.

    Args:
        names: The settings; None for all.
        leave_out: Those that the command has no option for.
        defaults: The command's own, for ``--help``; the command applies them itself.
        others: Options of the command for settings that were left out, by setting.
    """
    chosen = [
        setting
        for name, setting in SETTINGS.items()
        if (names is None or name in names) and name not in leave_out
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def called(**options: Any) -> None:
            typed = {setting.name: options.pop(setting.name) for setting in chosen}
            given = {name: value for name, value in typed.items() if value is not None}
            checked = {name: _checked(SETTINGS[name], given[name]) for name in given}
            try:
                command(checked, **options)
            except UserError as error:
                raise UserError(in_options(str(error), others)) from error

        # Not of the function itself: Python 3.10 would put Optional around what defaults to None,
        # and typer would not see that it is an argument.
        annotated = SimpleNamespace(__annotations__=command.__annotations__)
        hints = get_type_hints(annotated, command.__globals__, include_extras=True)
        own = list(inspect.signature(command).parameters.values())[1:]
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [one.replace(kind=keyword, annotation=hints[one.name]) for one in own]
        for setting in chosen:
            default = (defaults or {}).get(setting.name, setting.default)
            hint = _option(setting, default)
            parameters.append(
                inspect.Parameter(setting.name, keyword, default=None, annotation=hint)
            )
        called.__dict__["__signature__"] = inspect.Signature(parameters)
        called.__annotations__ = {one.name: one.annotation for one in parameters}
        return called

    return decorate


def in_options(message: str, others: Mapping[str, str] = MappingProxyType({})) -> str:
    """A message in the words of the command line.

    >>> in_options("x.csv:3: no label; on_broken='skip' leaves such rows out")
    'x.csv:3: no label; --on-broken skip leaves such rows out'

    Args:
        message: The message, which writes settings as Python does.
        others: Options with another name than their setting.
    """

    def option(found: re.Match[str]) -> str:
        name, value = found["name"], found["value"]
        spelled = f"--{others.get(name, _spelled(name))}"
        if value == "True":
            return spelled
        if value == "False":
            return f"--{SETTINGS[name].off or f'no-{_spelled(name)}'}"
        if value[0] in "([":
            parts = (part.strip(" '\"") for part in value[1:-1].split(","))
            return f"{spelled} {','.join(filter(None, parts))}"
        return f"{spelled} " + value.strip("'\"")

    return _SAID.sub(option, message)


def run_config(given: Given, published: Published | None = None) -> RunConfig:
    """A run's settings: the user's, then the published ones, then the defaults."""
    return RunConfig(**{**(published.settings if published else {}), **given})


def published_for(preset: str | None, task: str, model: str) -> Published | None:
    """The published settings, if ``preset`` asks for them.

    Raises:
        UserError: An unknown preset, or nothing is published for the task on the model.
    """
    if preset is None:
        return None
    if preset != "paper":
        raise UserError(f"--preset {preset!r}: there is only 'paper'")
    from ailora.lab.tasks.registry import canonical
    from ailora.lab.training.published import published

    return published(canonical(task), model)


def names(option: str, value: str) -> tuple[str, ...]:
    """The comma-separated names of an option."""
    found = tuple(part.strip() for part in value.split(",") if part.strip())
    if not found:
        raise UserError(f"{option} {value!r}: give at least one name")
    return found


def numbers(option: str, value: str, kind: type[int] | type[float]) -> tuple[float, ...]:
    """The comma-separated numbers of an option."""
    try:
        return tuple(kind(part) for part in names(option, value))
    except ValueError as error:
        word = "whole numbers" if kind is int else "numbers"
        raise UserError(f"{option} {value!r}: must be {word} with commas between") from error


def _option(setting: Setting, default: Any) -> Any:
    """The annotation by which Typer knows a setting; what is not given is None."""
    text = setting.help
    if default is not None and "Default:" not in text:
        shown = _shown(default)
        text += f" Default: {shown}."
    plain = setting.kind in (int, float, bool) and not setting.choices
    kind = setting.kind if plain else str
    declared = [f"--{_spelled(setting.name)}/--{setting.off}"] if setting.off else []
    option = typer.Option(*declared, help=text, show_default=False, rich_help_panel=setting.group)
    return Annotated[kind | None, option]


def _spelled(name: str) -> str:
    return name.replace("_", "-")


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    return f"{default:g}" if isinstance(default, float) else str(default)


def _checked(setting: Setting, value: Any) -> Any:
    option = f"--{_spelled(setting.name)}"
    if setting.kind is Sequence:
        value = names(option, value)
    elif setting.kind is Mapping:
        value = _ranks(option, value)
    elif isinstance(value, str):
        return setting.of_text(value, f"{option} ")
    return setting.checked(value, f"{option} ")


def _ranks(option: str, value: str) -> dict[str, int]:
    try:
        pairs = [part.split("=") for part in names(option, value)]
        return {role.strip(): int(rank) for role, rank in pairs}
    except ValueError as error:
        raise UserError(f"{option} {value!r}: give roles and ranks, such as q=8,k=8") from error
