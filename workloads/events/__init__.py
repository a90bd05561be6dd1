"""Events of KV caches: what engines report about the blocks they store and remove."""

from workloads.events.files import choose, read_streams
from workloads.events.stream import CLEARED, REMOVED, STORED, Source, Stream

__all__ = ["CLEARED", "REMOVED", "STORED", "Source", "Stream", "choose", "read_streams"]
