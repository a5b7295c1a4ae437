"""Signals that come where Python drops what a handler raises."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

IN_DEL = """
import os, signal, sys, time
from ailora.termination import at_once

class Dying:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))
        for _ in range(1000):
            pass

with at_once():
    dying = Dying()
    del dying
    time.sleep(20)
print("went on")
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, -2)]
)
def test_a_signal_that_lands_in_a_del_still_ends_the_process(number: int, code: int) -> None:
    command = [sys.executable, "-c", IN_DEL, str(int(number))]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert "ignored" not in ended.stderr
