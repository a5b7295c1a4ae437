"""The library without the laboratory's packages: what it does, and what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.test_imports import MODULES

LIBRARY = sorted(name for name in MODULES if not name.startswith("ailora.lab"))
DECLARED = [
    (re.split(r"[^\w.-]", line, maxsplit=1)[0].lower(), line)
    for line in metadata.requires("ailora") or ()
]
PACKAGES = {name for name, line in DECLARED if re.search(r"extra == .lab\b", line)}
PACKAGES -= {name for name, line in DECLARED if "extra ==" not in line}
IMPORTED_AS = {"scikit-learn": "sklearn", "rouge-score": "rouge_score", "attrs": "attr"}

# Every package of the extra `lab` that nothing else of the library brings is made not to be there,
# for imports and for their metadata.
ALSO_OF_OTHERS = {"psutil", "jinja2", "pip", "tomli"}
BARE = """
import importlib.machinery, importlib.metadata, sys
GONE, IMPORTS = {gone!r}, {imports!r}
found = importlib.machinery.PathFinder
class Hiding:
    def find_spec(name, path=None, target=None):
        return None if name.split(".")[0] in IMPORTS else found.find_spec(name, path, target)
    def find_distributions(context):
        return [] if context.name and context.name.lower() in GONE else (
            found.find_distributions(context)
        )
    invalidate_caches = found.invalidate_caches
sys.meta_path[sys.meta_path.index(found)] = Hiding
"""


def bare(code: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in an environment in which the laboratory's packages cannot be imported."""
    gone = PACKAGES - ALSO_OF_OTHERS
    start = BARE.format(gone=gone, imports={IMPORTED_AS.get(name, name) for name in gone})
    return subprocess.run(
        [sys.executable, "-c", start + code, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )


def test_the_extra_is_known() -> None:
    assert {"datasets", "scikit-learn", "matplotlib", "pandas", "gguf"} <= PACKAGES
    assert not {"torch", "peft", "typer", "rich", "filelock"} & PACKAGES


def test_every_module_of_the_library_is_imported_without_them(tmp_path: Path) -> None:
    done = bare(f"import importlib\nfor n in {LIBRARY!r}: importlib.import_module(n)", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_package_of_the_laboratory_would_be_missed(tmp_path: Path) -> None:
    done = bare("from ailora.lab.tasks import load_task", cwd=tmp_path)
    assert "No module named 'datasets'" in done.stderr


TRAIN = """
import sys, torch, peft, ailora, transformers as hf
def fresh():
    return hf.AutoModelForSequenceClassification.from_pretrained(sys.argv[1], num_labels=2)
model = peft.get_peft_model(fresh(), ailora.AILoRAConfig(r=2, task_type="SEQ_CLS"))
rows = [{"input_ids": [2, 4 + i % 8, 3], "labels": i % 2} for i in range(16)]
arguments = hf.TrainingArguments("out", max_steps=3, report_to="none", use_cpu=True)
optimizer = ailora.create_optimizer(model, lr=1e-2)
hf.Trainer(model=model, args=arguments, train_dataset=rows, optimizers=(optimizer, None)).train()
model.save_pretrained("adapter")
batch = {"input_ids": torch.tensor([[2, 5, 3]])}
again = ailora.load_adapter(fresh(), "adapter").eval()
stock = peft.PeftModel.from_pretrained(fresh(), "adapter").eval()
with torch.no_grad():
    want = model.eval()(**batch).logits
    assert torch.equal(again(**batch).logits, want)
    assert (stock(**batch).logits - want).abs().max() < 1e-6
print("exact")
"""


def test_a_model_is_wrapped_trained_saved_and_loaded(tmp_path: Path, tiny_model: Path) -> None:
    done = bare(TRAIN, str(tiny_model), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "exact"


COMMAND = "from ailora.lab.cli.main import main; main()"


COMMANDS = """
import sys
from ailora.lab.cli.main import main
for line in sys.argv[1:]:
    sys.argv = ["ailora", *line.split()]
    try:
        main()
    except SystemExit as end:
        assert not end.code, line
print("all of them")
"""


def test_the_commands_of_the_library_run(tmp_path: Path, tiny_model: Path) -> None:
    model = str(tiny_model)
    inspect, init = f"inspect {model}", f"init {model} --rank 2 --out start"
    done = bare(COMMANDS, inspect, f"{inspect} --spectra --rank 2", init, cwd=tmp_path)
    assert done.stdout.endswith("all of them\n"), done.stderr
    assert (tmp_path / "start").is_dir()


@pytest.mark.parametrize(
    "line",
    [
        *("compare", "train --task cola", "score x", "sweep x.toml", "runs x", "report x"),
        *("paper table1", "analyze x", "params"),
    ],
)
def test_a_command_of_the_laboratory_says_in_a_line_what_to_install(
    line: str, tmp_path: Path
) -> None:
    done = bare(COMMAND, *line.split(), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"ailora {line.split()[0]} is the laboratory's and needs " in done.stderr
    assert 'pip install "ailora[lab]"' in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_fresh_environment_with_the_library_alone_trains(
    tmp_path: Path, tiny_model: Path
) -> None:
    source = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-m", "venv", "env"], cwd=tmp_path, check=True)
    python = tmp_path / "env" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # A copy: setuptools leaves its own folders beside the sources.
    ignored = shutil.ignore_patterns(".*", "build", "site", "*.egg-info", "tests", "docs")
    shutil.copytree(source, tmp_path / "source", ignore=ignored)
    subprocess.run(
        [*install, "-c", source / "constraints.txt", tmp_path / "source"], cwd=tmp_path, check=True
    )
    there = subprocess.run(
        [python, "-m", "pip", "list", "--format", "freeze"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    installed = {line.partition("==")[0].lower().replace("_", "-") for line in there.splitlines()}
    assert not installed & (PACKAGES - ALSO_OF_OTHERS)

    def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    trained = run(python, "-c", TRAIN, str(tiny_model))
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.split()[-1] == "exact"
    ailora = python.parent / "ailora"
    for line in (
        f"inspect {tiny_model} --spectra --rank 2",
        f"init {tiny_model} --rank 2 --out start",
        "export adapter --out plain",
        f"export adapter --merge {tiny_model} --out merged",
    ):
        done = run(ailora, *line.split())
        assert done.returncode == 0, done.stderr
    refused = run(ailora, "compare")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "datasets" in refused.stderr
