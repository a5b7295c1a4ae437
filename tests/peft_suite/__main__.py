"""PEFT's own tests with stock LoRA, then with anchored factors in LoRA's place.

    python -m tests.peft_suite --out FOLDER                # all of them (some ten minutes)
    python -m tests.peft_suite --out FOLDER --share 0.1    # a seeded tenth

What is in FOLDER is not run again, so a run that was broken off goes on where it was. There stand
``lora.jsonl`` and ``ailora.jsonl`` (one line per case), ``verdicts.jsonl`` and ``summary.json``.
Ends with 1 if a case is neither as stock nor excused by ``by_design.toml``.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ailora.errors import UserError
from ailora.files import cache_dir, write_atomic, write_json
from ailora.termination import at_once
from tests.lines import read_lines
from tests.peft_suite import archive, models, verdicts

FILES = tuple(
    f"test_{name}.py"
    for name in (
        *("config", "encoder_decoder_models", "feature_extraction_models", "initialization"),
        *("custom_models", "decoder_models"),
    )
)
ROOT = Path(__file__).parents[2]


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing in the folder, and print what became of all cases."""
    parser = argparse.ArgumentParser(prog="python -m tests.peft_suite", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--share", type=float, default=1.0, help="the part of the cases to run")
    parser.add_argument("--seed", type=int, default=0, help="which part")
    asked = parser.parse_args(argv)
    try:
        return run(asked.out.absolute(), asked.share, asked.seed)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2


def run(out: Path, share: float = 1.0, seed: int = 0) -> int:
    """The whole comparison; 1 if there is a bug."""
    tests, source = archive.obtain()
    out.mkdir(parents=True, exist_ok=True)
    about = _about(source, share, seed)
    _check_same(out / "run.json", about)
    hub = cache_dir() / "peft-tests" / "hub"
    models.make(hub)
    stock = _pytest(tests, hub, out / "lora.jsonl", "lora", share, seed)
    cases = [line["case"] for line in stock if verdicts.to_run(line)]
    write_atomic(out / "cases.txt", "\n".join(cases))
    ours = _pytest(tests, hub, out / "ailora.jsonl", "ailora", share, seed, out / "cases.txt")
    return report(out, about, stock, ours)


def report(out: Path, about: dict[str, Any], stock: list[Any], ours: list[Any]) -> int:
    """Write and print the verdicts."""
    found, counts = verdicts.count(stock, ours)
    lines = {line["case"]: line for line in ours}
    rows = [
        {"case": case, "verdict": what, "error": lines.get(case, {}).get("error", "")}
        for case, what in found.items()
    ]
    write_atomic(out / "verdicts.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    held = [lines[case] for case, what in found.items() if what == verdicts.AS_STOCK]
    summary = {
        **about,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "cases": len(stock),
        "counts": dict(counts.most_common()),
        "cases_as_stock_that_start": sum(line["wrapped"] > 0 for line in held),
        "started_adapters_as_stock": sum(line["wrapped"] for line in held),
        "anchored_layers_as_stock": sum(line["anchored"] for line in held),
    }
    write_json(out / "summary.json", summary)
    for what, number in counts.most_common():
        sys.stdout.write(f"{number:6d}  {what}\n")
    for row in rows:
        if row["verdict"] == verdicts.BUG:
            sys.stdout.write(f"BUG {row['case']}\n    {row['error']}\n")
    return int(counts[verdicts.BUG] > 0)


def _about(source: str, share: float, seed: int) -> dict[str, Any]:
    packages = {name: version(name) for name in ("peft", "transformers", "torch")}
    return {"source": source, **packages, "files": list(FILES), "share": share, "seed": seed}


def _check_same(path: Path, about: dict[str, Any]) -> None:
    """Refuse to go on with results of other versions or other cases."""
    if not path.exists():
        write_json(path, about)
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    for key, value in about.items():
        if before.get(key) != value:
            raise UserError(
                f"{path.parent} has results of {key} {before.get(key)!r}, and this is {value!r}: "
                "give another folder"
            )


def _pytest(
    tests: Path, hub: Path, record: Path, factors: str, share: float, seed: int,
    cases: Path | None = None,
) -> list[Any]:  # fmt: skip
    paths = [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(hub),
    }
    env.pop("PYTEST_ADDOPTS", None)
    command = [
        *(sys.executable, "-m", "pytest", "-p", "tests.peft_suite.plugin"),
        *("-p", "no:cacheprovider", "-p", "no:xdist", "-c", "pytest.ini", "--rootdir", "."),
        *("-q", "--tb=native", "--disable-warnings", f"--factors={factors}", f"--record={record}"),
        *(f"--share={share}", f"--seed={seed}"),
        *([f"--cases={cases}"] if cases else []),
        *(f"{archive.PACKAGE}/{name}" for name in FILES),
    ]
    log, total = record.with_suffix(".log"), len(cases.read_text().splitlines()) if cases else None
    with (
        log.open("wb") as output,
        tqdm(desc=f"PEFT's tests with {factors}", total=total, unit=" cases") as bar,
        subprocess.Popen(
            command, cwd=tests, env=env, stdout=output, stderr=subprocess.STDOUT
        ) as pytest,
    ):
        try:
            while pytest.poll() is None:
                time.sleep(0.5)
                bar.update(len(read_lines(record)) - bar.n)
        finally:
            pytest.terminate()  # nobody else would
    if pytest.returncode not in (0, 1, 5):  # all passed, some failed, none was left to run
        raise UserError(
            f"pytest ended with {pytest.returncode}, see {log}; run this again to go on"
        )
    return read_lines(record)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError), at_once():
        sys.exit(main())
