"""``ailora init`` as a shell calls it."""

from __future__ import annotations

import inspect
import math
import re
from pathlib import Path

import pytest
import torch
import transformers as hf
from peft import PeftModel

from ailora import AILoRAConfig
from ailora.adapters.folder import read_adapter
from ailora.checkpoints.header import read_header
from ailora.cli.init import init, spans
from tests import image_and_text
from tests.adapters.any_model import logits
from tests.checkpoints.models import files, saved
from tests.commands import Call, check_refused


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(tmp_path / "model", shards=True)


def test_it_writes_both_folders_and_says_what_rounding_cost(
    call: Call, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    ended = call(f"init {model} --out start --rank 4 --bake-rates")
    assert ended.code == 0, ended.err
    assert (Path("start/adapter/adapter_model.safetensors")).exists()
    assert (Path("start/model/model.safetensors.index.json")).exists()
    assert ended.out.count("float32") == 8  # stored as and kept as, of two weights in two layers
    assert "ailora export" in ended.out
    before = files(Path("start"))
    assert call(f"init {model} --out start --rank 4 --bake-rates").out == ended.out
    assert files(Path("start")) == before


def test_a_plan_is_printed_and_nothing_is_written(
    call: Call, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    ended = call(f"init {model} --out start --rank 4 --plan")
    assert ended.code == 0, ended.err
    assert not Path("start").exists()
    assert re.search(
        r"model\.layers\.\*\.self_attn\.q_proj .* principal .* 32 x 32 .* 0-1 ", ended.out
    )
    assert "minor" in ended.out and "16 x 32" in ended.out
    trained = 2 * 4 * (32 + 32 + 16 + 32)
    assert f"trains: {trained:,} parameters" in ended.out
    assert "nothing was written" in ended.out
    assert call(f"init {model} --out start --rank 4").code == 0
    adapter = read_header(Path("start/adapter/adapter_model.safetensors"))
    assert sum(math.prod(entry.shape) for entry in adapter.entries.values()) == trained


@pytest.mark.parametrize("options", ["--rank 17", "--out {model}", "--task-type SEQ_CLS"])
def test_a_plan_is_refused_as_the_start_is(call: Call, model: Path, options: str) -> None:
    line = f"init {model} --out start {options.format(model=model)}"
    said = [call(f"{line} --plan"), call(line)]
    check_refused(said[0], "")
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("numbers", "said"), [((), "shared"), ((3,), "3"), ((0, 1, 2, 5, 7, 8), "0-2, 5, 7-8")]
)
def test_layers_in_a_row_are_joined(numbers: tuple[int, ...], said: str) -> None:
    assert spans(numbers) == said


def test_a_coarser_start_is_another_one_and_a_tol_out_of_range_is_refused(
    call: Call, model: Path
) -> None:
    assert call(f"init {model} --out start --rank 4 --anchored --tol 1e-2").code == 0
    check_refused(call(f"init {model} --out other --tol 1.5"), "tol=1.5: must be between 0 and 1")


def test_anchored_writes_an_adapter_alone(call: Call, model: Path) -> None:
    ended = call(f"init {model} --out start --rank 4 --preset milora --anchored")
    assert ended.code == 0, ended.err
    assert "load_adapter" in ended.out
    assert "'start'" in ended.out
    assert (Path("start/adapter_config.json")).exists()
    assert not (Path("start/model")).exists()


def test_the_documentation_loads_the_folder_that_is_written(call: Call, model: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "start" / "files.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^ailora (init MODEL .*--anchored.*)$", page, re.MULTILINE)
    (folder,) = re.findall(r'load_adapter\(model, "(.*?)"', page)
    assert call(command.replace("MODEL", str(model))).code == 0
    assert (Path(folder) / "adapter_config.json").exists()


def test_published_takes_the_layers_of_a_starts_own_paper(call: Call, model: Path) -> None:
    ended = call(f"init {model} --out start --rank 2 --preset milora --published --anchored")
    assert ended.code == 0, ended.err
    names = read_adapter(Path("start")).updates
    assert {name.rpartition(".")[2] for name in names} == {
        *("q_proj", "k_proj", "v_proj"),
        *("up_proj", "down_proj"),
    }
    check_refused(call(f"init {model} --out other --published"), "for the presets pissa and milora")


@pytest.mark.parametrize("form", ["", "--anchored"])
def test_parts_choose_the_tower(call: Call, tmp_path: Path, form: str) -> None:
    image_and_text.build("llava").save_pretrained(tmp_path / "llava")
    ended = call(f"init {tmp_path / 'llava'} --out start --rank 2 --parts vision {form}")
    assert ended.code == 0, ended.err
    folder = Path("start") if form else Path("start/adapter")
    names = read_adapter(folder).updates
    assert len(names) == 4 and all("vision_tower" in name for name in names)
    base = tmp_path / "llava" if form else Path("start/model")
    rows = image_and_text.inputs("llava")
    before = logits(image_and_text.build("llava"), rows)
    loaded = hf.LlavaForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    stock = PeftModel.from_pretrained(loaded, folder).eval()
    torch.testing.assert_close(logits(stock, rows), before, rtol=0, atol=1e-4)
    check_refused(call(f"init {tmp_path / 'llava'} --out other --parts sound"), "--parts 'sound'")


def test_a_fused_layer_has_one_rate_in_one_line(call: Call, tmp_path: Path) -> None:
    ended = call(f"init {saved(tmp_path / 'fused', 'gpt2')} --out start --rank 4 --bake-rates")
    check_refused(ended, "bake_rates=True")
    assert not Path("start").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--rank 0", "rank"),
        ("--rank 17", "r=17"),
        ("--preset olora", "'olora'"),
        ("--dtype int8", "'int8'"),
        ("--task-type SPEECH", "'SPEECH'"),
        ("--out /proc/nobody/x", "/proc/nobody/x"),
        ("--out {model}/config.json", "is a file"),
        ("--out {model}", "not empty"),
    ],
)
def test_bad_input_ends_in_one_line_and_changes_nothing(
    call: Call, model: Path, tmp_path: Path, options: str, words: str
) -> None:
    before = files(tmp_path)
    ended = call(f"init {model} --out start {options.format(model=model)}")
    check_refused(ended, words)
    assert files(tmp_path) == before
    assert not Path("start").exists()


@pytest.mark.parametrize("name", ["./nowhere", "nobody/none"])
def test_a_model_that_is_not_there_ends_in_one_line(call: Call, name: str) -> None:
    ended = call(f"init {name} --out start")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert name in ended.err
    assert not Path("start").exists()


def test_files_are_started_as_exactly_as_models() -> None:
    assert inspect.signature(init).parameters["tol"].default == AILoRAConfig().tol
