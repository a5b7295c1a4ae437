"""A PEFT or transformers that lacks what is used of it: one sentence, when it is needed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from packaging.version import Version

from ailora.versions import TESTED
from tests.other_process import call_elsewhere

ONE_LINE = r"^ailora \S+ does not fit {package} \S+: [^\n]*{what}[^\n]*; install {package} [^\n]*$"

# What a later release could do: remove a method, rename a parameter, move a function, add to calls.
FUTURES = {
    "peft without the method that is stepped into": (
        "from peft.tuners import lora, tuners_utils\n"
        "del tuners_utils.BaseTuner.inject_adapter\n"
        "if 'inject_adapter' in vars(lora.LoraModel): del lora.LoraModel.inject_adapter",
        "peft",
        "LoraModel.inject_adapter is not there",
    ),
    "peft with another parameter": (
        "from peft.tuners import tuners_utils\n"
        "def inject_adapter(self, model, adapter_name, mode): pass\n"
        "tuners_utils.BaseTuner.inject_adapter = inject_adapter\n",
        "peft",
        "LoraModel.inject_adapter takes no 'low_cpu_mem_usage'",
    ),
    "peft without a module": (
        "sys.modules['peft.tuners.mixed'] = types.ModuleType('peft.tuners.mixed')",
        "peft",
        "MixedModel",
    ),
    "transformers without a function": (
        "import transformers.trainer_pt_utils as utils\ndel utils.get_parameter_names",
        "transformers",
        "get_parameter_names",
    ),
}


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return call_elsewhere(f"import sys, types\n{code}", *arguments)


@pytest.mark.parametrize("future", FUTURES)
def test_what_a_later_version_lacks_is_said_in_one_sentence(future: str) -> None:
    change, package, what = FUTURES[future]
    done = run(
        "import ailora; from ailora.errors import UserError\n"
        f"{change}\n"
        "try:\n"
        "    ailora.AILoRAConfig(r=2)\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    assert done.returncode == 0, done.stderr
    assert re.match(ONE_LINE.format(package=package, what=re.escape(what)), done.stdout.strip())


@pytest.mark.parametrize("future", ["peft without a module", "transformers without a function"])
def test_the_command_line_says_it_too_and_ends_with_2(future: str, tmp_path: Path) -> None:
    change, package, what = FUTURES[future]
    done = run(
        f"{change}\nfrom ailora.cli.main import main\n"
        "sys.argv = ['ailora', 'init', sys.argv[1], '--out', sys.argv[2]]\nmain()",
        str(tmp_path),
        str(tmp_path / "out"),
    )
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    said = line.removeprefix("ailora: ")
    assert re.match(ONE_LINE.format(package=package, what=re.escape(what)), said)


def test_decompositions_need_no_peft() -> None:
    done = run(
        "sys.modules['peft'] = None\n"
        "import ailora, torch\nprint(ailora.decompose(torch.eye(4), 2, 'principal').S.tolist())"
    )
    assert done.stdout.strip() == "[1.0, 1.0]", done.stderr


LATER_CALLS = """
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraModel
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer


def widen(owner, name):
    original = getattr(owner, name)

    def method(self, *args, next_years=None, **kwargs):
        return original(self, *args, **kwargs)

    method.__signature__ = signature(original, method)
    setattr(owner, name, method)


def signature(original, method):
    import inspect
    found = inspect.signature(original)
    extra = inspect.Parameter("next_years", inspect.Parameter.KEYWORD_ONLY, default=None)
    kinds = [p for p in found.parameters.values() if p.kind is not p.VAR_KEYWORD]
    rest = [p for p in found.parameters.values() if p.kind is p.VAR_KEYWORD]
    return found.replace(parameters=[*kinds, extra, *rest])


for owner, name in (
    (LoraModel, "inject_adapter"), (LoraModel, "_cast_adapter_dtype"),
    (LoraModel, "_unload_and_optionally_merge"), (LoraModel, "delete_adapter"),
    (LoraModel, "disable_adapter_layers"), (LoraModel, "add_weighted_adapter"),
    (BaseTunerLayer, "enable_adapters"), (PeftModel, "create_or_update_model_card"),
):
    widen(owner, name)
import ailora, torch
from tests.adapters.models import tiny, batch, logits
base = tiny()
model = get_peft_model(tiny(), ailora.AILoRAConfig(r=2))
assert torch.equal(logits(model, batch(model)), logits(base, batch(base)))
tuner = model.base_model
tuner.disable_adapter_layers(next_years=1)
layer = next(m for m in model.modules() if isinstance(m, BaseTunerLayer))
layer.enable_adapters(True, next_years=1)
tuner.enable_adapter_layers()
tuner.add_weighted_adapter(["default"], [0.5], "other", combination_type="svd", next_years=1)
tuner.delete_adapter("other", next_years=1)
model.create_or_update_model_card(sys.argv[1], next_years=1)
tuner._cast_adapter_dtype("default", next_years=1)
tuner._unload_and_optionally_merge(merge=True, next_years=1)
print("fits")
"""


def test_a_parameter_that_a_later_peft_adds_goes_through(tmp_path: Path) -> None:
    done = run(LATER_CALLS, str(tmp_path))
    assert done.stdout.strip().endswith("fits"), done.stderr


def test_the_oldest_versions_are_the_declared_ones_and_nothing_is_capped() -> None:
    whole = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    declared = whole.partition("[project.optional-dependencies]")[0]
    for package, (oldest, newest) in TESTED.items():
        (bound,) = re.findall(rf'^    "{package}([^"]*)",$', declared, re.MULTILINE)
        assert bound.startswith(">=") and "," not in bound
        assert oldest in (bound[2:], f"{bound[2:]}.{oldest.rpartition('.')[2]}")
        assert Version(oldest) < Version(newest)
