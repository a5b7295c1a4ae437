"""Code in a process that has stock PEFT in memory and nothing of this one.

Starting Python and importing torch, transformers and PEFT takes ten times as long as what tests do
there. So one process imports them, once, and each call has a fork of it to itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

_FORKING = """
import gc, json, os, sys, traceback
import peft, torch, transformers

gc.freeze()
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    for stream, path in ((1, "out"), (2, "err")):
        os.dup2(os.open(os.path.join(order["folder"], path), os.O_WRONLY | os.O_CREAT), stream)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = ["-c", *order["arguments"]]
    code = 0
    try:
        exec(order["code"], {"__name__": "__main__"})
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        print(*[end.code] * isinstance(end.code, str), file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
"""


def run_elsewhere(code: str, *arguments: object) -> str:
    """What the code prints in a process of its own, with these arguments in ``sys.argv[1:]``.

    Raises:
        AssertionError: It ended with another exit code than 0; its errors are the message.
    """
    ended = call_elsewhere(code, *arguments)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def call_elsewhere(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """How the code ends there, whatever its exit code."""
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        order = {
            "code": code,
            "arguments": [str(one) for one in arguments],
            "folder": folder,
            "cwd": str(Path.cwd()),
            "environment": dict(os.environ),
        }
        server.stdin.write(json.dumps(order) + "\n")
        server.stdin.flush()
        exit_code = int(server.stdout.readline())
        printed, errors = ((Path(folder) / name).read_text("utf-8") for name in ("out", "err"))
    return subprocess.CompletedProcess(["-c"], exit_code, printed, errors)


@cache
def _server() -> subprocess.Popen[str]:
    """The process that forks; it ends with this one, which closes its standard input."""
    return subprocess.Popen(
        [sys.executable, "-c", _FORKING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
