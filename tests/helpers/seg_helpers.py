"""A model with all that strengthens `[SEG]`, none of it without effect."""

from pathlib import Path

import torch

from aurora_trl import AuroraModel

PARTS = {"seg_layers": 2, "spatial_prompt": True, "existence_output": True}


def strong_model(checkpoint: Path) -> AuroraModel:
    """The checkpoint's model with all parts, at random values: its masks are others."""
    model = AuroraModel.from_pretrained(checkpoint)
    model.add_seg_parts(**PARTS)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in (model.seg_layer_mix.gates, model.seg_spatial.mark, model.seg_existence.weight):
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return model
