"""``ailora``: the library's commands and the laboratory's."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from importlib import metadata
from typing import Any

from ailora.cli.endings import one_line
from ailora.cli.main import app
from ailora.cli.main import main as run
from ailora.errors import UserError
from ailora.lab.cli import analyze, compare, data, paper, params, report, runs, score, sweep, train

_SAME = "what is finished is kept in {out}, and the same command goes on from there"
# What a command that is stopped leaves, and how to go on.
KEPT = {
    "train": "checkpoints are kept below {out}, and the same command with --resume goes on",
    "compare": _SAME,
    "sweep": _SAME,
    "paper": _SAME,
}
INSTALL = 'pip install "ailora[lab]"'


def laboratory(command: Callable[..., None]) -> Callable[..., None]:
    """The command, which says what to install where a package of the laboratory is missing."""

    @functools.wraps(command)
    def checked(*args: Any, **options: Any) -> None:
        missing = missing_packages()
        if missing:
            raise UserError(
                f"ailora {command.__name__} is the laboratory's and needs {', '.join(missing)}: "
                f"{INSTALL}"
            )
        command(*args, **options)

    return checked


def missing_packages() -> list[str]:
    """The packages of the extra ``lab`` that are not installed."""
    wanted = [
        re.split(r"[^\w.-]", line, maxsplit=1)[0]
        for line in metadata.requires("ailora") or ()
        if re.search(r"extra == .lab\b", line) and "python_version" not in line
    ]
    return [name for name in wanted if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


for command in (
    *(compare.compare, train.train, data.data, score.score, sweep.sweep, runs.runs, report.report),
    *(paper.paper, analyze.analyze, params.params),
):
    checked = one_line(laboratory(command), KEPT.get(command.__name__, ""))
    app.command(command.__name__, rich_help_panel="Laboratory")(checked)


def main() -> None:
    """Run the command line.

    Bad input, and a package that is missing, end in one line and exit code 2.
    """
    run()
