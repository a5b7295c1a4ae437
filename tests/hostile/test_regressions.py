"""What random cases found, one of each kind."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import os
import shutil
import signal
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from pyarrow import feather, parquet
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import ailora
from ailora.adapters.folder import read_tensors
from ailora.adapters.stored_types import config_damage
from ailora.checkpoints import open_checkpoint, read_structure
from ailora.checkpoints.header import read_header
from ailora.checkpoints.resumable import Record, begin
from ailora.errors import UserError
from ailora.files import parse_json
from ailora.lab.demo.asset_cache import unpack
from ailora.lab.experiments.store import Store
from ailora.lab.experiments.sweep_file import read_sweep_file
from ailora.lab.tasks.tables.read import read_table
from ailora.lab.training.folder import RunFolder
from ailora.lab.training.model import load_pretrained
from ailora.lab.training.results import read_result
from ailora.offline import export_adapter
from ailora.pretrained import load_backbone
from tests.checkpoints.models import edit_json, saved, tiny
from tests.hostile.guard import peak
from tests.writers import tokenizer

DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    ailora.get_peft_model(tiny("llama"), ailora.AILoRAConfig(r=2)).save_pretrained(folder)
    folded = ailora.AILoRAConfig(r=2, anchored=False)
    ailora.get_peft_model(tiny("llama"), folded).save_pretrained(folder / "folded")
    return folder


@pytest.fixture
def adapter(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "adapter"))


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        ailora.load_adapter(tiny("llama"), folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def read_marker(path: Path) -> None:
    refused(path.parent)


# File in a stranger's folder, and what reads it.
READ: dict[str, Callable[[Path], Any]] = {
    "adapter/ailora.json": read_marker,
    "adapter/adapter_model.safetensors": read_marker,
    "adapter/ailora_anchor.safetensors": read_tensors,
    "run/result.json": read_result,
    "run/metrics.jsonl": lambda path: RunFolder(path.parent).history(),
    "run/checkpoints/checkpoint-1/trainer_state.json": lambda path: RunFolder(
        path.parents[2]
    ).last_checkpoint(),
    "lora-x-0123456789/config.json": lambda path: Store(path.parents[1]).runs(),
    "lora-x-0123456789/lock.json": lambda path: Store(path.parents[1]).runs(),
    "data.csv": read_table,
    "data.jsonl": read_table,
    "data.csv.gz": read_table,
    "data.parquet": read_table,
    "plan.json": lambda path: begin(path.parent, path.name, {}),
    "model.safetensors": read_header,
}


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
@pytest.mark.parametrize("name", READ)
def test_a_pipe_or_a_device_in_place_of_a_file_holds_nobody_up(
    name: str, make: Callable[[Path], None], adapter: Path, tmp_path: Path
) -> None:
    """The one has no beginning, the other no end."""
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    make(path)
    with warnings.catch_warnings(), contextlib.suppress(UserError), alarm(20):
        warnings.simplefilter("ignore")
        READ[name](path)


@contextlib.contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """An AssertionError where the block takes longer, or hangs in the system."""

    def ring(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_json_that_is_too_deep_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(DEEP)


@pytest.mark.parametrize("name", ["adapter_config.json", "ailora.json"])
def test_deep_json_of_an_adapter_is_refused(adapter: Path, name: str) -> None:
    (adapter / name).write_text(DEEP)
    assert name in refused(adapter)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("r", "8"),
        ("r", 0),
        ("rank_pattern", {"q_proj": "8"}),
        ("rank_pattern", [1]),
        ("alpha_pattern", {"(((": 8}),
        ("lora_alpha", None),
        ("lora_dropout", 7),
        ("target_modules", ["q_proj", None]),
        ("target_modules", "((("),
        ("target_modules", ["q_proj"]),
        ("modules_to_save", [1]),
        ("target_parameters", [1]),
        ("layer_replication", [None]),
        ("monteclora_config", 3),
        ("alora_invocation_tokens", [None]),
        ("init_lora_weights", "pissa"),
        ("bias", 1),
    ],
)
def test_a_config_of_other_types_is_refused(adapter: Path, field: str, value: object) -> None:
    edit_json(adapter / "adapter_config.json", **{field: value})
    assert field in refused(adapter)


# Without an end on a name of thirty characters; in the last two nothing is repeated in a repeat.
ENDLESS = ["(.+)+!", "(.*.*)*!", "(a|a|.)*!", ".*.*.*.*.*.*.*.*[!?]", ".?" * 40 + "[!?]{40}"]


@pytest.mark.parametrize("pattern", ENDLESS)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rank_pattern", lambda pattern: {pattern: 2}),
        ("alpha_pattern", lambda pattern: {pattern: 2}),
        ("target_modules", str),
        ("exclude_modules", str),
        ("modules_to_save", lambda pattern: [pattern]),
        ("layers_pattern", lambda pattern: [pattern]),
    ],
)
def test_a_pattern_that_does_not_end_is_refused(
    adapter: Path, field: str, value: Callable[[str], object], pattern: str
) -> None:
    layers = [0, 1] if field == "layers_pattern" else None
    edit_json(
        adapter / "adapter_config.json", layers_to_transform=layers, **{field: value(pattern)}
    )
    with alarm(20):
        assert "for ever" in refused(adapter)
    with alarm(20), pytest.raises(UserError, match=field):
        export_adapter(adapter, adapter / "out")


@pytest.mark.parametrize(
    "pattern",
    [
        r".*\.(q|v)_proj",
        r"^(?!.*patch_embed).*(?:linear_fc1|linear_fc2|q_proj).*",
        r"(?:.*?(?:language|text|vision).*?(?:self_attn|attention|attn|mlp|ffn).*?(?:q_proj|v_proj)"
        r".*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|v_proj)))",
        "|".join(rf"model\.layers\.{n}\.self_attn\.q_proj" for n in range(200)),
    ],
)
def test_patterns_that_people_write_are_taken(pattern: str) -> None:
    assert config_damage(LoraConfig(target_modules=pattern, rank_pattern={pattern: 4})) == ""


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern", "target_modules"])
def test_more_entries_than_a_model_has_modules_are_refused(adapter: Path, field: str) -> None:
    names = {f"layer{number}": 2 for number in range(100_000)}
    edit_json(
        adapter / "adapter_config.json",
        **{field: [*names] if field == "target_modules" else names},
    )
    with alarm(20):
        assert f"{field} must be" in refused(adapter)


def test_many_entries_for_many_layers_are_refused(adapter: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    for number in range(2000):
        for letter, shape in (("A", (4, 1)), ("B", (1, 4))):
            tensors[f"base_model.model.x{number}.lora_{letter}.weight"] = torch.zeros(shape)
    save_file(tensors, adapter / "adapter_model.safetensors")
    edit_json(
        adapter / "adapter_config.json", rank_pattern={f"y{number}": 4 for number in range(4999)}
    )
    with alarm(20):
        assert "4999 entries for 2004 layers" in refused(adapter)


@pytest.mark.parametrize("alpha", [0, -0.0, -4, -1e-300, 1e-320])
def test_a_scale_that_no_start_has_is_refused(adapter: Path, alpha: float) -> None:
    edit_json(adapter / "adapter_config.json", lora_alpha=alpha)
    assert "the scale" in refused(adapter)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_hidden_layers": 10**18},
        {"num_hidden_layers": 10**5},
        {"vision_config": {"depths": [2, 10**9]}},
        {"num_local_experts": 10**9},
        {"attn_implementation": "someone/kernels"},
        {"text_config": {"_attn_implementation": "someone/kernels@main"}},
        {"experts_implementation": "someone/kernels"},
    ],
)
@pytest.mark.parametrize("read", ["streamed", "loaded", "with a head"])
def test_a_models_config_that_asks_for_no_end_or_for_code_is_refused(
    tmp_path: Path, read: str, fields: dict[str, object]
) -> None:
    model = saved(tmp_path)
    edit_json(model / "config.json", **fields)
    with alarm(20), pytest.raises(UserError, match=r"config\.json: (says|\w+='someone)"):
        READ_MODEL[read](model)


READ_MODEL: dict[str, Callable[[Path], object]] = {
    "streamed": lambda model: read_structure(open_checkpoint(model)),
    "loaded": lambda model: load_backbone(str(model)),
    "with a head": lambda model: load_pretrained(str(model), AutoModelForCausalLM, seed=0),
}


def test_a_class_may_be_called_layers(tmp_path: Path) -> None:
    model = saved(tmp_path)
    edit_json(model / "config.json", label2id={"layers": 20_000}, id2label={"20000": "layers"})
    assert read_structure(open_checkpoint(model)).stored


def test_a_models_config_of_more_layers_than_it_has_tensors_is_refused(tmp_path: Path) -> None:
    model = saved(tmp_path)
    edit_json(model / "config.json", num_hidden_layers=600)
    with pytest.raises(UserError, match="num_hidden_layers=600, where its weights are 21 tensors"):
        read_structure(open_checkpoint(model))


@pytest.mark.parametrize(
    "fields", [{"vocab_size": 10**8}, {"intermediate_size": 10**7}, {"hidden_size": 10**9}]
)
@pytest.mark.parametrize("read", ["loaded", "with a head"])
def test_a_models_config_of_far_more_weights_than_its_files_is_refused(
    tmp_path: Path, read: str, fields: dict[str, object]
) -> None:
    """Before memory is taken for them: some gigabytes."""
    model = saved(tmp_path)
    tokenizer(ends=True).save_pretrained(model)
    edit_json(model / "config.json", **fields)
    before = peak()
    with alarm(20), pytest.raises(UserError, match="they are not of one model"):
        READ_MODEL[read](model)
    assert peak() - before < 500


@pytest.mark.parametrize(
    "fields",
    [
        {"dtype": "evil"},
        {"dtype": 3},
        {"pad_token_id": 10**9},
        {"num_attention_heads": 0},
        {"hidden_act": 3},
        {"quantization_config": 3},
    ],
)
def test_a_models_config_that_transformers_stumbles_over_is_refused_in_one_line(
    tmp_path: Path, fields: dict[str, object]
) -> None:
    model = saved(tmp_path)
    edit_json(model / "config.json", **fields)
    with pytest.raises(UserError) as caught:
        load_backbone(str(model))
    assert "\n" not in str(caught.value)


def _first(stored: dict[str, Any], part: str) -> Any:
    return next(iter(stored[part].values()))


@pytest.mark.parametrize(
    "change",
    [
        lambda s: _first(s, "layers")["blocks"][0].update(rank="2"),
        lambda s: _first(s, "layers")["blocks"][0].update(rows=[]),
        lambda s: _first(s, "layers")["blocks"][0].update(rows=[[4, 2]]),
        lambda s: _first(s, "layers")["blocks"][0].update(init="none"),
        lambda s: _first(s, "layers").update(scaling=float("nan")),
        lambda s: _first(s, "sketches").update(value=None),
        lambda s: _first(s["base"], "layers").update(norm=float("inf")),
        lambda s: s["base"]["layers"].update({"model": _first(s["base"], "layers")}),
        lambda s: s["config"].update(r="8"),
    ],
)
def test_a_marker_of_other_types_is_refused(adapter: Path, change: Callable[[Any], object]) -> None:
    stored = json.loads((adapter / "ailora.json").read_text())
    change(stored)
    (adapter / "ailora.json").write_text(json.dumps(stored))
    refused(adapter)


@pytest.mark.parametrize("spoil", [torch.flatten, torch.Tensor.bool, lambda t: t * torch.nan])
def test_anchors_and_factors_that_are_no_matrices_are_refused(
    adapter: Path, spoil: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    for name in ("folded/ailora_anchor.safetensors", "folded/adapter_model.safetensors"):
        before = (adapter / name).read_bytes()
        tensors = load_file(adapter / name)
        first = min(tensors)
        save_file({**tensors, first: spoil(tensors[first])}, adapter / name)
        assert Path(name).name in refused(adapter / "folded")
        (adapter / name).write_bytes(before)


@pytest.mark.parametrize("value", [[1], None, "x", 2.5])
def test_a_models_config_of_other_types_is_refused(tmp_path: Path, value: object) -> None:
    model = saved(tmp_path)
    edit_json(model / "config.json", hidden_size=value)
    with pytest.raises(UserError, match="transformers builds no model of it"):
        read_structure(open_checkpoint(model))


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "../model.safetensors", ""])
def test_an_index_of_odd_names_is_refused(tmp_path: Path, name: str) -> None:
    model = saved(tmp_path, shards=True)
    edit_json(model / "model.safetensors.index.json", weight_map={"x": name})
    with pytest.raises(UserError, match="not an index of shards"):
        open_checkpoint(model)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.text(max_size=8),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "BF16", "x"]) | st.integers(),
                "shape": st.lists(st.integers() | st.floats(), max_size=3) | st.none(),
                "data_offsets": st.lists(st.integers() | st.floats(), max_size=3) | st.text(),
            }
        )
        | st.none(),
        max_size=3,
    ),
    st.integers(0, 2**64 - 1) | st.none(),
)
def test_any_header_is_read_or_refused(tmp_path: Path, header: object, claimed: int | None) -> None:
    text = json.dumps(header).encode()
    length = len(text) if claimed is None else claimed
    path = tmp_path / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + text)
    try:
        assert read_header(path).size == path.stat().st_size
    except UserError as error:
        assert "\n" not in str(error)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["config", "data", "metrics", "schema", "step", "test", "metric"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_JSON)
def test_any_json_is_no_result_or_a_damaged_one(tmp_path: Path, content: object) -> None:
    run = tmp_path / "lora-x-0123456789"
    run.mkdir(exist_ok=True)
    for name in ("config.json", "result.json", "failed.json", "metrics.jsonl"):
        (run / name).write_text(json.dumps(content))
    try:
        read_result(run / "result.json")
    except UserError as error:
        assert "\n" not in str(error)
    assert len(Store(tmp_path).runs()) == 1
    assert isinstance(RunFolder(run).history(), list)


def test_records_of_interrupted_work_that_cannot_be_read_are_made_again(tmp_path: Path) -> None:
    work = begin(tmp_path, "plan.json", {"a": 1})
    work.add_record("x", Record(rows=({"tensor": "y"},), tensors={"t": torch.ones(1)}))
    assert work.record("x") is not None
    (record,) = (path for path in tmp_path.rglob("x") if path.is_file())
    save_file({"t": torch.ones(1)}, record)
    assert work.record("x") is None
    record.write_bytes(b"\xff" * 20)
    assert work.record("x") is None
    edit_json(tmp_path / "plan.json", report=3)
    with pytest.raises(UserError, match="not a plan ailora wrote"):
        begin(tmp_path, "plan.json", {"a": 1})


def test_a_history_that_is_no_text_or_no_file_is_empty(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n\xff\xfe\n{"step": "2"}\n')
    assert RunFolder(tmp_path).history() == [{"step": 1}]
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()
    assert RunFolder(tmp_path).history() == []


def test_a_broken_parquet_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1" + b"\xff" * 40 + (20).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(UserError) as caught:
        read_table(path)
    assert "\n" not in str(caught.value)


def test_a_wheel_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not the wheel it should be"):
        unpack(tmp_path / "absent.whl", (), tmp_path / "fresh")


PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("end", [*PACK, ".zst"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json"])
def test_a_small_file_that_unpacks_to_a_large_one_is_refused_early(
    name: str, end: str, tmp_path: Path
) -> None:
    path, pack = tmp_path / f"{name}{end}", PACK.get(end, bytes)
    with pa.output_stream(str(path), compression="zstd" if end == ".zst" else None) as out:
        for _ in range(40):
            out.write(pack(b"\0" * 2**20))
    assert path.stat().st_size < 2**20
    with pytest.raises(UserError, match=r"unpacks to more than 200 times its size \(16 MB"):
        read_table(path)


def test_a_file_that_is_packed_well_is_read(tmp_path: Path) -> None:
    rows = [{"text": f"a sentence, number {i}", "label": 1} for i in range(30_000)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (tmp_path / "a.jsonl.xz").write_bytes(lzma.compress(lines))
    assert len(read_table(tmp_path / "a.jsonl.xz").rows) == len(rows)


def _columnar(path: Path, texts: list[str]) -> bytes:
    table = pa.table({"text": texts, "label": list(range(len(texts)))})
    if path.suffix == ".parquet":
        parquet.write_table(table, str(path), use_dictionary=False, compression="none")
    elif path.suffix == ".feather":
        feather.write_feather(table, str(path), compression="uncompressed")
    else:
        new = pa.ipc.new_stream if path.stem == "stream" else pa.ipc.new_file
        with new(str(path), table.schema) as writer:
            writer.write_table(table)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["stream.arrow", "file.arrow", "a.feather", "a.parquet"])
def test_texts_of_a_file_by_columns_that_are_no_unicode_are_refused(
    name: str, tmp_path: Path
) -> None:
    whole = _columnar(tmp_path / name, ["one", "another"])
    (tmp_path / name).write_bytes(whole.replace(b"another", b"an\xffther"))
    with pytest.raises(UserError, match=rf"{name}: not a .* file: [^\n]*UTF8"):
        read_table(tmp_path / name)


@pytest.mark.parametrize("name", ["stream.arrow", "file.arrow", "a.feather"])
def test_offsets_that_lead_out_of_a_file_by_columns_are_refused(name: str, tmp_path: Path) -> None:
    """Arrow reads where they lead: other memory, or none."""
    whole = _columnar(tmp_path / name, ["a" * 1000, "b" * 234])
    offsets = struct.pack("<3i", 0, 1000, 1234)
    assert whole.count(offsets) == 1
    for wrong in (2**30, -5):
        spoilt = whole.replace(offsets, struct.pack("<3i", 0, wrong, 1234))
        (tmp_path / name).write_bytes(spoilt)
        with pytest.raises(UserError, match=f"{name}: not a "):
            read_table(tmp_path / name)


def test_a_sweep_of_a_million_runs_or_without_an_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    values = list(range(1, 101))
    axes = "".join(f"{name} = {values}\n" for name in ("seed", "epochs", "rank"))
    path.write_text(f"[grid]\n{axes}")
    with alarm(20), pytest.raises(UserError, match="asks for 1,000,000 runs"):
        read_sweep_file(path)
    path.write_text(f"a = {DEEP}")
    with pytest.raises(UserError, match="nested too deeply"):
        read_sweep_file(path)
