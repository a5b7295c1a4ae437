"""A stand-in for the worker process: obeys at once, or dies as the method's name says.

It needs a second where a real one needs ten, so that dying can be tested often.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

GIGABYTE = 2**30


def main(log: Path) -> None:
    for line in sys.stdin:
        order = json.loads(line)
        config = order["config"]
        with log.open("a") as stream:
            stream.write(f"{os.getpid()} {config['seed']} {order['threads']}\n")
        say({"step": [1, 2, "training"]})
        if config["weight_decay"] == 0.5 or (config["weight_decay"] == 0.25 and first(log, config)):
            os.kill(os.getpid(), signal.SIGKILL)
        if config["weight_decay"] == 0.75:
            sys.exit("Traceback\nImportError: no such library")
        metrics = {"selection": {"f1": 0.5}, "test": {"f1": 0.5}}
        result = {"config": config, "metrics": metrics, "data": {"metric": "f1"}}
        say({"result": result, "memory": GIGABYTE})


def first(log: Path, config: dict[str, object]) -> bool:
    """Whether this seed was ordered once so far."""
    seeds = [line.split()[1] for line in log.read_text().splitlines()]
    return seeds.count(str(config["seed"])) == 1


def say(words: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
