"""One process a folder, on one machine or on several that share a file system."""

from ailora.lab.lock.hold import LOCK, Hold, LockedError, held, holder
from ailora.lab.lock.owner import Owner

__all__ = ["LOCK", "Hold", "LockedError", "Owner", "held", "holder"]
