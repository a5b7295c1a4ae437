"""Which stored tensor `from_pretrained` takes for which parameter, by transformers' own rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from ailora.versions import misfit

# A tensor's name in the file -> the parameter's, and whether its values are computed from it.
Rule = Callable[[str], tuple[str, bool]]


def stored_names(model: Any, names: Iterable[str]) -> tuple[dict[str, str], frozenset[str]]:
    """The stored tensor of each parameter, by name.

    Args:
        model: A model of transformers; on the meta device will do.
        names: Names of the tensors in its checkpoint.

    Returns:
        Name of the stored tensor by the parameter's, for those that are stored as they are, and the
        parameters that transformers computes from what is stored.

    Raises:
        UserError: transformers has no rules where this library looks for them.
    """
    rule = _rule_of_5(model) or _rule_of_4(model)
    if rule is None:
        raise misfit("transformers", "its rules for the names of stored tensors are not there")
    state = model.state_dict()
    stored, converted = {}, set()
    for name in names:
        target, computed = rule(name)
        if target not in state and name in state:
            target, computed = name, False
        if computed:
            converted.add(target)
        else:
            stored[target] = name
    return stored, frozenset(converted)


def _rule_of_5(model: Any) -> Rule | None:
    """From 5.0 on: renamings and converters; None where there are no such modules."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping  # noqa: PLC0415
        from transformers.core_model_loading import (  # noqa: PLC0415
            WeightConverter,
            WeightRenaming,
            rename_source_key,
        )
    except ImportError:
        return None
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    prefix, state = model.base_model_prefix, model.state_dict()

    def rule(name: str) -> tuple[str, bool]:
        try:
            target, converter = rename_source_key(name, renamings, converters, prefix, state)
        except TypeError as error:
            raise misfit("transformers", f"rename_source_key is another ({error})") from error
        return target, converter is not None

    return rule


def _rule_of_4(model: Any) -> Rule | None:
    """4.57: the first of the class's own patterns that fits; no value is computed."""
    fixed = getattr(model, "_fix_state_dict_key_on_load", None)
    if fixed is None:
        return None
    patterns = getattr(model, "_checkpoint_conversion_mapping", None) or {}
    prefix, state = f"{model.base_model_prefix}.", model.state_dict()

    def rule(name: str) -> tuple[str, bool]:
        target, _ = fixed(name)
        for pattern, replacement in patterns.items():
            target, count = re.subn(pattern, replacement, target)
            if count:
                break
        if target.removeprefix(prefix) in state:
            target = target.removeprefix(prefix)
        elif prefix + target in state:
            target = prefix + target
        return target, False

    return rule
