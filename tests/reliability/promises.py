"""The list of promises: ``promises.toml``, what each says, which tests hold it, what breaks it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).with_name("promises.toml")


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A build that breaks a promise: one replacement in one file.

    Attributes:
        what: The defect, in a few words.
        file: Path from the root.
        old: What stands there exactly once.
        new: What takes its place.
        by: The cheapest tests of the promise that notice it, as pytest names them.
        said: What their failure says, where the kind of the failure is not enough.
    """

    what: str
    file: str
    old: str
    new: str
    by: tuple[str, ...]
    said: str = ""

    def applied(self, text: str) -> str:
        """The file's content with the defect.

        Raises:
            ValueError: The place is not there, or not the only one: the list is older than the
                code, or what comes of it is no Python.
        """
        count = text.count(self.old)
        if count != 1:
            raise ValueError(f"{self.file}: {count} places for the broken build {self.what!r}")
        made = text.replace(self.old, self.new)
        if self.file.endswith(".py"):
            ast.parse(made)
        return made


@dataclass(frozen=True, kw_only=True)
class Promise:
    """One promise.

    Attributes:
        name: Short, for files and test ids.
        part: What it is about: a heading of the page.
        says: The promise in a sentence.
        tests: The tests that hold it: files, or functions as ``file.py::name``.
        broken: A build that they must catch.
    """

    name: str
    part: str
    says: str
    tests: tuple[str, ...]
    broken: Broken


def read_promises() -> tuple[Promise, ...]:
    """The list, in its order."""
    parts = tomllib.loads(LIST.read_text(encoding="utf-8"))["part"]
    return tuple(
        Promise(
            name=one["name"],
            part=part["title"],
            says=one["says"],
            tests=tuple(one["tests"]),
            broken=Broken(**{**one["broken"], "by": tuple(one["broken"]["by"])}),
        )
        for part in parts
        for one in part["promise"]
    )


def missing(tests: Sequence[str], root: Path = ROOT) -> list[str]:
    """Those of some tests that are not there."""
    return [test for test in tests if not _is_there(test, root)]


def _is_there(test: str, root: Path) -> bool:
    file, _, name = test.partition("::")
    path = root / file
    if not path.is_file():
        return False
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    return not name or name.partition("[")[0] in names


def holds(test: str, case: str) -> bool:
    """Whether a case, as pytest names it, is one of a test's or of a file's."""
    file, _, name = test.partition("::")
    where, _, found = case.partition("::")
    return file == where and (not name or found == name or found.partition("[")[0] == name)
