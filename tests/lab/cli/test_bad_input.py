"""Bad input ends in one line and exit code 2, and nothing is left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import Call, check_refused
from tests.conftest import write_csv

# The options, and words that the one line must have. {data} is a folder of files, {model} a model.
CASES = {
    "a missing file": ("--task {data}/nowhere.csv", "nowhere.csv"),
    "a part of the batch that does not divide it": (
        "--batch-size 16 --micro-batch-size 3",
        "--micro-batch-size 3: must divide the batch size, 16",
    ),
    "a missing dev file": ("--task {data}/good.csv --dev {data}/none.csv", "none.csv"),
    "a wrong text column": ("--task {data}/good.csv --text body", "body"),
    "a wrong label column": ("--task {data}/good.csv --label stars", "stars"),
    "a label not in train": ("--task {data}/good.csv --test {data}/odd.csv", "odd.csv:2"),
    "an empty file": ("--task {data}/empty.csv", "empty.csv"),
    "a header without rows": ("--task {data}/header.csv", "header.csv"),
    "too few rows to split": ("--task {data}/two.csv", "empty split"),
    "a folder without train": ("--task {data}/folder", "train"),
    "columns for the embedded task": ("--task movies --text x", "text"),
    "a metric that there is not": ("--task {data}/good.csv --metrics acuracy", "accuracy"),
    "a model folder that is not there": ("--model ./nowhere --task {data}/good.csv", "./nowhere"),
    "a model name that is not cached": (
        "--model nobody/none --task {data}/good.csv",
        "nobody/none",
    ),
    "a model without weights": ("--model {data}/folder --task {data}/good.csv", "folder"),
    "a rank above the model's": ("--model {model} --task {data}/good.csv --rank 5000", "5000"),
    "rows longer than the model's": (
        "--model {model} --task {data}/good.csv --max-length 999",
        "999",
    ),
    "a rank of 0": ("--rank 0", "--rank 0: must be at least 1"),
    "a scale of 0": ("--lora-alpha 0", "--lora-alpha 0.0: must be above 0"),
    "a limit of 0": ("--limit 0", "--limit 0: must be at least 1"),
    "an evaluation limit of 0": ("--eval-limit 0", "--eval-limit 0"),
    "epochs that are not a number": ("--epochs nan", "--epochs nan: must be a number"),
    "a batch of 0": ("--batch-size 0", "--batch-size 0"),
    "a rate of 0": ("--lr 0", "0.0: must be above 0"),
    "an infinite rate": ("--lr inf", "inf"),
    "a text option without a name": ("--text ,", "--text"),
    "a file for a folder": ("--out {data}/good.csv", "good.csv"),
    "a folder below a file": ("--out {data}/good.csv/runs", "good.csv"),
    "a folder that cannot be made": ("--out /proc/nobody/runs", "/proc/nobody/runs"),
}
COMPARE_ONLY = {
    "an unknown method among others": ("--methods lora,ailorra", "did you mean 'ailora'"),
    "a method twice": ("--methods lora,lora", "lora"),
    "no method": ("--methods ,", "--methods"),
    "seeds that are not numbers": ("--seeds a", "--seeds 'a'"),
    "seeds that are not whole": ("--seeds 0,1.5", "--seeds '0,1.5'"),
    "a negative seed": ("--seeds 0,-1", "--seeds -1: must be at least 0"),
    "a seed twice": ("--seeds 0,0", "--seeds 0,0: give each value once"),
    "rates that are not numbers": ("--lr fast", "--lr 'fast'"),
    "one rate of 0 among others": ("--lr 1e-3,0", "--lr 0.0: must be above 0"),
}
TRAIN_ONLY = {
    "an unknown method": ("--method ailorra", "did you mean 'ailora'"),
    "an unknown loss": ("--loss-on prompt", "--loss-on 'prompt': must be answer or sequence"),
    "an unknown rule for broken rows": ("--on-broken keep", "must be stop or skip"),
    "an unknown precision": ("--precision fp8", "fp8"),
    "dropout of 1": ("--lora-dropout 1", "--lora-dropout 1.0: must be at least 0 and below 1"),
    "warm-up of 1": ("--warmup-ratio 1", "--warmup-ratio 1.0"),
    "patience of 0": ("--early-stopping 0", "--early-stopping 0"),
}
LINES = [
    pytest.param(f"{command} {options}", words, id=f"{command}: {name}")
    for command, cases in (
        ("compare", CASES | COMPARE_ONLY),
        ("train", CASES | TRAIN_ONLY),
    )
    for name, (options, words) in cases.items()
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    rows = [(f"text {index}", ("yes", "no")[index % 2]) for index in range(30)]
    write_csv(folder / "good.csv", ("text", "label"), rows)
    write_csv(folder / "odd.csv", ("text", "label"), [("text", "perhaps")])
    write_csv(folder / "header.csv", ("text", "label"), [])
    write_csv(folder / "two.csv", ("text", "label"), rows[:2])
    (folder / "empty.csv").touch()
    (folder / "folder").mkdir()
    return folder


def listing(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.mark.parametrize(("line", "words"), LINES)
def test_bad_input_ends_in_one_line_and_leaves_nothing(
    line: str, words: str, call: Call, data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    before = listing(data), listing(tmp_path)
    ended = call(line.format(data=data, model=tiny_model))
    check_refused(ended, words)
    # Data that was read well is said before it shows that the rest does not fit it.
    assert ended.out == "" or "\nrows: " in ended.out or " rows to train on" in ended.out
    assert (listing(data), listing(tmp_path)) == before


@pytest.mark.parametrize("name", ["./nowhere", "nobody/none"])
def test_inspecting_a_model_that_is_not_there_ends_in_one_line(name: str, call: Call) -> None:
    ended = call(f"inspect {name}")
    check_refused(ended, name)


def test_a_shell_sees_the_same(tmp_path: Path) -> None:
    start = "from ailora.lab.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", start, "compare", "--task", "nowhere.csv"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("ailora: no task, file or folder is called 'nowhere.csv'")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["train", "compare --methods lora --seeds 0"])
def test_what_was_read_is_said_before_the_model_is_looked_for(
    call: Call, reviews: Path, command: str
) -> None:
    ended = call(f"{command} --task {reviews} --model nowhere/to-be-found --out out")
    check_refused(ended, "nowhere/to-be-found")
    said = ended.out.splitlines()
    assert said[0].startswith(f"{reviews}: classification on texts (text 'text', label 'label'")
    assert said[1].startswith("rows: ")
    assert said[2].startswith("classes and their training rows: ")
