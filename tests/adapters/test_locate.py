"""Where `ailora.load_adapter` finds an adapter: below a folder, or in the hub's own cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel

import ailora
from ailora import AILoRAConfig
from ailora.adapters.folder import read_adapter
from ailora.errors import UserError
from tests.adapters.models import batch, logits, tiny, train, trained
from tests.hub import cached, use_cache

COMMIT, OLDER = "1" * 40, "2" * 40


def named(*names: str) -> PeftModel:
    """A model with adapters of these names, each trained a little."""
    model: PeftModel | None = None
    for rank, name in enumerate(names, start=2):
        model = ailora.get_peft_model(model or tiny(), AILoRAConfig(r=rank), name)
        model.set_adapter(name)
        train(model, batch(model), 2)
    assert model is not None
    return model


def of(model: PeftModel, name: str) -> torch.Tensor:
    model.set_adapter(name)
    return logits(model, batch(model))


def test_the_folder_above_a_named_adapter_serves(tmp_path: Path) -> None:
    model = named("first")
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()
    for again in (
        ailora.load_adapter(tiny(), tmp_path, is_trainable=True),
        ailora.load_adapter(tiny(), str(tmp_path), "first"),
        ailora.load_adapter(tiny(), tmp_path, subfolder="first"),
    ):
        assert torch.equal(logits(again, batch(again)), of(model, "first"))


def test_of_several_the_one_of_the_name_is_loaded(tmp_path: Path) -> None:
    model = named("first", "second")
    model.save_pretrained(tmp_path)
    again = ailora.load_adapter(tiny(), tmp_path, "second")
    ailora.load_adapter(again, tmp_path, "first")
    for name in ("first", "second"):
        assert torch.equal(of(again, name), of(model, name))
    with pytest.raises(UserError, match="first, second lie in folders below it; say which") as e:
        ailora.load_adapter(tiny(), tmp_path)
    assert "subfolder='first'" in str(e.value)
    with pytest.raises(UserError, match="first, second lie in folders below it; give 'first'"):
        read_adapter(tmp_path)
    assert read_adapter(tmp_path / "first").base == ""
    other = ailora.load_adapter(tiny(), tmp_path, "default", subfolder="second")
    assert torch.equal(of(other, "default"), of(model, "second"))


def test_a_folder_that_holds_default_means_default(tmp_path: Path) -> None:
    model = named("default", "second")
    model.save_pretrained(tmp_path)
    again = ailora.load_adapter(tiny(), tmp_path)
    ailora.load_adapter(again, tmp_path, "second", subfolder="second")
    for name in ("default", "second"):
        assert torch.equal(of(again, name), of(model, name))


@pytest.mark.parametrize("anchored", [True, False])
def test_a_name_on_the_hub_comes_from_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anchored: bool
) -> None:
    use_cache(monkeypatch, tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    new, old = trained(anchored=anchored), trained(anchored=anchored, layers_to_transform=[1])
    for model, commit in ((new, COMMIT), (old, OLDER)):
        model.save_pretrained(tmp_path / commit)
    cached(tmp_path / "cache", "owner/adapter", COMMIT, tmp_path / COMMIT, refs=["main"])
    cached(tmp_path / "cache", "owner/adapter", OLDER, tmp_path / OLDER, refs=["v1"])
    for options, model in (
        ({}, new),
        ({"revision": "main"}, new),
        ({"revision": "v1"}, old),
        ({"revision": OLDER}, old),
    ):
        again = ailora.load_adapter(tiny(), "owner/adapter", is_trainable=True, **options)
        assert torch.equal(logits(again, batch(again)), logits(model, batch(model)))
    # A folder of that name goes before the hub, as in PEFT.
    (tmp_path / "owner").mkdir()
    old.save_pretrained(tmp_path / "owner" / "adapter")
    again = ailora.load_adapter(tiny(), "owner/adapter")
    assert torch.equal(logits(again, batch(again)), logits(old, batch(old)))


def test_folders_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_cache(monkeypatch, tmp_path / "cache")
    model = named("first", "second")
    model.save_pretrained(tmp_path / "saved")
    cached(tmp_path / "cache", "owner/many", COMMIT, tmp_path / "saved", refs=["main"])
    again = ailora.load_adapter(tiny(), "owner/many", subfolder="second")
    assert torch.equal(of(again, "default"), of(model, "second"))
    again = ailora.load_adapter(tiny(), "owner/many", "first")
    assert torch.equal(of(again, "first"), of(model, "first"))
    deep = shutil.copytree(tmp_path / "saved", tmp_path / "deep" / "run")
    cached(tmp_path / "cache", "owner/deep", COMMIT, deep.parent, refs=["main"])
    again = ailora.load_adapter(tiny(), "owner/deep", subfolder="run/second")
    assert torch.equal(of(again, "default"), of(model, "second"))
    with pytest.raises(UserError, match="subfolder='run/first'"):
        ailora.load_adapter(tiny(), "owner/deep", subfolder="run")


def test_another_process_finds_it_offline(tmp_path: Path) -> None:
    model = trained()
    model.save_pretrained(tmp_path / "saved")
    cached(tmp_path / "cache", "owner/adapter", COMMIT, tmp_path / "saved", refs=["main"])
    code = (
        "import torch, ailora\nfrom tests.adapters.models import batch, logits, tiny\n"
        "torch.set_num_threads(1)\n"
        "model = ailora.load_adapter(tiny(), 'owner/adapter', is_trainable=True)\n"
        "torch.save(logits(model, batch(model)), 'logits.pt')\n"
    )
    root = Path(__file__).parents[2]
    environment = {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": f"{root / 'src'}:{root}",
    }
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=tmp_path, env={**os.environ, **environment}
    )
    got = torch.load(tmp_path / "logits.pt", weights_only=True)
    assert torch.equal(got, logits(model, batch(model)))


def test_what_is_not_there_is_one_line_and_the_model_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_cache(monkeypatch, tmp_path / "cache")
    trained().save_pretrained(tmp_path / "saved")
    cached(tmp_path / "cache", "owner/adapter", COMMIT, tmp_path / "saved", refs=["main"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "adapter_config.json").write_text(
        (tmp_path / "saved" / "adapter_config.json").read_text()
    )
    cached(tmp_path / "cache", "owner/pickled", COMMIT, tmp_path / "empty", refs=["main"])
    for name, options, words in (
        ("owner/absent", {}, "'owner/absent': no such folder, and not from the hub"),
        ("owner/adapter", {"revision": "v9"}, "'owner/adapter', revision='v9': no such folder"),
        ("owner/adapter", {"subfolder": "x"}, "x: no adapter_config.json there"),
        ("owner/pickled", {}, "has no adapter_model.safetensors; if it has adapter_model.bin"),
        ("./owner/adapter", {}, "there is no such folder"),
        ("./adapter", {}, "there is no such folder"),
        (tmp_path / "saved", {"revision": "v1"}, "is a folder; leave it out"),
        (tmp_path / "saved", {"subfolder": "x"}, "x: no adapter_config.json there"),
    ):
        model = tiny()
        modules = [id(module) for module in model.modules()]
        with pytest.raises(UserError) as caught:
            ailora.load_adapter(model, name, **options)
        assert words in str(caught.value) and "\n" not in str(caught.value)
        assert [id(module) for module in model.modules()] == modules
