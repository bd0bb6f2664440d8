"""The dry run's memory, held against what is counted by hand and in backward passes."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from peft import get_peft_model
from transformers import Sam2Config, Sam2VideoConfig, Sam3Config, Sam3TrackerConfig

from aurora_trl.chain.memory_estimate import TrainingSetup, estimate_memory
from aurora_trl.chain.published_sizes import published_config, video_llama2_tokens
from aurora_trl.chain.rollout_estimate import RolloutSetup
from aurora_trl.models import (
    AuroraConfig,
    ClipMemory,
    ConceptPrompts,
    Sam2MaskConfig,
    Sam2VideoMaskConfig,
    Sam3ConceptConfig,
    Sam3MaskConfig,
)
from aurora_trl.models.mask_decoders import build_mask_decoder
from aurora_trl.training.arguments import LoraArguments
from aurora_trl.training.lora import lora_config

GROUPS = {"language_model", "seg_projector", "mask_decoder"}
SETUP = TrainingSetup(
    groups=GROUPS,
    lora=LoraArguments(use_lora=True),
    zero_stage=2,
    num_processes=2,
    offload_optimizer=False,
    batch_size=2,
    tokens=100,
    num_frames=10,
    num_generations=1,
    gradient_checkpointing=True,
    bf16=True,
    teacher=False,
)


def estimate(config, **changes):
    return estimate_memory(config, dataclasses.replace(SETUP, **changes))


def test_what_trains_is_what_the_trainer_trains(model):
    """Counted on the meta device and on the model itself."""
    memory = estimate(model.config)
    model.set_trainable(GROUPS)
    total = model.num_parameters()
    adapted = get_peft_model(model, lora_config(model, LoraArguments(use_lora=True), GROUPS))
    trained, everything = adapted.get_nb_trainable_parameters()
    assert sum(memory.trainable.values()) == trained
    assert memory.weights == 2 * everything
    text = model.config.get_text_config()
    layers, hidden, keys = text.num_hidden_layers, text.hidden_size, 2 * text.hidden_size // 4
    adapter = layers * 8 * (hidden + hidden + hidden + keys)  # A and B of the queries, of the values
    assert memory.trainable["language_model"] == adapter + 2 * text.vocab_size * hidden
    assert sum(memory.parameters.values()) < total  # what is never run belongs to no group


def test_zero_stages_by_hand(model):
    """Bytes per trained parameter: 2 gradient, 4 + 4 + 4 optimizer; each stage shares out one thing more."""
    config = model.config
    trained = sum(estimate(config).trainable.values())
    whole = estimate(config, zero_stage=0)
    assert (whole.gradients, whole.optimizer) == (2 * trained, 12 * trained)
    for stage, gradients, optimizer, weights in ((1, 1, 2, 1), (2, 2, 2, 1), (3, 2, 2, 2)):
        memory = estimate(config, zero_stage=stage)
        assert memory.gradients == 2 * trained // gradients
        assert memory.optimizer == 12 * trained // optimizer
        assert memory.weights == whole.weights // weights
    offloaded = estimate(config, offload_optimizer=True)
    assert (offloaded.optimizer, offloaded.host) == (0, 6 * trained)
    # Without DeepSpeed everything has the weights' own type, and nothing is shared out.
    config.dtype = torch.float32
    plain = estimate(config, zero_stage=None)
    assert (plain.gradients, plain.optimizer) == (4 * trained, 8 * trained)


def test_a_rollout_under_zero3_holds_all_weights():
    """TRL gathers the model on every process to generate; supervised training does not."""
    config = published_config("DAMO-NLP-SG/VideoLLaMA2.1-7B-AV", "sam_vit_h_4b8939.pth", 224)
    rollout = RolloutSetup(
        completions=4,
        num_generations=4,
        prompt_tokens=70,
        media_tokens=50,
        new_tokens=30,
        num_frames=10,
        max_objects=1,
        prefill_tokens=8192,
        mask_frames_at_once=10,
        mask_target_size=224,
        width=2,
    )
    grpo = {"num_generations": 4, "batch_size": 4, "num_processes": 8, "rollout": rollout}
    whole = estimate(config, **grpo).weights
    parts = estimate(config, zero_stage=3, **grpo)
    assert parts.weights == whole // 8
    assert whole < parts.weights + parts.activations < 1.2 * whole
    sft = {**grpo, "num_generations": 1, "rollout": None}
    assert estimate(config, zero_stage=3, **sft).activations == estimate(config, **sft).activations


def test_loading_under_zero3_by_hand(model):
    """A part of everything, the copies of what trains whole, and the largest weight of all."""
    copies = sum(estimate(model.config).trainable.values())
    largest = max(parameter.numel() for parameter in model.parameters())
    memory = estimate(model.config, zero_stage=3, num_processes=4)
    assert memory.loading == pytest.approx(memory.weights + 2 * (copies * 3 / 4 + largest), abs=8)
    assert memory.loading < memory.total
    assert estimate(model.config).loading == 0  # in the host's memory


def test_activations_grow_with_what_they_depend_on(model):
    base = estimate(model.config).activations
    assert base < estimate(model.config, gradient_checkpointing=False).activations
    assert base < estimate(model.config, batch_size=4).activations
    assert base < estimate(model.config, tokens=200).activations
    assert base < estimate(model.config, max_objects=2).activations
    assert base < estimate(model.config, groups=GROUPS | {"mask_encoder"}).activations
    assert estimate(model.config, teacher=True).weights > estimate(model.config).weights


def held_for_backward(module: torch.nn.Module, run: Callable[[], object]) -> int:
    """Bytes that autograd keeps of what `run` computes, beside the module's weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}  # kept, so that none takes the place of another

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("memory", [None, {}, {"memory_gradients": True}], ids=["frames", "memory", "gradients"])
def test_what_sam2_holds_for_its_backward(memory, model):
    """Counted where autograd keeps it: published widths of the decoder, at a quarter of the size."""
    sizes = {
        "vision_config": {"backbone_feature_sizes": [[64, 64], [32, 32], [16, 16]]},
        "prompt_encoder_config": {"image_size": 256},
    }
    if memory is None:
        decoder_config = Sam2MaskConfig(Sam2Config(**sizes))
    else:
        grid = {"memory_attention_rope_feat_sizes": [16, 16], "image_size": 256}
        dropout = {"memory_attention_dropout": 0.0, "memory_attention_rope_dropout": 0.0}
        decoder_config = Sam2VideoMaskConfig(Sam2VideoConfig(**sizes, **grid, **dropout), **memory)
    decoder = build_mask_decoder(decoder_config).requires_grad_(False)
    decoder.trainable_modules()["mask_decoder"].requires_grad_(True)
    embeddings, prompts = torch.randn(1, 5, 1024, 16, 16), torch.randn(1, 1, 256)
    held = held_for_backward(decoder, lambda: decoder.decode_clips(embeddings, prompts))

    def activations(frames: int) -> int:
        config = AuroraConfig(model.config.policy_config, decoder_config, seg_token_id=3)
        return estimate(config, num_frames=frames, batch_size=1, bf16=False).activations

    encoder = 12 * 64 * 64 * 96 * 4  # of a frame, which passes it without a backward
    one = 256 * 25 * 256 * 4
    assert activations(5) - activations(1) - 4 * encoder + one == pytest.approx(held, rel=0.1)


