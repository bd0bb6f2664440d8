"""A text encoder in the policy's place, tiny: the row of Table 2 without the language model."""

from pathlib import Path

from transformers import CLIPTextConfig, set_seed

from ..models.configuration_aurora import AuroraConfig
from ..models.modeling_aurora import AuroraModel
from ..models.policies.text_encoder import TextEncoderConfig, TextEncoderProcessor, chat_template
from ..models.processing_aurora import AuroraProcessor
from ..prompts import ANSWER, VIDEO_TOKEN
from .videollama2 import TURN_START, tiny_config, tiny_processor, tiny_tokenizer

_MOST_TOKENS = 96


def create_tiny_text_checkpoint(
    output_dir: str | Path, *, seed: int = 0, image_size: int = 64, hidden_size: int = 128, num_layers: int = 3
) -> Path:
    """
    Write a checkpoint that reads the reference alone, with random weights and the other tiny model's mask decoder.

    Args:
        output_dir (`str` or `Path`): new folder.
        seed (`int`, *optional*, defaults to 0): of the weights.
        image_size (`int`, *optional*, defaults to 64): side of the frames, in pixels.
        hidden_size, num_layers (`int`): of the encoder.

    Returns:
        `Path`: the folder.
    """
    from ..data.synthetic import world_corpus

    corpus = world_corpus()
    tokenizer = tiny_tokenizer(corpus, chat_template=chat_template(TURN_START))
    text_config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        max_position_embeddings=_MOST_TOKENS,
        projection_dim=hidden_size,
        initializer_range=0.08,  # as the other tiny model's
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    other = tiny_processor(corpus, image_size=image_size)
    processor = AuroraProcessor(
        TextEncoderProcessor(tokenizer, chat_template=tokenizer.chat_template),
        mask_image_size=image_size,
        mask_target_size=image_size,
        num_frames=other.num_frames,
        instruction="{reference}",
    )
    policy_config = TextEncoderConfig(
        text_config, processor.completion_ids(ANSWER), tokenizer.convert_tokens_to_ids(VIDEO_TOKEN)
    )
    decoder_config = tiny_config(other).mask_decoder_config
    set_seed(seed)
    model = AuroraModel(AuroraConfig(policy_config, decoder_config, seg_token_id=processor.seg_token_id))
    model.save_pretrained(output_dir)
    processor.save_pretrained(output_dir)
    return Path(output_dir)
