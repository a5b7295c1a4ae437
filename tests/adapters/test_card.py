"""The card of an adapter: what it is, in the folder and on the hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import CommitOperationAdd, ModelCard, RepoUrl
from huggingface_hub.errors import EntryNotFoundError
from peft import LoraConfig, get_peft_model
from transformers.utils import hub

import ailora
from ailora import AILoRAConfig, Role, presets
from tests.adapters.models import tiny, trained

HEADING = "## How this adapter started"


class Hub:
    """As much of ``HfApi`` as a push needs; keeps the files."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def create_repo(self, repo_id: str, **_: Any) -> RepoUrl:
        return RepoUrl(f"https://huggingface.co/{repo_id}")

    def create_commit(self, operations: list[CommitOperationAdd], **_: Any) -> None:
        for operation in operations:
            with operation.as_file() as file:
                self.files[operation.path_in_repo] = file.read()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Hub:
    def absent(*_: Any, **__: Any) -> ModelCard:
        raise EntryNotFoundError("no card there")

    fake = Hub()
    if hasattr(hub, "hf_api"):
        monkeypatch.setattr(hub, "hf_api", lambda: fake)
    else:  # transformers before 5.10
        for name in ("create_repo", "create_commit"):
            monkeypatch.setattr(hub, name, getattr(fake, name))
    monkeypatch.setattr(huggingface_hub.ModelCard, "load", _only_files(ModelCard.load, absent))
    return fake


def _only_files(load: Any, absent: Any) -> Any:
    return lambda name, **more: load(name) if Path(name).exists() else absent(name, **more)


def test_what_is_pushed_says_what_it_is_and_loads_again(fake: Hub, tmp_path: Path) -> None:
    model = trained()
    model.get_base_model().config._name_or_path = "someone/base"
    model.push_to_hub("someone/adapter")
    for name, content in fake.files.items():
        (tmp_path / name).write_bytes(content)
    card = ModelCard(fake.files["README.md"].decode())
    assert card.data.library_name == "peft" and card.data.base_model == "someone/base"
    assert card.text.count(HEADING) == 1
    assert "plain LoRA of the untouched base model" in card.text
    assert "would train its frozen half as well" in card.text
    assert "keep it and load it first" in card.text
    assert "roles={'q': Role(init='principal', r=3" in card.text
    assert "lora_alpha=5" in card.text
    ailora.load_adapter(tiny(), tmp_path, is_trainable=True)


def test_the_card_of_a_folded_adapter_warns_of_the_original_base(fake: Hub) -> None:
    trained(anchored=False).push_to_hub("someone/adapter")
    assert "wrong on the original base model" in fake.files["README.md"].decode()


def test_cards_of_other_adapters_are_left_alone(fake: Hub, tmp_path: Path) -> None:
    trained()  # the negative control: this one says it
    stock = get_peft_model(tiny(), LoraConfig(target_modules=["query"]))
    stock.push_to_hub("someone/adapter")
    stock.save_pretrained(tmp_path)
    for text in (fake.files["README.md"].decode(), (tmp_path / "README.md").read_text()):
        assert "ailora" not in text


def test_a_card_that_a_trainer_writes_anew_says_so_again(tmp_path: Path) -> None:
    model = trained()
    model.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("# by a trainer\n")
    model.create_or_update_model_card(str(tmp_path))
    text = (tmp_path / "README.md").read_text()
    assert "# by a trainer" in text and text.count(HEADING) == 1


def test_one_card_for_two_adapters_names_both_starts(tmp_path: Path) -> None:
    model = ailora.get_peft_model(tiny(), presets.pissa(2))
    ailora.get_peft_model(model, presets.milora(3), "second")
    model.save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text.count(HEADING) == 1
    assert "AILoRAConfig(r=2, " in text and "AILoRAConfig(r=3, " in text
    second = (tmp_path / "second" / "README.md").read_text()
    assert second.count(HEADING) == 1 and "AILoRAConfig(r=3, " in second


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"bake_rates": True}, ""),  # one scale in the files
        ({"bake_rates": True, "anchored": False}, "different scales"),
        ({"anchored": False}, ""),
        ({"roles": {"q": Role(init="minor"), "v": Role(init="minor", r=3)}}, "different ranks"),
    ],
)
def test_what_differs_between_modules_is_said_with_what_to_do(
    fields: dict[str, Any], said: str, tmp_path: Path
) -> None:
    config = AILoRAConfig(**{"r": 2, **fields})
    ailora.get_peft_model(tiny(), config).save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert ("modules have different" in text) is bool(said)
    assert said in text
    assert ("`ailora export` writes one" in text) is bool(said)


def test_target_modules_are_saved_in_one_order_and_stay_sets_in_use(tmp_path: Path) -> None:
    model = ailora.get_peft_model(tiny(), presets.ailora(2, layers_to_transform=[0, 1]))
    names = {"value", "query", "b", "a", "c"}
    model.peft_config["default"].target_modules = set(names)
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    assert saved == sorted(names)
    assert model.peft_config["default"].target_modules == names


@pytest.mark.slow
def test_processes_with_other_hash_seeds_write_the_same_bytes(tmp_path: Path) -> None:
    program = (
        "import sys, ailora; from ailora import presets; from tests.adapters.models import tiny; "
        "c = presets.pissa(2, target_modules=['query', 'value', 'key', 'output.dense']); "
        "ailora.get_peft_model(tiny(), c).save_pretrained(sys.argv[1])"
    )
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / seed)],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
    for name in ("adapter_config.json", "ailora.json", "README.md"):
        one, two = ((tmp_path / seed / name).read_bytes() for seed in ("1", "2"))
        assert one == two, name
