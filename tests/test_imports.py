"""Imports run one way, downwards; and some things are in no module at all."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src"
MODULES = {
    ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((SRC / "ailora").rglob("*.py"))
}
FOUNDATION = {"errors", "files", "lazy", "lock", "termination", "versions"}
METHOD = FOUNDATION | {"html_table", "linalg", "cache", "roles", "adapters"}
LIBRARY = METHOD | {"pretrained", "checkpoints", "offline"}

# What each part of the package may import of the others; a new part needs a line here.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "files": {"errors"},
    "html_table": set(),
    "lazy": set(),
    "lock": {"errors", "files", "termination"},
    "termination": set(),
    "versions": {"errors"},
    "pretrained": {"errors", "files"},
    "linalg": {"errors"},
    "cache": FOUNDATION | {"linalg"},
    "roles": {"errors", "html_table", "linalg"},
    "adapters": FOUNDATION | {"linalg", "cache", "roles"},
    "checkpoints": FOUNDATION | {"linalg", "pretrained"},
    "offline": METHOD | {"checkpoints"},
    "cli": LIBRARY,
    "lab": {"pretrained", "lab.demo"},
    "lab.setting_fields": {"errors", "files"},
    "lab.settings": {"errors", "lab.setting_fields"},
    "lab.statistics": {"errors"},
    "lab.demo": FOUNDATION,
    "lab.methods": METHOD | {"checkpoints", "pretrained", "lab.settings"},
    "lab.tasks": FOUNDATION | {"lab.demo"},
    "lab.training": METHOD
    | {
        "checkpoints",
        "pretrained",
        "lab.settings",
        "lab.methods",
        "lab.demo",
        "lab.tasks",
    },
    "lab.analysis": METHOD
    | {"checkpoints", "pretrained", "lab.settings", "lab.methods", "lab.training"},
    "lab.experiments": METHOD
    | {"lab.settings", "lab.methods", "lab.demo", "lab.tasks", "lab.training"},
    "lab.report": FOUNDATION
    | {
        "html_table",
        "roles",
        "lab.settings",
        "lab.methods",
        "lab.tasks",
        "lab.statistics",
        "lab.experiments",
        "lab.analysis",
    },
    "lab.cli": LIBRARY
    | {"cli", "lab.settings", "lab.methods", "lab.demo", "lab.tasks", "lab.training"}
    | {"lab.setting_fields", "lab.experiments", "lab.report", "lab.analysis"},
}
FORBIDDEN = {
    "pickle": r"\bimport pickle\b|\bfrom pickle\b|\bpickle\.",
    "eval": r"(?<![\w.])eval\(",
    "exec": r"(?<![\w.])exec\(",
    "shell strings": r"shell\s*=\s*True|os\.system\(",
    "code of the model's folder": r"trust_remote_code\s*=\s*True",
    "torch.load": r"torch\.load\(",
}


def imported(name: str, path: Path) -> Iterator[str]:
    """Modules of ours that a module imports when it runs, at its top or inside a function."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("ailora"))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            module = node.module or ""
            if module == "ailora" or module.startswith("ailora."):
                inner = (f"{module}.{alias.name}" for alias in node.names)
                yield from (full if full in MODULES else module for full in inner)


@cache
def edges() -> dict[str, set[str]]:
    """What each module imports of ours."""
    return {name: set(imported(name, path)) for name, path in MODULES.items()}


def part_of(module: str) -> str:
    """``linalg`` of ``ailora.linalg.dense``, ``lab.tasks`` of ``ailora.lab.tasks.registry``."""
    names = module.split(".")[1:]
    return ".".join(names[:2] if names[:1] == ["lab"] else names[:1])


def violations(found: dict[str, set[str]]) -> list[str]:
    return [
        f"{name} imports {other}"
        for name, others in found.items()
        for other in others
        if part_of(name)
        and part_of(other) not in ALLOWED.get(part_of(name), set()) | {part_of(name)}
    ]


def test_there_is_something_to_walk() -> None:
    assert {
        "ailora.adapters.factors",
        "ailora.linalg.decomposition",
        "ailora.errors",
    } <= MODULES.keys()
    assert "ailora.roles" in edges()["ailora.adapters.starts"]
    assert "ailora.adapters.peft_insides" in edges()["ailora.adapters.load"]


def test_every_part_of_the_package_has_its_place_in_the_order() -> None:
    assert {part_of(name) for name in MODULES} - {""} <= ALLOWED.keys()


def test_imports_run_downwards() -> None:
    assert violations(edges()) == []


def test_nothing_outside_the_laboratory_imports_it() -> None:
    assert not [
        (name, other)
        for name, others in edges().items()
        for other in others
        if other.startswith("ailora.lab") and not name.startswith("ailora.lab")
    ]


def test_an_upward_import_would_be_seen() -> None:
    assert violations({"ailora.linalg.dense": {"ailora.roles"}}) == [
        "ailora.linalg.dense imports ailora.roles"
    ]
    assert violations({"ailora.roles.find": {"ailora.lab.tasks"}}) == [
        "ailora.roles.find imports ailora.lab.tasks"
    ]
    assert violations({"ailora.lab.tasks.registry": {"ailora.lab.training"}}) == [
        "ailora.lab.tasks.registry imports ailora.lab.training"
    ]
    assert violations({"ailora.adapters.load": {"ailora"}}) == [
        "ailora.adapters.load imports ailora"
    ]


def test_no_module_imports_itself_by_a_detour() -> None:
    try:
        TopologicalSorter(edges()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("what", FORBIDDEN)
def test_dangerous_calls_are_nowhere(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    found = [name for name, path in MODULES.items() if pattern.search(path.read_text("utf-8"))]
    assert found == []


def test_the_patterns_see_what_they_are_for() -> None:
    samples = {
        "pickle": "import pickle",
        "eval": "x = eval(text)",
        "exec": "exec(text)",
        "shell strings": "run(command, shell=True)",
        "code of the model's folder": "load(name, trust_remote_code=True)",
        "torch.load": "torch.load(path)",
    }
    assert all(re.search(FORBIDDEN[what], sample) for what, sample in samples.items())
    assert not re.search(FORBIDDEN["eval"], "model.eval()")


def test_no_module_is_named_utils() -> None:
    assert not [name for name in MODULES if re.search(r"util|helper|misc|common", name)]
