"""What the paper says of trainable parameters: Tables 4 and 5, both of RoBERTa-large."""

from __future__ import annotations

from collections.abc import Mapping

from ailora.roles import RoleName

MODEL = "roberta-large"

# Table 4, in millions. The paper does not say so, but full fine-tuning, Adapter, BitFit and VeRA
# come out with the classifier (1.05M) counted, DoRA, rsLoRA and AILoRA without it.
TABLE_4: Mapping[str, float] = {
    "full": 355.36,
    "houlsby": 7.40,
    "bitfit": 1.32,
    "dora": 0.84,
    "rslora": 0.79,
    "vera": 1.11,
    "ailora": 0.79,
}

# Table 5: ranks by role within one budget, 0.79M.
TABLE_5: Mapping[str, Mapping[RoleName, int]] = {
    "q 8, v 8": {"q": 8, "v": 8},
    "q 16": {"q": 16},
    "k 16": {"k": 16},
    "v 16": {"v": 16},
    "o 16": {"o": 16},
    "q 8, k 8": {"q": 8, "k": 8},
    "k 8, v 8": {"k": 8, "v": 8},
    "q 4, k 4, v 4, o 4": {"q": 4, "k": 4, "v": 4, "o": 4},
}
TABLE_5_MILLIONS = 0.79
