"""Templates with everything escaped, and figures as parts of a page."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def render(template: str, content: dict[str, Any]) -> str:
    """Fill a template of this package; every text is escaped, an unknown name is an error."""
    env = Environment(
        loader=PackageLoader("ailora.lab.report.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return env.get_template(template).render(content)


def inline(svg: str) -> Markup:
    """An SVG file's content as an element of a page; matplotlib escapes the texts in it."""
    return Markup(svg[svg.index("<svg") :])  # noqa: S704
