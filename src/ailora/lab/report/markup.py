"""Pages from templates, with pictures in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ailora.lab.experiments.wording import counted, number_words


def filled(template: str, content: Mapping[str, Any]) -> str:
    """A page: a template of ``templates/``, in which every text is escaped that is no markup."""
    env = Environment(
        loader=PackageLoader("ailora.lab.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.globals |= {"counted": counted, "number_words": number_words}
    return env.get_template(template).render(content)


def inline(svg: str) -> Markup:
    """A picture as part of a page: without the prologue of a file of its own."""
    return Markup(svg[svg.index("<svg") :])  # noqa: S704 - matplotlib escapes the texts in it
