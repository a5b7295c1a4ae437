"""The laboratory: methods, tasks, runs, and what they show.

Needs more packages than the library: ``pip install "ailora[lab]"``. Nothing outside this folder
imports it.
"""

from __future__ import annotations

from pathlib import Path

from ailora.pretrained import NAMED


def _encoder() -> Path:
    from ailora.lab.demo import encoder_dir  # noqa: PLC0415 - only when it is asked for

    return encoder_dir()


def _decoder() -> Path:
    from ailora.lab.demo import decoder_dir  # noqa: PLC0415

    return decoder_dir()


NAMED.update({"demo": _encoder, "demo-decoder": _decoder})
