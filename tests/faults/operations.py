"""What faults are injected into: each operation on tiny inputs, and what its end must be."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import peft
import torch
import transformers as hf
import typer

from ailora import AILoRAConfig
from ailora.cli.endings import one_line
from ailora.cli.main import main as library
from ailora.lab.cli import sweeps
from ailora.lab.cli.main import main
from ailora.lab.demo.asset_cache import obtain
from ailora.lab.demo.assets import Asset, Member
from ailora.lab.experiments.engines.here import Here
from ailora.lab.tasks import load_task
from ailora.lab.training import RunConfig, train
from tests.checkpoints.models import files, tiny
from tests.conftest import SPECIAL, sentences, tokenizer, write_csv
from tests.faults.child import OFFLINE
from tests.lab.demo.conftest import FILES, make_wheel
from tests.offline.models import perturb, stock_adapter

EVENTS = ("kill", "term", "hup", "int", "nospace", "refused", "clock")
ALWAYS = ("torn", "memory")
ON_A_MOUNT = ("full", "readonly")
ALL = (*EVENTS, *ALWAYS, *ON_A_MOUNT, "twice")


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation.

    Attributes:
        name: Its name.
        run: Does it below a folder of its own; called again, it ends the work.
        result: What must be the same however it got there.
        exact: Whether a file that is there under its final name has its final bytes.
        tidy: Whether it clears away the hidden temporary files of one that was killed.
        faults: What it is tried with.
        prepare: Fills the folder first.
    """

    name: str
    run: Callable[[Path], None]
    result: Callable[[Path], Mapping[str, Any]]
    exact: bool = False
    tidy: bool = True
    faults: tuple[str, ...] = ALL
    prepare: Callable[[Path], None] = field(default=lambda folder: None)


