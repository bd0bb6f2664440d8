"""Scores of several processes, brought together."""

from typing import TypeVar

import torch

Share = TypeVar("Share")


def gather_shares(share: Share) -> list[Share]:
    """What each process holds, in the order of their ranks; on every process."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return [share]
    shares = [share] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(shares, share)
    return shares
