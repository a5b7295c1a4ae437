"""The environments of docs/compatibility.md: other versions of PEFT, transformers and torch.

nox                                  # all environments
nox -s audit                         # licences, vulnerabilities and bill of materials
nox -s oldest                        # one
nox -s oldest --force-python 3.10    # another Python
nox -db uv                           # uv's cache: what several of them have is there once
nox -s oldest -- tests/adapters -x   # other tests, or pytest's options
"""

from __future__ import annotations

import re
from pathlib import Path

import nox

TORCH = "torch==2.13.0"  # as in constraints.in
# What trainers pin, and the ends of the range that pyproject.toml declares.
ENVIRONMENTS: dict[str, list[str]] = {
    "oldest": [TORCH, "peft==0.18.1", "transformers==4.57.6"],
    "oldest_torch": ["torch==2.6.0", "peft==0.18.1", "transformers==4.57.6"],
    "llama_factory": [
        TORCH, "peft==0.18.1", "transformers==5.6.0", "trl==0.24.0", "datasets==4.0.0",
    ],
    "axolotl": [
        TORCH, "peft==0.20.0", "transformers==5.16.1", "trl==1.9.0", "accelerate==1.13.0",
        "datasets==4.8.4", "sentence-transformers==6.2.0",
    ],
    "transformers_5_10": [TORCH, "peft==0.21.2", "transformers==5.10.4"],
    "newest": ["torch", "peft", "transformers", "trl", "datasets", "sentence-transformers"],
}  # fmt: skip
TOOLS = ("pytest>=8", "pytest-xdist>=3.6", "bitsandbytes>=0.50", "requests", "pip")
LIBRARY = (
    *("tests/adapters", "tests/roles", "tests/linalg", "tests/numbers", "tests/cache"),
    "tests/checkpoints",
    *("tests/offline", "tests/cli", "tests/test_bare.py", "tests/test_files.py"),
    *("tests/test_pretrained.py", "tests/test_versions.py"),
)
WITH_DATASETS = tuple(
    f"tests/integrations/test_{name}.py" for name in ("trainer", "trl", "trl_config")
)
WITH_SENTENCES = ("tests/integrations/test_sentence_transformers.py",)

# Words in the licences of what may be depended on. torch's CUDA packages have NVIDIA's own.
FREE = "MIT;BSD;Apache;PSF;Python Software Foundation;ISC;MPL;Mozilla;Unlicense;HPND;CC0"

nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = list(ENVIRONMENTS)


def tests(session: nox.Session, pins: list[str]) -> None:
    """Install what is pinned beside the library, and run the library's tests."""
    session.install("-e", ".", *pins, *TOOLS)
    session.run("python", "-c", SAY)
    names = " ".join(pins)
    paths = [*LIBRARY, *(WITH_DATASETS if "datasets" in names else ())]
    paths += WITH_SENTENCES if "sentence-transformers" in names else ()
    session.run(
        *("python", "-m", "pytest", "-m", "not slow", "-n", "auto", "--dist", "loadscope"),
        *(session.posargs or paths),
        env={"OMP_NUM_THREADS": "1"},
    )


SAY = """
import sys, peft, torch, transformers
print("Python", sys.version.split()[0], *(
    f"{m.__name__} {m.__version__}" for m in (torch, transformers, peft)))
"""


@nox.session
def audit(session: nox.Session) -> None:
    """Licences, bill of materials and known vulnerabilities of what `pip install ailora` brings."""
    Path("dist").mkdir(exist_ok=True)
    session.install("--require-hashes", "-r", "requirements.lock")
    session.install("--no-deps", ".")
    session.install("pip-audit", "pip-licenses", "cyclonedx-bom")
    lock = Path("requirements.lock").read_text(encoding="utf-8")
    names = sorted(set(re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)))
    session.run("pip-licenses", "--format", "markdown", "--packages", *names)
    free = [name for name in names if not name.startswith(("nvidia-", "cuda-"))]
    strict = ("--partial-match", "--allow-only", FREE)
    session.run("pip-licenses", *strict, "--packages", *free, silent=True)
    session.run("cyclonedx-py", "requirements", "requirements.lock", "-o", "dist/sbom.json")
    session.run("pip-audit", "--disable-pip", "--require-hashes", "-r", "requirements.lock")


def _declare(name: str, pins: list[str]) -> None:
    @nox.session(name=name)
    def session(session: nox.Session) -> None:
        tests(session, pins)


for name, pins in ENVIRONMENTS.items():
    _declare(name, pins)
