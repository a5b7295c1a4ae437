"""The memory that reading a file takes does not grow with its texts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

READ = """
import sys, threading, time
from ailora.lab.tasks import load_task
import ailora.lab.training.data_report
def now():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))
most = [now()]
before = most[0]
def watch():
    while True:
        most[0] = max(most[0], now())
        time.sleep(0.01)
threading.Thread(target=watch, daemon=True).start()
task = load_task(sys.argv[1])
ailora.lab.training.data_report.compared(task)
print((most[0] - before) // 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_many_times_the_texts_takes_little_more_memory(tmp_path: Path) -> None:
    def taken(rows: int) -> int:
        path, words = tmp_path / f"{rows}.jsonl", "a film as long as it is good, or nearly " * 50
        with path.open("w") as file:
            for n in range(rows):
                file.write(json.dumps({"text": f"{n} {words}", "label": n % 2}) + "\n")
        done = subprocess.run(
            [sys.executable, "-c", READ, str(path)], check=True, capture_output=True, text=True
        )
        return int(done.stdout)

    # 12,000 rows of 2,000 characters are 24 MB, of which 180 MB were made once.
    assert taken(12_000) - taken(500) < 60
