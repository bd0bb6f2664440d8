"""
A policy from outside the package, whole: `python examples/custom_policy.py outputs/custom`.

Glimpse cuts frames into patches, takes their mean over the clip, and lets a small Llama read one feature per patch. It
does not hear. `aurora_trl/models/policies/base.py` says what each part must provide; registering the three classes at
the end is all that the library needs to build, train, save and load it.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoProcessor,
    GenerationMixin,
    LlamaConfig,
    LlamaModel,
    PretrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from aurora_trl import (
    AuroraConfig,
    AuroraGRPOConfig,
    AuroraGRPOTrainer,
    AuroraModel,
    AuroraProcessor,
    AuroraSFTConfig,
    AuroraSFTTrainer,
)
from aurora_trl.annotation import annotate_rows
from aurora_trl.data import load_refavs
from aurora_trl.data.schema import FEATURES
from aurora_trl.data.synthetic import SyntheticAnnotator, world_corpus, write_world
from aurora_trl.models import SamConfig
from aurora_trl.models.policies.base import place_features, text_position_ids
from aurora_trl.models.policies.causal import CausalPolicy
from aurora_trl.tiny.videollama2 import tiny_tokenizer
from aurora_trl.training.rewards import class_reward, format_reward, iou_reward


class GlimpseConfig(PretrainedConfig):
    """Sizes: the side of a patch in pixels, and a Llama."""

    model_type = "glimpse"
    sub_configs = {"text_config": LlamaConfig}

    def __init__(
        self,
        text_config: LlamaConfig | dict[str, Any] | None = None,
        patch_size: int = 8,
        video_token_id: int | None = None,
        **kwargs: Any,
    ):
        self.text_config = (
            LlamaConfig(**text_config) if isinstance(text_config, dict) else text_config or LlamaConfig()
        )
        self.patch_size = patch_size
        self.video_token_id = video_token_id
        super().__init__(**kwargs)


@dataclass
class GlimpseFeatures:
    """What the tower made of clips: `(C, N, D)`."""

    frame_embeds: torch.Tensor

    def as_inputs(self) -> dict[str, torch.Tensor]:
        return {"frame_embeds": self.frame_embeds}


class GlimpsePreTrainedModel(PreTrainedModel):
    config_class = GlimpseConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["LlamaDecoderLayer"]


class GlimpseModel(GlimpsePreTrainedModel):
    """The backbone."""

    def __init__(self, config: GlimpseConfig):
        super().__init__(config)
        width, side = config.text_config.hidden_size, config.patch_size
        self.tower = nn.Conv2d(3, width, kernel_size=side, stride=side)
        self.connector = nn.Linear(width, width)
        self.language_model = LlamaModel(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.embed_tokens

    def encode_media(self, frames: torch.Tensor) -> GlimpseFeatures:
        """Frames `(C, T, 3, S, S)` to one feature per patch."""
        patches = self.tower(frames.mean(dim=1)).flatten(2).transpose(1, 2)  # (C, N, D)
        return GlimpseFeatures(self.connector(F.gelu(patches)))

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        frames: torch.Tensor | None = None,
        frame_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        inputs_embeds = self.get_input_embeddings()(input_ids)
        if frames is not None:
            frame_embeds = self.encode_media(frames).frame_embeds
        if frame_embeds is not None:
            places = input_ids == self.config.video_token_id
            inputs_embeds = place_features(inputs_embeds, places, frame_embeds, None, "video")
        return self.language_model(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, position_ids=position_ids, **kwargs
        )


class GlimpseForConditionalGeneration(CausalPolicy, GlimpsePreTrainedModel, GenerationMixin):
    """The policy. Its head, and how media reach `generate`, are those of the library's own ones."""

    media_inputs = ("frames",)
    media_embeds = ("frame_embeds",)

    def __init__(self, config: GlimpseConfig):
        super().__init__(config)
        self.model = GlimpseModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    @property
    def media_token_ids(self) -> tuple[int, ...]:
        return (self.config.video_token_id,)

    def trainable_modules(self) -> dict[str, nn.Module]:
        return {
            "vision_tower": self.model.tower,
            "connector": self.model.connector,
            "language_model": nn.ModuleList([self.model.language_model, self.lm_head]),
        }

    def position_ids(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **media: torch.Tensor
    ) -> torch.Tensor:
        return text_position_ids(input_ids, attention_mask)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        frames: torch.Tensor | None = None,
        frame_embeds: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            frames=frames,
            frame_embeds=frame_embeds,
            **kwargs,
        )
        return self.score_tokens(outputs, labels, logits_to_keep)


