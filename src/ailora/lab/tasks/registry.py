"""All tasks there are, and a task by one name: embedded, of the paper, a local path, or the hub.

`TASKS` has one line per task with a name; `FILE_KINDS` says what kind of task a file of the user's
own is, by its columns.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from ailora.errors import UserError, nearest
from ailora.lab.tasks.classification.glue import GLUE, load_glue
from ailora.lab.tasks.classification.movies import load_movies
from ailora.lab.tasks.classification.text import load_text_task
from ailora.lab.tasks.generation.arithmetic import load_arithmetic
from ailora.lab.tasks.generation.conversations import load_conversations
from ailora.lab.tasks.generation.instructions import load_instructions
from ailora.lab.tasks.generation.summaries import SETS, load_summaries, load_summarization
from ailora.lab.tasks.qa.squad import SQUAD, load_squad, load_squad_set
from ailora.lab.tasks.tables.hub import hub_survey, is_hub_name
from ailora.lab.tasks.tables.sources import is_local, train_files
from ailora.lab.tasks.tables.survey import Survey, survey
from ailora.lab.tasks.task import GenerationTask, QATask, Task, TextTask


@dataclass(frozen=True, kw_only=True)
class NamedTask:
    """A task that has a name.

    Attributes:
        kind: What its loader returns.
        load: Its loader.
        paper: Whether it is of the paper. Its data then come from a folder that the user names or
            from the hub; those of the other tasks are embedded.
        hub: Hub names of the same data. Under those too it is scored as the paper scores it.
    """

    kind: type[Task]
    load: Callable[..., Task]
    paper: bool = True
    hub: tuple[str, ...] = ()


TASKS: Mapping[str, NamedTask] = {
    "movies": NamedTask(kind=TextTask, load=load_movies, paper=False),
    "movies-regression": NamedTask(
        kind=TextTask, load=partial(load_movies, regression=True), paper=False
    ),
    **{
        name: NamedTask(
            kind=TextTask,
            load=partial(load_glue, name),
            hub=(f"glue/{name}", f"nyu-mll/glue/{name}"),
        )
        for name in GLUE
    },
    **{
        name: NamedTask(
            kind=QATask,
            load=partial(load_squad_set, name),
            hub=() if name == "xquad_en" else (hub,),  # that one is trained on other data
        )
        for name, hub in SQUAD.items()
    },
    "arithmetic": NamedTask(kind=GenerationTask, load=load_arithmetic),
    **{
        name: NamedTask(
            kind=GenerationTask,
            load=partial(load_summarization, name),
            hub=(known.hub,) if known.hub else (),
        )
        for name, known in SETS.items()
    },
}


@dataclass(frozen=True, kw_only=True)
class FileKind:
    """A kind of file of the user's own.

    Attributes:
        load: Its loader, which takes the file, the folder or the hub name first.
        columns: Columns that it has.
        one_of: Columns of which it must have at least one, if there are any here.
        flags: Whether answers that are true and false are of this kind too.
        labels: Whether a column named ``label`` holds its answers.
    """

    load: Callable[..., Task]
    columns: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()
    flags: bool = True
    labels: bool = False

    def fits(self, columns: Sequence[str]) -> bool:
        """Say whether a table with these columns is of this kind."""
        present = set(columns)
        return present.issuperset(self.columns) and (
            not self.one_of or bool(present.intersection(self.one_of))
        )

    def is_of(self, found: Survey) -> bool:
        """Say whether a file is of this kind: more rows have its columns than have none of them.

        A row may lack a column; it is then for the loader to say what becomes of it.
        """
        if not self.fits(found.columns) or (found.flags and not self.flags):
            return False
        own = {*self.columns, *self.one_of}
        fitting = sum(count for names, count in found.rows.items() if self.fits(names))
        foreign = sum(count for names, count in found.rows.items() if own.isdisjoint(names))
        return not own or fitting > foreign or not foreign

    def takes(self, options: Mapping[str, Any]) -> bool:
        """Say whether its loader has the options that name columns, and learns such a label."""
        known = inspect.signature(self.load).parameters
        said = _OF_COLUMNS & options.keys()
        return said <= known.keys() and (self.labels or options.get("label") != "label")


# The first that fits counts. The last fits all.
FILE_KINDS: tuple[FileKind, ...] = (
    FileKind(
        load=load_squad, columns=("question", "context"), one_of=("answers", "answer"), flags=False
    ),
    FileKind(load=load_summaries, columns=("document",), one_of=("summary", "references")),
    FileKind(load=load_instructions, columns=("instruction", "output")),
    FileKind(load=load_conversations, columns=("messages",)),
    FileKind(load=load_conversations, columns=("conversations",)),
    FileKind(load=load_conversations, columns=("prompt", "completion")),
    FileKind(load=load_text_task, labels=True),
)
# Options by which the user says what a file is for.
_OF_COLUMNS = {"text", "text_pair", "label", "labels", "positive"}


def load_task(name: str | Path, *, data: Path | str | None = None, **options: Any) -> Task:
    """Load a task by its name, or from a file or folder of your own.

    Args:
        name: ``movies`` or ``movies-regression`` (embedded); a task of the paper (``cola`` and the
            rest of GLUE, ``squad_v1``, ``squad_v2``, ``xquad_en``, ``arithmetic``, ``xsum``,
            ``cnn_dailymail``, ``dialogsum``, ``scitldr``); a file (csv, tsv, jsonl or
            json, each also compressed; parquet, arrow or feather) or a folder with ``train.*`` or
            shards, whose columns tell the kind of task; a Python file with a
            function ``load(**options)``; or a hub data set. A named task goes before a folder of
            that name (write ``./cola`` for one), a local path before the hub.
        data: Folder that holds the paper's tasks, each in a folder of its name; None for the hub.
        options: Options of the task's loader (`load_text_task`, `load_squad`, ...); None is left
            out.

    Raises:
        UserError: Nothing of that name (with the nearest one there is), an option that the task
            has no use for, or as the loaders raise.
    """
    text = str(name)
    path = Path(name).expanduser()
    if text in TASKS or (canonical(text) in TASKS and not path.exists()):
        return _load_named(canonical(text), data, options)
    if data is not None:
        raise UserError(f"task {text!r} is no task of the paper, so it takes no data folder")
    if path.suffix == ".py" and path.exists():
        return _load_python(path, **_given(options))
    if not is_local(text) or not path.exists():
        _refuse_missing(text, path)
    return _call(loader_of(name, _given(options)), text, options, name)


def canonical(name: str) -> str:
    """Return the name in `TASKS` of a hub data set that has one there, else ``name`` itself."""
    plain = name.replace(":", "/")
    return next((known for known, task in TASKS.items() if plain in task.hub), name)


def loader_of(
    train: Path | str, options: Mapping[str, Any] = MappingProxyType({})
) -> Callable[..., Task]:
    """Return the loader for a file, a folder with ``train.*`` or a hub name, by its columns.

    Args:
        train: The file, the folder or the name.
        options: What was said of it. A loader that has no such option, or not that label, is not
            meant: classification takes any columns.
    """
    name, path = str(train), Path(train).expanduser()
    on_hub = is_hub_name(name) and not is_local(name)
    found = hub_survey(name) if on_hub else survey(train_files(path))
    return next(kind.load for kind in FILE_KINDS if kind.is_of(found) and kind.takes(options))


def run_file(path: Path) -> ModuleType:
    """Run a Python file of the user's own and return it as a module.

    Raises:
        UserError: It is no Python file.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} cannot be run as Python; check the file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _load_named(name: str, data: Path | str | None, options: Mapping[str, Any]) -> Task:
    task = TASKS[name]
    if task.paper:
        return _call(task.load, name, {**options, "data": data})
    if data is not None:
        raise UserError(f"task {name!r} takes no data folder: it has its own")
    return _call(task.load, name, options)