def make_inputs(folder: Path) -> None:
    """Models, adapters, data and a finished run, made once."""
    torch.manual_seed(0)
    base, tuned = tiny("llama"), tiny("llama")
    base.save_pretrained(folder / "llama", max_shard_size="20KB")
    with torch.no_grad():
        for name, value in tuned.named_parameters():
            if name.endswith(("q_proj.weight", "down_proj.weight")):
                value.add_(torch.randn(value.shape[0], 2) @ torch.randn(2, value.shape[1]))
    tuned.save_pretrained(folder / "tuned")
    stock_adapter(folder / "adapter")
    config = hf.BertConfig(
        vocab_size=len(SPECIAL) + 18,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=160,
        initializer_range=0.1,
        pad_token_id=0,
    )
    hf.BertModel(config).save_pretrained(folder / "bert")
    tokenizer().save_pretrained(folder / "bert")
    for seed, (part, count) in enumerate((("train", 24), ("dev", 8), ("test", 8))):
        rows = [(text, "pos" if n > 0 else "neg") for text, n in sentences(count, seed=seed)]
        write_csv(folder / "reviews" / f"{part}.csv", ("text", "label"), rows)
    wheel = make_wheel(folder / "links", FILES)
    about = {"sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(), "size": wheel.stat().st_size}
    (folder / "wheel.json").write_text(json.dumps({"path": str(wheel), **about}))
    settings = {"model": str(folder / "bert"), "task": str(folder / "reviews"), "rank": 2}
    config = RunConfig(**settings, method="lora", lr=0.05, epochs=1, batch_size=8)
    train(config, load_task(config.task, **config.task_options()), folder / "store")
    (folder / "sweep.toml").write_text(
        f'[common]\ntask = "{folder / "reviews"}"\nmodel = "{folder / "bert"}"\n'
        'rank = 2\nbatch_size = 8\nepochs = 1\nlr = 0.05\n[grid]\nmethod = ["lora", "ailora"]\n'
    )


def operations(inputs: Path) -> dict[str, Operation]:
    """All of them, by name."""
    training = (
        f"train --model {inputs / 'bert'} --task {inputs / 'reviews'} --rank 2 --batch-size 8 "
        "--epochs 3 --lr 0.05 --lora-dropout 0.1 --resume --out {out}"
    )
    init = f"init {inputs / 'llama'} --rank 2 --out {{out}}"
    merge = f"export {inputs / 'adapter'} --merge {inputs / 'llama'} --out {{out}}"
    extract = f"extract {inputs / 'llama'} {inputs / 'tuned'} --rank 2 --out {{out}}"
    report = "report {out}/store --out {out}/page.html"
    every = [
        _making_files("init, folded", _command(init)),
        _making_files("init, anchored", _again(_command(f"{init} --anchored"))),
        _making_files("cache", _again(_cached(_command(f"{init} --anchored")))),
        _making_files("export", _again(_command(f"export {inputs / 'adapter'} --out {{out}}"))),
        _making_files("merge", _command(merge)),
        _making_files("extract", _command(extract)),
        Operation(name="train", run=_command(training), result=_runs),
        Operation(
            name="sweep",
            run=_here(
                _command(
                    f"sweep {inputs / 'sweep.toml'} --no-estimate --retry-failed --out {{out}}"
                )
            ),
            result=_runs,
        ),
        _making_a_page("report", _command(report), inputs),
        _making_a_page("report --watch", _watched(_command(f"{report} --watch --every 1")), inputs),
        Operation(name="save", run=_as_command(_save), result=_saved, prepare=_save_other),
        Operation(
            name="asset",
            run=_as_command(lambda folder: _obtain(inputs, folder)),
            result=lambda folder: {
                name: data for name, data in files(folder / "cache").items() if "lock" not in name
            },
            exact=True,
            faults=(*ALL, "network"),
        ),
    ]
    return {one.name: one for one in every}


def _making_files(name: str, run: Callable[[Path], None]) -> Operation:
    return Operation(name=name, run=run, result=_files, exact=True)


def _making_a_page(name: str, run: Callable[[Path], None], inputs: Path) -> Operation:
    return Operation(name=name, run=run, result=_page, prepare=_store(inputs), tidy=False)


def _command(line: str) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        sys.argv = ["ailora", *shlex.split(line.format(out=folder / "out"))]
        main()

    return run


def _as_command(call: Callable[[Path], None]) -> Callable[[Path], None]:
    """A call of the library, ended as the command line ends its own."""

    def run(folder: Path) -> None:
        command = typer.Typer()
        command.command()(one_line(lambda: call(folder)))
        sys.argv = ["ailora"]
        with patch("ailora.cli.main.app", command):
            library()

    return run


def _cached(run: Callable[[Path], None]) -> Callable[[Path], None]:
    def with_cache(folder: Path) -> None:
        with patch.dict("os.environ", AILORA_CACHE_LIMIT="1MB", AILORA_CACHE=str(folder / "cache")):
            run(folder)

    return with_cache


def _again(run: Callable[[Path], None]) -> Callable[[Path], None]:
    """For a command that does not go on: a finished folder is its end."""

    def unless_done(folder: Path) -> None:
        if not (folder / "out").exists():
            run(folder)

    return unless_done


def _here(run: Callable[[Path], None]) -> Callable[[Path], None]:
    def in_this_process(folder: Path) -> None:
        with patch.object(sweeps, "engine_named", lambda *_: Here()):
            run(folder)

    return in_this_process


def _watched(run: Callable[[Path], None]) -> Callable[[Path], None]:
    """A run ends while the page is watched; then the user stops it."""

    def until_stopped(folder: Path) -> None:
        naps: list[float] = []

        def nap(seconds: float) -> None:
            naps.append(seconds)
            if len(naps) > 2:
                raise KeyboardInterrupt
            later = folder / "later" / f"lora-reviews-{len(naps):010d}"
            with contextlib.suppress(OSError):
                later.rename(folder / "out" / "store" / later.name)

        with patch.object(time, "sleep", nap):
            run(folder)

    return until_stopped


def _store(inputs: Path) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        shutil.copytree(inputs / "store", folder / "out" / "store")
        (one,) = (inputs / "store").iterdir()
        for seed in (1, 2):
            later = folder / "later" / f"lora-reviews-{seed:010d}"
            shutil.copytree(one, later)
            result = json.loads((one / "result.json").read_text())
            result["config"]["seed"] = seed
            (later / "result.json").write_text(json.dumps(result))

    return fill


def _adapted(rank: int) -> Any:
    torch.manual_seed(rank)
    model = peft.get_peft_model(tiny("llama"), AILoRAConfig(r=rank))
    perturb(model)
    return model


def _save_other(folder: Path) -> None:
    _adapted(3).save_pretrained(folder / "out")


def _save(folder: Path) -> None:
    _adapted(2).save_pretrained(folder / "out")


def _saved(folder: Path) -> Mapping[str, Any]:
    """But for the card, to which PEFT and the library add at each save."""
    return {name: data for name, data in files(folder / "out").items() if name != "README.md"}


def _obtain(inputs: Path, folder: Path) -> None:
    wheel = json.loads((inputs / "wheel.json").read_text())
    members = tuple(
        Member(path=path, name=path.split("/")[-1], sha256=hashlib.sha256(content).hexdigest())
        for path, content in FILES.items()
    )
    asset = Asset(
        title="toy",
        package="ailora-toy-asset",
        version="1.0",
        sha256=wheel["sha256"],
        size=wheel["size"],
        members=members,
        licence="none",
    )
    own = {"PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1"}
    own |= {"PIP_FIND_LINKS": str(Path(wheel["path"]).parent)}
    if OFFLINE in os.environ:
        own = {"PIP_CONFIG_FILE": "/dev/null", "PIP_RETRIES": "0"}
        own |= {"PIP_INDEX_URL": "http://127.0.0.1:9/simple"}  # where nobody listens
    with patch.dict("os.environ", {"AILORA_CACHE": str(folder / "cache"), **own}):
        obtain(asset)


def _files(folder: Path) -> Mapping[str, Any]:
    return files(folder / "out")


def _page(folder: Path) -> Mapping[str, Any]:
    text = (folder / "out" / "page.html").read_text(encoding="utf-8")
    return {"whole": text.rstrip().endswith("</html>"), "runs": text.count("<tr")}


def _runs(folder: Path) -> Mapping[str, Any]:
    """Weights to the bit and scores; a mean loss that was summed in two parts to six digits."""
    found: dict[str, Any] = {}
    for path in sorted((folder / "out").glob("*/result.json")):
        result = json.loads(path.read_text())
        run = path.parent
        for line in result["history"]:
            line.pop("seconds")
            line["loss"] = line["loss"] and float(f"{line['loss']:.6g}")
        found[run.name] = {
            "files": sorted(each.name for each in run.iterdir()),
            "adapter": files(run / "adapter"),
            **{name: result[name] for name in ("metrics", "history", "updates")},
        }
    return found