class GlimpseProcessor(ProcessorMixin):
    """Text and frames; without a sampling rate no sound is read."""

    sampling_rate = None

    def __init__(
        self, tokenizer: Any = None, chat_template: str | None = None, image_size: int = 32, patch_size: int = 8
    ):
        super().__init__(tokenizer, chat_template=chat_template)
        self.image_size = image_size
        self.patch_size = patch_size

    def process_media(self, frames: np.ndarray, waveform: np.ndarray | None) -> dict[str, torch.Tensor]:
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1
        size = (self.image_size, self.image_size)
        return {"frames": F.interpolate(pixels, size, mode="bilinear", antialias=True)}

    def expand_ids(self, ids: list[int], media: Mapping[str, torch.Tensor]) -> list[int]:
        video, audio = self.tokenizer.convert_tokens_to_ids(["<video>", "<audio>"])
        counts = {video: (self.image_size // self.patch_size) ** 2, audio: 0}
        return [token for token in ids for _ in range(counts.get(token, 1))]


AutoConfig.register(GlimpseConfig.model_type, GlimpseConfig)
AutoModelForCausalLM.register(GlimpseConfig, GlimpseForConditionalGeneration)
AutoProcessor.register(GlimpseConfig, GlimpseProcessor)


def build() -> tuple[AuroraModel, AuroraProcessor]:
    """The composite model around the policy, with random weights, and its processor."""
    tokenizer = tiny_tokenizer(world_corpus())
    policy_processor = GlimpseProcessor(tokenizer, chat_template=tokenizer.chat_template)
    processor = AuroraProcessor(policy_processor, mask_image_size=32, mask_target_size=32)
    text_config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.08,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    video_token_id = tokenizer.convert_tokens_to_ids("<video>")
    mask_decoder_config = SamConfig(
        image_size=32,
        patch_size=8,
        encoder_embed_dim=64,
        encoder_depth=2,
        encoder_num_heads=4,
        encoder_global_attn_indexes=[0, 1],
        prompt_embed_dim=64,
        decoder_num_heads=4,
        decoder_mlp_dim=128,
    )
    policy_config = GlimpseConfig(text_config, video_token_id=video_token_id)
    config = AuroraConfig(policy_config, mask_decoder_config, seg_token_id=processor.seg_token_id)
    return AuroraModel(config), processor


def main(output_dir: str, steps: int = 20) -> tuple[AuroraSFTTrainer, AuroraGRPOTrainer]:
    """Draw a small world, learn to answer in it (SFT), then from rewards (GRPO)."""
    folder = Path(output_dir)
    world = write_world(folder / "world", clips=8, seed=1, image_size=48)
    rows = annotate_rows(load_refavs(world, "train"), SyntheticAnnotator(world))
    dataset = load_refavs(world, "train").from_list(list(rows), features=FEATURES)
    settings: dict[str, Any] = {
        "max_steps": steps,
        "per_device_train_batch_size": 4,
        "learning_rate": 3e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": not torch.cuda.is_available(),
        "bf16": torch.cuda.is_available(),
        "gradient_checkpointing": False,
    }
    model, processor = build()
    sft_args = AuroraSFTConfig(
        str(folder / "sft"), targets="answer", freeze_vision_tower=False, freeze_connector=False, **settings
    )
    sft = AuroraSFTTrainer(model, sft_args, train_dataset=dataset, processing_class=processor)
    sft.train()
    sft.save_model()

    model = AuroraModel.from_pretrained(folder / "sft")
    processor = AuroraProcessor.from_pretrained(folder / "sft")
    grpo_args = AuroraGRPOConfig(
        str(folder / "grpo"), num_generations=4, max_completion_length=16, temperature=1.5, **settings
    )
    rewards = [format_reward, iou_reward, class_reward]
    grpo = AuroraGRPOTrainer(model, rewards, grpo_args, dataset, processing_class=processor)
    grpo.train()
    grpo.save_model()
    return sft, grpo


if __name__ == "__main__":
    main(sys.argv[1])
