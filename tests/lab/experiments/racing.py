"""A sweep in a process of its own, for tests: every training that really begins is written down."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from ailora.lab.experiments import Store, sweep
from ailora.lab.experiments.engines.here import Here
from ailora.lab.experiments.grid import distinct
from ailora.lab.experiments.sweep_file import read_sweep_file
from ailora.lab.training import run as running


def main(file: str, out: str, log: str) -> None:
    torch.set_num_threads(1)
    begin = running._train

    def noted(config: Any, task: Any, folder: Any, *others: Any) -> Any:
        with Path(log).open("a") as stream:
            stream.write(f"{os.getpid()} {folder.path.name}\n")
        return begin(config, task, folder, *others)

    running._train = noted
    outcome = sweep(distinct(read_sweep_file(Path(file))), Store(Path(out)), Here())
    sys.stdout.write(f"{len(outcome.runs)} finished, {len(outcome.failed)} failed\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