def _load_python(path: Path, **options: Any) -> Task:
    """What ``load(**options)`` of a Python file of the user's own returns."""
    load = getattr(run_file(path), "load", None)
    if not callable(load):
        raise UserError(f"{path} has no function load(**options); write one that returns a task")
    task = load(**options)
    if not isinstance(task, Task):
        raise UserError(f"{path}: load() returned a {type(task).__name__}, not a task of ailora")
    return task


def _call(
    loader: Callable[..., Task], name: str, options: Mapping[str, Any], *arguments: Any
) -> Task:
    given, known = _given(options), inspect.signature(loader).parameters
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        raise UserError(f"task {name!r} takes no {', '.join(unknown)}: leave it out")
    return loader(*arguments, **given)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _refuse_missing(name: str, path: Path) -> None:
    """Raise unless ``name`` can only be meant for the hub."""
    neighbours = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = nearest(path.name, neighbours, shown=lambda near: f"'{path.parent / near}'")
    if not hint and is_hub_name(name) and not is_local(name):
        return
    hint = hint or nearest(name, TASKS) or "check the path"
    raise UserError(
        f"no task, file or folder is called {name!r}: {hint} (tasks: {', '.join(TASKS)}; "
        "a csv, tsv, jsonl, json, parquet, arrow or py file; a folder with train.*; a hub name as "
        "owner/name)"
    )
