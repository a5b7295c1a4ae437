"""The command line, as a shell would call it."""

from tests.commands import _handlers, _one_thread, call

__all__ = ["_handlers", "_one_thread", "call"]