def test_what_sam3s_encoder_holds_for_its_backward(model):
    """Counted where autograd keeps it: published widths, fewer layers, a third of the side."""
    vision = {
        "model_type": "sam3_vision_model",
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "num_hidden_layers": 2,
            "image_size": 336,
            "global_attn_indexes": [1],
        },
    }
    sam = Sam3TrackerConfig(vision_config=vision, prompt_encoder_config={"image_size": 336})
    decoder_config = Sam3MaskConfig(sam)
    decoder = build_mask_decoder(decoder_config)
    held = held_for_backward(decoder, lambda: decoder.sam.vision_encoder(torch.randn(1, 3, 336, 336)))
    config = AuroraConfig(model.config.policy_config, decoder_config, seg_token_id=3)
    frozen, trained = (
        estimate(config, num_frames=1, batch_size=1, bf16=False, groups=GROUPS | more).activations
        for more in (set(), {"mask_encoder"})
    )
    one_pass = 14 * 1024 * 24**2 * 4  # of a frozen encoder
    assert trained - frozen + one_pass == pytest.approx(held, rel=0.1)


def test_what_sam3s_detector_holds_for_its_backward(model):
    vision = {"model_type": "sam3_vision_model", "backbone_config": {"model_type": "sam3_vit_model"}}
    vision["backbone_config"].update(num_hidden_layers=1, image_size=168, global_attn_indexes=[0])
    decoder_config = Sam3ConceptConfig(Sam3Config(vision_config=vision), max_objects=2)
    decoder = build_mask_decoder(decoder_config).requires_grad_(False)
    decoder.trainable_modules()["mask_decoder"].requires_grad_(True)
    embeddings, prompts = torch.randn(1, 1280, 12, 12), torch.randn(1, 1, 256)
    held = held_for_backward(decoder, lambda: decoder.decode(embeddings, prompts))
    config = AuroraConfig(model.config.policy_config, decoder_config, seg_token_id=3)
    one, two = (estimate(config, num_frames=n, batch_size=1, bf16=False).activations for n in (1, 2))
    encoder = 14 * 1024 * 12**2 * 4  # of a frame, which passes it without a backward
    assert two - one - encoder == pytest.approx(held, rel=0.2)


def test_the_published_sizes():
    config = published_config("DAMO-NLP-SG/VideoLLaMA2.1-7B-AV", "sam_vit_h_4b8939.pth", 224)
    parameters = estimate(config).parameters
    assert parameters["language_model"] == 7_615_616_512  # Qwen2-7B
    assert parameters["mask_encoder"] == pytest.approx(632e6, rel=0.001)  # ViT-H with the positions of 224 px
    assert parameters["vision_tower"] == pytest.approx(398e6, rel=0.001)  # SigLIP up to the layer before the last
    assert published_config("DAMO-NLP-SG/VideoLLaMA2.1-7B-AV", "other.pth") is None
    assert published_config("another/policy", "sam_vit_h_4b8939.pth") is None
    sam3 = published_config("DAMO-NLP-SG/VideoLLaMA2.1-7B-AV", "facebook/sam3")
    assert sam3.mask_decoder_config.image_size == 1008
    # Its ViT, and of the levels made of the last layer all but the coarsest.
    assert estimate(sam3).parameters["mask_encoder"] == pytest.approx(453e6, rel=0.001)
    for settings in ({"memory": ClipMemory()}, {"concepts": ConceptPrompts(5)}):
        other = published_config("DAMO-NLP-SG/VideoLLaMA2.1-7B-AV", "facebook/sam3", 336, **settings)
        assert other.mask_decoder_config.image_size == 336
        assert estimate(other).parameters["mask_decoder"] > 1.5 * estimate(sam3).parameters["mask_decoder"]
    assert [video_llama2_tokens(frames, 30) - 1496 for frames in (8, 10, 16)] == [676, 845, 1352]
    assert video_llama2_tokens(10, 10) == 845 + 496
