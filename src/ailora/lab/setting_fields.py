"""What a setting is: a field of a dataclass with its default, range and help, and its checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ailora.errors import UserError
from ailora.files import is_finite

RoleName = Literal["q", "k", "v", "o", "gate", "up", "down"]
_AS_TODAY: Any = object()


def setting(
    default: Any,
    help: str,  # noqa: A002 - as typer and argparse call it
    *,
    group: str,
    first: Any = _AS_TODAY,
    at_least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    passed_on: bool = False,
    names_run: bool = True,
    off: str = "",
) -> Any:
    """One field of a dataclass of settings, such as `ailora.lab.settings.RunConfig`.

    Args:
        default: Default value.
        help: One line, for ``--help`` and the documentation.
        group: The heading that it stands below there.
        first: The default that it had first. It is kept for ever: what differs from it names a
            run (`ailora.lab.settings.RunConfig.run_id`), so a new default renames no run.
        at_least: Smallest value.
        above: Bound that a value must exceed.
        below: Bound that a value must stay under.
        passed_on: Whether transformers' ``TrainingArguments`` take it as it is, by this name.
        names_run: Whether another value makes another run; else the weights are the same.
        off: What the option for False is called; by default ``no-`` and the name.
    """
    first = default if first is _AS_TODAY else first
    bounds = {"at_least": at_least, "above": above, "below": below}
    known = {"help": help, "group": group, "first": first, "bounds": bounds}
    known |= {"passed_on": passed_on, "names_run": names_run, "off": off}
    return field(default=default, metadata=known)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is known of one field that is a `setting`.

    Attributes:
        name: Name of the field; options write ``-`` for ``_``.
        kind: int, float, str, bool, ``Sequence`` (of texts) or ``Mapping`` (roles to ranks).
        choices: The texts that are allowed, for a float beside its numbers; empty for any.
        optional: Whether None is allowed.
        default, first, help, group, passed_on, names_run, off: As in the field.
        bounds: ``at_least``, ``above``, ``below``; None where there is none.
    """

    name: str
    kind: type
    choices: tuple[str, ...]
    optional: bool
    default: Any
    first: Any
    help: str
    group: str
    bounds: Mapping[str, float | None]
    passed_on: bool
    names_run: bool
    off: str

    @property
    def range(self) -> str:
        """The values that are allowed, in words; empty for any of the kind."""
        words = {"at_least": "at least", "above": "above", "below": "below"}
        bounds = ((words[name], bound) for name, bound in self.bounds.items() if bound is not None)
        number = " and ".join(f"{word} {bound}" for word, bound in bounds)
        if self.choices and self.kind is float:
            return " or ".join((*self.choices, f"a number {number}".rstrip()))
        return " or ".join(self.choices) if self.choices else number

    def of_text(self, text: str, said: str = "") -> Any:
        """The value of a setting that is no list or table from how it is typed.

        Args:
            text: The value as a text.
            said: As in `checked`.

        Raises:
            UserError: As `checked`.
        """
        if self.kind not in (int, float) or text in self.choices:
            return self.checked(text, said)
        try:
            value: Any = self.kind(text)
        except ValueError:
            value = text  # for the message
        return self.checked(value, said)

    def checked(self, value: Any, said: str = "") -> Any:
        """The value as the field holds it: 2 as 2.0 in a float, a list as a tuple.

        Args:
            value: A value of any type.
            said: What goes before it in a message; by default the name and ``=``.

        Raises:
            UserError: It is of another type, or out of range.
        """
        if value is None and self.optional:
            return None
        said = said or f"{self.name}="
        if self.choices and value in self.choices:
            return value
        if not self._fits(value):
            raise UserError(f"{said}{value!r}: must be {self._wanted()}")
        numbers = value.values() if self.kind is Mapping else [value]
        if self.kind in (int, float, Mapping) and not all(map(self._in_range, numbers)):
            raise UserError(f"{said}{value!r}: must be {self.range}")
        if self.kind is float:
            return float(value)
        if self.kind is Sequence:
            return tuple(value)
        return dict(value) if self.kind is Mapping else value

    def _fits(self, value: Any) -> bool:
        if self.kind is float:
            return _is_number(value) and is_finite(value)
        if self.kind is Sequence:
            return isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)
        if self.kind is Mapping:
            return (
                isinstance(value, Mapping)
                and value.keys() <= set(get_args(RoleName))
                and all(type(rank) is int for rank in value.values())
            )
        return type(value) is self.kind and not self.choices

    def _wanted(self) -> str:
        kinds = {
            int: "a whole number",
            float: "a number",
            str: "a text",
            bool: "true or false",
            Sequence: "a list of texts",
            Mapping: f"a table of roles ({', '.join(get_args(RoleName))}) and ranks",
        }
        return self.range if self.choices else kinds[self.kind]

    def _in_range(self, value: float) -> bool:
        at_least, above, below = (self.bounds[name] for name in ("at_least", "above", "below"))
        return (
            (at_least is None or value >= at_least)
            and (above is None or value > above)
            and (below is None or value < below)
        )


def settings_of(config: type) -> dict[str, Setting]:
    """The settings that are the fields of a dataclass, by name; each field is a `setting`."""
    hints = get_type_hints(config)
    found = {}
    for one in fields(config):
        hint = hints[one.name]
        hints_of = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        choices = [get_args(arg) for arg in hints_of if get_origin(arg) is Literal]
        kinds = [arg for arg in hints_of if arg is not NoneType and get_origin(arg) is not Literal]
        found[one.name] = Setting(
            name=one.name,
            kind=(get_origin(kinds[0]) or kinds[0]) if kinds else str,
            choices=choices[0] if choices else (),
            optional=NoneType in hints_of,
            default=one.default,
            **one.metadata,
        )
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
