"""The tiny Qwen policies in the published layout."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from aurora_trl.models import AuroraModel
from aurora_trl.models.processing_aurora import AuroraProcessor

IMAGE_FILE = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 8,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
}
SOUND_FILE = {"chunk_length": 300, "feature_size": 32, "hop_length": 640, "n_fft": 800, "sampling_rate": 16000}
SOUND_FILE |= {"feature_extractor_type": "WhisperFeatureExtractor", "return_attention_mask": True}


def published_text_config(config, rope_type: str) -> dict:
    """Rotary positions under the names that the files have."""
    fields = {k: v for k, v in config.to_dict().items() if k not in ("model_type", "rope_parameters", "layer_types")}
    rope = config.rope_parameters
    scaling = {"type": rope_type, "mrope_section": rope["mrope_section"]}
    return {**fields, "rope_theta": rope["rope_theta"], "rope_scaling": scaling}


def write_published(checkpoint: Path, folder: Path, sound: bool) -> AuroraModel:
    """The tiny policy's weights under the published names, with the files that lie beside them."""
    model, processor = AuroraModel.from_pretrained(checkpoint), AuroraProcessor.from_pretrained(checkpoint)
    policy, tokenizer = model.policy.eval(), processor.tokenizer
    template, tokenizer.chat_template = tokenizer.chat_template, None
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    (folder / "preprocessor_config.json").write_text(json.dumps(IMAGE_FILE | (SOUND_FILE if sound else {})))
    config = policy.config.to_dict()
    text = published_text_config(policy.config.text_config, "default" if sound else "mrope")
    if sound:
        thinker = {
            **config,
            "model_type": "qwen2_5_omni_thinker",
            "text_config": {**text, "model_type": "qwen2_5_omni_text"},
        }
        config = {"model_type": "qwen2_5_omni", "thinker_config": thinker}
    else:
        config = {**config, **text, "model_type": "qwen2_5_vl"}
        del config["text_config"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"repetition_penalty": 1.05, "eos_token_id": 2}))
    weights = {}
    for name, value in policy.state_dict().items():
        name = name.replace("model.language_model.", "model.")
        name = name.removeprefix("model.") if name.startswith(("model.visual.", "model.audio_tower.")) else name
        weights[f"thinker.{name}" if sound else name] = value
    if sound:
        weights |= {"talker.codec_head.weight": torch.zeros(2), "token2wav.code2wav_dit_model.x": torch.zeros(2)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return model
