"""Models that annotate, each behind one call: parts in, text out."""

from .base import Client, Rejected, Reply, Transient, Unusable, Usage

__all__ = ["Client", "Rejected", "Reply", "Transient", "Unusable", "Usage"]
