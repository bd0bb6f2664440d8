"""
A mask decoder from outside the package, whole: `python examples/custom_mask_decoder.py outputs/custom_decoder`.

Dot cuts frames into patches and gives each patch a feature. A pixel belongs to the object where its feature looks like
the prompt that comes from `[SEG]`. `aurora_trl/models/mask_decoders/base.py` says what a decoder must provide;
registering it is all that the library needs to build, train, save and load a model with it.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, PretrainedConfig

from aurora_trl import AuroraConfig, AuroraModel, AuroraProcessor, AuroraSFTConfig, AuroraSFTTrainer
from aurora_trl.data import load_refavs
from aurora_trl.data.synthetic import write_world
from aurora_trl.models.mask_decoders import MaskDecoderBase, register_mask_decoder
from aurora_trl.tiny.videollama2 import create_tiny_checkpoint


class DotConfig(PretrainedConfig):
    """Sizes: the side of the input in pixels, and the width of a feature."""

    model_type = "dot_decoder"
    keep_aspect_ratio = False  # frames are stretched to a square

    def __init__(self, image_size: int = 32, width: int = 32, **kwargs: Any):
        self.image_size, self.width = image_size, width
        self.pixel_mean, self.pixel_std = [127.5] * 3, [127.5] * 3
        super().__init__(**kwargs)


class DotDecoder(MaskDecoderBase):
    """Features of a small convolution, compared with the prompt."""

    def __init__(self, config: DotConfig):
        super().__init__(config)
        self.image_encoder = nn.Sequential(
            nn.Conv2d(3, config.width, kernel_size=4, stride=4),
            nn.GELU(),
            nn.Conv2d(config.width, config.width, kernel_size=3, padding=1),
        )
        self.features = nn.Conv2d(config.width, config.width, kernel_size=1)

    @property
    def prompt_dim(self) -> int:
        return self.config.width

    def trainable_modules(self) -> dict[str, nn.Module]:
        return {"mask_encoder": self.image_encoder, "mask_decoder": self.features}

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames `(N, 3, S, S)` to `(N, E, S / 4, S / 4)`."""
        return self.image_encoder(frames)

    def decode(self, embeddings: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        """Features `(N, E, h, w)` and prompts `(N, P, E)` to mask logits `(N, 4h, 4w)`."""
        logits = torch.einsum("nehw,ne->nhw", self.features(embeddings), prompts.mean(dim=1))
        return F.interpolate(logits[:, None], scale_factor=4, mode="bilinear")[:, 0]


AutoConfig.register(DotConfig.model_type, DotConfig)
register_mask_decoder(DotConfig, DotDecoder)


def build(policy: str | Path) -> tuple[AuroraModel, AuroraProcessor]:
    """A model around the policy of a checkpoint, with new weights, and its processor."""
    known = AuroraConfig.from_pretrained(policy)
    config = AuroraConfig(known.policy_config, DotConfig(), seg_token_id=known.seg_token_id)
    decoder = config.mask_decoder_config
    processor = AuroraProcessor(
        AuroraProcessor.from_pretrained(policy).policy_processor,
        mask_image_size=decoder.image_size,
        mask_target_size=decoder.image_size,
        pixel_mean=decoder.pixel_mean,
        pixel_std=decoder.pixel_std,
        keep_aspect_ratio=decoder.keep_aspect_ratio,
    )
    return AuroraModel(config), processor


def main(output_dir: str, steps: int = 40) -> AuroraSFTTrainer:
    """Draw a small world and learn to segment in it, from random weights."""
    folder = Path(output_dir)
    world = write_world(folder / "world", clips=8, seed=1, image_size=48)
    policy = create_tiny_checkpoint(folder / "policy", image_size=32, hidden_size=64, num_layers=2)
    model, processor = build(policy)
    args = AuroraSFTConfig(
        str(folder / "model"),
        targets="answer",
        freeze_mask_encoder=False,
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=3e-3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        bf16=torch.cuda.is_available(),
    )
    trainer = AuroraSFTTrainer(model, args, train_dataset=load_refavs(world, "train"), processing_class=processor)
    trainer.train()
    trainer.save_model()
    return trainer


if __name__ == "__main__":
    main(sys.argv[1])
