"""`ailora` under FSDP on processors, where accelerate has it but never chooses it.

With CUT_AT in the environment the process dies there: before that training step, or before "the
end" of a run that is trained but not yet scored and saved.
"""

from __future__ import annotations

import os
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from transformers import Trainer

from ailora.lab.cli.main import main
from ailora.lab.training import run

begin = AcceleratorState.__init__
step = Trainer.training_step
finish = run._finish


def begin_sharded(self: AcceleratorState, *args: Any, **kwargs: Any) -> None:
    begin(self, *args, **kwargs)
    plugin = kwargs.get("fsdp_plugin")
    if isinstance(plugin, FullyShardedDataParallelPlugin):
        self.fsdp_plugin = plugin
        for shared in (self._shared_state, PartialState._shared_state):  # made anew from the second
            shared["distributed_type"] = DistributedType.FSDP


def step_or_die(self: Trainer, *args: Any, **kwargs: Any) -> Any:
    if os.environ.get("CUT_AT") == str(self.state.global_step + 1):
        os._exit(9)
    return step(self, *args, **kwargs)


def finish_or_die(*args: Any, **kwargs: Any) -> Any:
    if os.environ.get("CUT_AT") == "the end":
        os._exit(9)
    return finish(*args, **kwargs)


if __name__ == "__main__":
    AcceleratorState.__init__ = begin_sharded
    Trainer.training_step = step_or_die
    run._finish = finish_or_die
    main()
