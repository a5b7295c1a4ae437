"""How commands end when something outside them is wrong: the disk, the encoding, Ctrl-C, `~`."""

from __future__ import annotations

import errno
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import ailora
from ailora import files
from ailora.cli import console, endings
from ailora.errors import UserError
from ailora.lab.cli.options import in_options
from tests.commands import Call, check_refused

SMALL = "--rank 2 --epochs 1 --batch-size 8"
START = "from ailora.lab.cli.main import main; main()"


@pytest.fixture
def small(tiny_model: Path, reviews: Path) -> str:
    """Options of a run of a second."""
    return f"--model {tiny_model} --task {reviews} {SMALL}"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def started(arguments: str, **environment: str) -> subprocess.Popen[str]:
    """A command in a process of its own, as a terminal starts it."""
    return subprocess.Popen(
        [sys.executable, "-c", START, *arguments.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        start_new_session=True,
    )


def test_the_version_is_said(call: Call) -> None:
    ended = call("--version")
    assert (ended.code, ended.out) == (0, f"ailora {ailora.__version__}\n")


def test_a_tilde_is_the_home_folder_in_every_path(call: Call, small: str, home: Path) -> None:
    assert call(f"train {small} --method lora --out=~/runs").code == 0
    (run,) = (home / "runs").iterdir()
    assert call(f"score ~/runs/{run.name} --out=~/answers.jsonl").code == 0
    assert call("report ~/runs --out=~/page.html").code == 0
    assert call(f"analyze ~/runs/{run.name} --out=~/tables").code == 0
    assert call("runs ~/runs").code == 0
    # matplotlib makes .config and .cache where it is imported first.
    names = {path.name for path in home.iterdir() if not path.name.startswith(".")}
    assert names == {"runs", "answers.jsonl", "page.html", "tables"}
    assert not Path("~").exists()


def test_models_and_the_cache_below_the_home_folder_are_found(
    call: Call, home: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_model, home / "model")
    assert call("params --model ~/model --method lora").code == 0
    assert call("analyze ~/model").code == 0
    monkeypatch.setenv("AILORA_CACHE", "~/kept")
    assert files.cache_path() == home / "kept"
    check_refused(call("report ~nobody-here/runs"), "~nobody-here")


@pytest.mark.parametrize("command", ["compare", "train"])
@pytest.mark.parametrize("where", ["ailora.lock.json.dump", "ailora.files.os.fsync"])
def test_a_full_disk_ends_in_one_line(
    command: str, where: str, call: Call, small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name = where.rsplit(".", 1)
    holder, attribute = module.rsplit(".", 1)
    monkeypatch.setattr(getattr(importlib.import_module(holder), attribute), name, full)
    check_refused(call(f"{command} {small} --out out"), "o space left on device; free some space")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/full/adapter"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 731840 vs 731728"),
    ],
)
def test_a_full_disk_is_known_in_the_words_of_every_library(error: Exception) -> None:
    def command(**_: Any) -> None:
        try:
            raise error
        except (OSError, RuntimeError) as inner:
            raise TypeError("something else") from inner

    with pytest.raises(UserError, match=r"cannot write .*free some space"):
        endings.one_line(command)(out=Path("out"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."),
            "out of memory",
        ),
        (ImportError("a.so: failed to map segment from shared object"), "out of memory"),
        (SystemError("error return without exception set"), "out of memory"),
        (OSError(errno.EROFS, "Read-only file system", "/mnt/a"), "cannot write /mnt/a: Read-only"),
        (OSError(errno.EIO, "Input/output error", "/mnt/a"), "/mnt/a: Input/output error; look"),
        (OSError(errno.EMFILE, "Too many open files", b"a"), "a: Too many open files; look"),
    ],
)
def test_lack_of_memory_and_a_read_only_disk_are_said_in_one_line(
    error: Exception, said: str
) -> None:
    def command(**_: Any) -> None:
        raise error

    with pytest.raises(UserError, match=said) as caught:
        endings.one_line(command)(out=Path("out"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", ["cache", "train --out runs"])
def test_a_current_folder_that_is_gone_is_said(
    command: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    check_refused(call(command), "the current folder is gone")


@pytest.mark.parametrize("command", ["init {model}", "train --model {model} --task {data}"])
@pytest.mark.parametrize("name", ["x" * 300, "loop/x", "file/x"])
def test_a_place_for_results_that_the_system_does_not_take_is_refused(
    command: str, name: str, call: Call, tiny_model: Path, reviews: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    out = tmp_path / name
    check_refused(call(f"{command.format(model=tiny_model, data=reviews)} --out {out}"), str(out))


@pytest.mark.parametrize("sent", ["\x1b]0;title\x07", "\x1b[2J", "\u202e", "\x9b31m"])
def test_what_strangers_wrote_commands_no_terminal(
    sent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.table import Table

    table = Table("name")
    table.add_row(f"a{sent}b")
    for shown in (f"a{sent}b", table):
        console.Terminal(force_terminal=True).print(shown, style="bold", highlight=False)
        assert sent[0] not in capsys.readouterr().out.replace("\x1b[1m", "").replace("\x1b[0m", "")
    with pytest.raises(SystemExit):
        endings.end_badly(UserError(f"a{sent}b: no such role"))
    assert re.fullmatch(r"ailora: a\?.*b: no such role\n", capsys.readouterr().err)


def test_lack_of_memory_before_a_command_begins_is_said_too(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def app() -> None:
        raise ImportError("pydantic_core.so: failed to map segment from shared object")

    monkeypatch.setattr("ailora.cli.main.app", app)
    check_refused(call("train"), "out of memory")


def test_another_error_stays_what_it_is() -> None:
    def command() -> None:
        raise OSError(errno.EIO, "input/output error")

    with pytest.raises(OSError, match="input/output"):
        endings.one_line(command)()


@pytest.mark.parametrize("command", ["compare", "train", "sweep", "init", "report"])
def test_ctrl_c_says_in_one_line_what_is_kept(
    command: str, call: Call, small: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for name in ("ailora.cli.console.quiet_libraries", "ailora.lab.training.train"):
        monkeypatch.setattr(name, stop)
    options = {"init": f"{tiny_model} --out out", "sweep": "plan.toml --out out", "report": "out"}
    ended = call(f"{command} {options.get(command, f'{small} --out out')}")
    assert (ended.code, ended.out) == (130, "")
    assert ended.err.startswith("ailora: stopped")
    assert ended.err.count("\n") == 1
    if command != "report":
        assert "out" in ended.err
        assert "goes on" in ended.err


def test_ctrl_c_in_a_terminal_leaves_what_the_next_call_goes_on_with(
    small: str, tmp_path: Path
) -> None:
    line = f"compare {small} --epochs 400 --seeds 0 --methods lora --out {tmp_path / 'out'}"
    with started(line) as running:
        until = time.monotonic() + 60
        while not list(tmp_path.glob("out/runs/*/metrics.jsonl")) and time.monotonic() < until:
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert said.splitlines()[-1].startswith("ailora: stopped; what is finished is kept in ")
    assert "Traceback" not in said
    (run,) = (tmp_path / "out" / "runs").glob("lora-*")
    assert (run / "config.json").exists()
    assert not (run / "lock.json").exists()


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_what_the_encoding_lacks_is_replaced(environment: dict[str, str], tmp_path: Path) -> None:
    for arguments in ("train --help", f"runs {store(tmp_path)}"):
        with started(arguments, COLUMNS="200", **environment) as running:
            out, said = running.communicate(timeout=120)
        assert (running.returncode, said) == (0, ""), arguments
        assert out.strip()
        assert out.isascii()
    assert "lora+-" in out  # as the run's method is written, with a sign that ASCII lacks


def store(path: Path) -> Path:
    """A folder with one run, whose task is named in Chinese."""
    folder = path / "runs" / "lora-task-0123456789"
    folder.mkdir(parents=True, exist_ok=True)
    scores = {"accuracy": 0.5}
    result = {"config": {"method": "lora±", "task": "评论"}, "data": {"metric": "accuracy"}}
    result |= {"metrics": {"selection": scores, "test": scores}}
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return folder.parent


@pytest.mark.parametrize(
    ("said", "typed"),
    [
        (
            "x.csv:3: empty; on_broken='skip' leaves it out",
            "x.csv:3: empty; --on-broken skip leaves it out",
        ),
        ("text=('a', 'b'): no such column", "--text a,b: no such column"),
        ("max_length=999: too long", "--max-length 999: too long"),
        ("give regression=False", "give --classification"),
        ("give anchored=True", "give --anchored"),
        ("seed=[0, 0]: give each value once", "--seeds 0,0: give each value once"),
        ("https://x.org/?text=1 and a_text=2", "https://x.org/?text=1 and a_text=2"),
    ],
)
def test_messages_speak_the_words_of_the_command_line(said: str, typed: str) -> None:
    assert in_options(said, {"seed": "seeds"}) == typed


@pytest.mark.parametrize("width", [60, 40])
def test_names_and_scores_are_whole_on_narrow_terminals(
    width: int, call: Call, small: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    trained = call(f"train {small} --method lora --out runs")
    (path,) = Path("runs").glob("*/result.json")
    score = f"{json.loads(path.read_text())['metrics']['test']['accuracy']:.4f}"
    assert score in trained.out
    listed = call("runs runs")
    assert path.parent.name in listed.out
    assert f"test accuracy {score}" in listed.out
    compared = call(f"compare {small} --methods lora,ailora --seeds 0,1 --out cmp")
    assert len(re.findall(r"LoRA\b.*0\.\d{4} ± 0\.\d{4}|LoRA\n.*± 0\.\d{4}", compared.out)) == 2
    counted = call(f"params --model {tiny_model} --method lora,ailora,full")
    for name in ("AILoRA", "full fine-tuning"):
        assert name in counted.out
    seen = call(f"inspect {tiny_model}")
    assert "encoder.layer.1.attention.self.query" in seen.out
    assert "…" not in trained.out + listed.out + compared.out + counted.out + seen.out


def ended(arguments: str, stdout: Any, unbuffered: bool) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", START, *arguments.split()],
        check=False,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1" if unbuffered else ""},
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", [True, False])
@pytest.mark.parametrize("arguments", ["cache", "--version", "--help", "runs . --json"])
def test_output_that_cannot_be_written_is_said_in_one_line(
    arguments: str, unbuffered: bool
) -> None:
    with Path("/dev/full").open("w") as full:
        done = ended(arguments, full, unbuffered)
    assert done.returncode == 2
    assert done.stderr == (
        "ailora: cannot write the output: No space left on device; free some space and run it "
        "again\n"
    )


@pytest.mark.parametrize("unbuffered", [True, False])
@pytest.mark.parametrize("arguments", ["cache", "--version", "--help", "runs . --json"])
def test_a_reader_that_has_read_enough_is_not_spoken_of(arguments: str, unbuffered: bool) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = ended(arguments, writing, unbuffered)
    os.close(writing)
    assert done.stderr == ""


def test_a_library_in_rust_that_breaks_off_is_one_line() -> None:
    """Its error is no Exception: a tokeniser's pattern that finds no end."""

    def command() -> None:
        from tokenizers import Regex
        from tokenizers.pre_tokenizers import Split

        Split(Regex("(a+)+$"), "isolated").pre_tokenize_str("a" * 60 + "!")

    with pytest.raises(UserError, match=r"a library broke off: .*retry-limit") as caught:
        endings.one_line(command)()
    assert "\n" not in str(caught.value)


def test_python_without_docstrings_is_refused_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-OO", "-c", START, "inspect", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "ailora: python -OO leaves out what transformers needs; run it without\n"


def test_a_folder_that_weights_cannot_be_written_to_is_named_before_training(
    small: str, tmp_path: Path
) -> None:
    """Where the locale knows no UTF-8, and where a name is none."""
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for name, environment in ((os.fsencode("\u00fc"), locale), (b"\xff", {})):
        out = os.fsencode(tmp_path) + b"/" + name
        done = subprocess.run(
            [sys.executable, "-c", START, "train", *small.split(), "--out", out],
            capture_output=True,
            env={**os.environ, **environment},
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert done.stderr.count(b"\n") == 1
        assert b"its name is not UTF-8, or this locale reads none" in done.stderr
    assert list(tmp_path.iterdir()) == []
