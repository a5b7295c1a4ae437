"""One process a folder, on one machine or on several that share a file system."""

from ailora.lock.hold import LOCK, Hold, LockedError, held, holder
from ailora.lock.owner import Owner

__all__ = ["LOCK", "Hold", "LockedError", "Owner", "held", "holder"]
