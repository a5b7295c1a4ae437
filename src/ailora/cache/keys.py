"""What a decomposition is filed under: the weight's content and all that decides the answer."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields

import torch
from torch import Tensor

from ailora import linalg
from ailora.linalg import Check, Triplets
from ailora.linalg.triplets import Part

_FORMAT = 1  # of the entries' files


def key_of(weight: Tensor, part: Part, *, seed: int, tol: float) -> str:
    """SHA-256 of the weight's bytes, dtype and shape, and of what the solver was asked for.

    SHA-256 is the quickest strong hash of the standard library where the CPU has instructions for
    it: a 4096 x 4096 bfloat16 weight takes 22 ms (BLAKE2b: 60 ms), its decomposition about 1 s.

    The solver's version and the fields of its result count; rank, device, number of threads and
    torch's version do not. All of them give an answer that meets `tol`, and an entry made under
    one of them is what makes a start under another the same to the bit.

    Args:
        weight: (m, n), float16, bfloat16, float32 or float64, any strides, any device.
        part: which end of the spectrum.
        seed: of the start block.
        tol: target for the residual.

    Returns:
        64 lower-case hex digits.
    """
    asked = {
        "format": _FORMAT,
        "solver": linalg.SOLVER_VERSION,
        "fields": [field.name for kind in (Triplets, Check) for field in fields(kind)],
        "dtype": str(weight.dtype),
        "shape": list(weight.shape),
        "part": part,
        "seed": seed,
        "tol": float(tol),
    }
    # JSON has no NUL, so where the header ends and the weight begins is never in doubt.
    digest = hashlib.sha256(json.dumps(asked).encode() + b"\0")
    digest.update(bytes_of(weight))
    return digest.hexdigest()


def bytes_of(tensor: Tensor) -> memoryview:
    """The values row by row, without a copy if they are so in CPU memory already."""
    plain = tensor.detach().cpu().resolve_neg().contiguous()
    # A dimension of 1 may keep an odd stride, which a view as bytes refuses.
    return plain.as_strided((plain.numel(),), (1,)).view(torch.uint8).numpy().data
