"""The local annotator, with the classes of the published model, small numbers and random weights."""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
    set_seed,
)
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from aurora_trl.annotation import RunLimits, annotate_file, get_annotator
from aurora_trl.annotation.clients import Unusable
from aurora_trl.annotation.request_parts import clip_parts
from aurora_trl.data import DataError
from aurora_trl.data.schema import clip_key

MEDIA_TOKENS = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for block in message['content'] %}"
    "{% if block['type'] == 'text' %}{{ block['text'] }}"
    "{% elif block['type'] == 'image' %}<|vision_bos|><|IMAGE|><|vision_eos|>"
    "{% elif block['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_processor() -> Qwen2_5OmniProcessor:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens={**MEDIA_TOKENS, "turn_token": "<|im_start|>"},
    )
    size = {"patch_size": 8, "merge_size": 2, "size": {"shortest_edge": 16 * 16, "longest_edge": 32 * 32}}
    return Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessor(**size),
        video_processor=Qwen2VLVideoProcessor(**size),
        feature_extractor=WhisperFeatureExtractor(feature_size=16, hop_length=640, n_fft=800, chunk_length=10),
        tokenizer=fast,
        chat_template=TEMPLATE,
    )


def make_config(tokenizer) -> Qwen2_5OmniThinkerConfig:
    return Qwen2_5OmniThinkerConfig(
        audio_config={
            "num_mel_bins": 16,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "d_model": 16,
            "n_window": 25,
            "output_dim": 32,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "patch_size": 8,
            "window_size": 32,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [0],
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [1, 1, 2]},
            "initializer_range": 0.2,
        },
        image_token_index=tokenizer.image_token_id,
        video_token_index=tokenizer.video_token_id,
        audio_token_index=tokenizer.audio_token_id,
        audio_start_token_id=tokenizer.audio_bos_token_id,
        audio_end_token_id=tokenizer.audio_eos_token_id,
        vision_start_token_id=tokenizer.vision_bos_token_id,
        vision_end_token_id=tokenizer.vision_eos_token_id,
    )


@pytest.fixture(scope="module")
def omni(tmp_path_factory):
    """A checkpoint in the published layout: the thinker's weights under `thinker.`, the talker's beside them."""
    folder = tmp_path_factory.mktemp("checkpoints") / "omni"
    processor = make_processor()
    processor.save_pretrained(folder)
    set_seed(0)
    model = Qwen2_5OmniThinkerForConditionalGeneration(make_config(processor.tokenizer))
    thinker = model.config.to_dict()
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2_5_omni", "thinker_config": thinker}))
    weights = {}
    for name, value in model.state_dict().items():
        name = name.replace("model.language_model.", "model.")
        name = name.removeprefix("model.") if name.startswith(("model.visual.", "model.audio_tower.")) else name
        weights[f"thinker.{name}"] = value.contiguous()
    weights["talker.codec_head.weight"] = torch.zeros(2)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder, model


def test_the_model_sees_hears_and_reads(omni, rows):
    folder, model = omni
    annotator = get_annotator(f"qwen-omni:{folder}", max_output_tokens=12)
    client = annotator.client
    for name, value in model.state_dict().items():
        assert torch.equal(client.model.state_dict()[name], value), name
    parts = clip_parts(rows[0], num_frames=3, max_image_side=64)
    assert len(parts) == 4

    def answer(asked):
        with pytest.raises(Unusable, match="cut off after 12 tokens") as caught:  # random weights seldom stop
            client.complete(asked, seed=0, request_id="1")
        return caught.value

    whole = answer([*parts, "What is it?"])
    assert whole.usage.output_tokens == 12
    assert answer([*parts, "What is it?"]).raw == whole.raw
    # 32 x 32 px are 4 places; 10 s of sound at 25 frames a second are 62 or 63.
    silent = answer([*parts[:3], "What is it?"])
    assert 60 <= whole.usage.input_tokens - silent.usage.input_tokens <= 66
    two = answer([*parts[:2], "What is it?"])
    assert silent.usage.input_tokens - two.usage.input_tokens == 4 + 2
    others = [answer([*parts[:3], "Who is it?"]), silent, two]
    assert all(other.raw != whole.raw for other in others)


def test_requests_that_wait_are_answered_together(omni, rows):
    """The same texts as one by one: long and short prompts, with and without sound, and more than a batch holds."""
    client = get_annotator(f"qwen-omni:{omni[0]}", max_output_tokens=6).client
    parts = clip_parts(rows[0], num_frames=3, max_image_side=64)
    prompts = [[*parts, "What is it?"], [*parts[:2], "Who?"], ["A text alone."], [parts[3], "What is heard here?"]]

    def ask(prompt):
        try:
            return client.complete(prompt, seed=0, request_id="1").text
        except Unusable as error:
            return error.raw, error.usage

    client.gather_seconds = 0.0
    alone = [ask(prompt) for prompt in prompts]
    sizes, generate = [], client.model.generate
    client.model.generate = lambda **inputs: sizes.append(len(inputs["input_ids"])) or generate(**inputs)
    client.max_batch_size = 3
    with ThreadPoolExecutor(4) as pool:
        with client._model_lock:  # as if an answer were under way until all of them wait
            together = pool.map(ask, prompts)
            while len(client._waiting) < 4:
                time.sleep(0.01)
        together = list(together)
    assert together == alone
    assert sizes == [3, 1]


def test_a_clip_of_several_requests_is_seen_once(omni, rows):
    """Two references to one clip and one to another: six pictures pass the tower; the texts are as they were alone."""
    client = get_annotator(f"qwen-omni:{omni[0]}", max_output_tokens=4).client
    clips = list({clip_key(row): clip_parts(row, num_frames=3, max_image_side=64) for row in rows}.values())[:2]
    prompts = [[*clips[0], "What is it?"], [*clips[1], "What is it?"], [*clips[0], "Who is it?"]]
    seen = []
    client.model.model.visual.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    client.gather_seconds = 0.0
    alone = [client._generate([prompt], 0)[0].raw for prompt in prompts]
    assert [answer.raw for answer in client._generate(prompts, 0)] == alone
    assert seen[3:] == [seen[0] + seen[1]]


def test_a_missing_weight_is_named(omni, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(omni[0], folder)
    weights = load_file(folder / "model.safetensors")
    del weights["thinker.lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"it lacks the weight lm_head\.weight"):
        get_annotator(f"qwen-omni:{folder}")


def test_what_it_writes_is_checked_like_any_other(omni, rows, tmp_path):
    annotator = get_annotator(f"qwen-omni:{omni[0]}", max_output_tokens=8)
    with pytest.raises(DataError, match="3 rows one after the other"):
        annotate_file(
            rows.select(range(4)), annotator, tmp_path / "cot.jsonl", limits=RunLimits(max_attempts=1, max_failures=3)
        )
    records = [json.loads(line) for line in (tmp_path / "cot.journal.jsonl").read_text().splitlines()[1:]]
    assert [record["output_tokens"] for record in records] == [8, 8, 8]
    assert np.mean([record["input_tokens"] for record in records]) > 500
