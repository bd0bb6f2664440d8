"""Print how many bytes SAM's features of some clips take at the highest: `sam_peak.py CLIPS SIDE [upstream]`."""

import sys
from pathlib import Path

import torch
from segment_anything.modeling.image_encoder import Attention

from aurora_trl.models.configuration_aurora import SamConfig
from aurora_trl.models.mask_decoders import build_mask_decoder


def highest() -> int:
    """Bytes of memory that this process had at the highest."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main(clips: int, side: int, upstream: bool) -> None:
    """ViT-B's width, in a windowed block and a global one."""
    config = SamConfig(
        image_size=side,
        encoder_embed_dim=768,
        encoder_depth=2,
        encoder_num_heads=12,
        encoder_global_attn_indexes=[1],
    )
    decoder = build_mask_decoder(config)
    frames = torch.zeros(clips, 2, 3, side, side)
    decoder.frames_at_once = 2 * side**2 / 1024**2
    if upstream:
        decoder.frames_at_once *= clips
        for module in decoder.image_encoder.modules():
            if isinstance(module, Attention):
                module.__class__ = Attention
    before = highest()
    with torch.no_grad():
        decoder.encode_clips(frames)
    print(highest() - before)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), "upstream" in sys.argv[3:])
