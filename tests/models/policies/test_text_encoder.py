"""A text encoder in the policy's place: it reads the reference alone, writes one sentence, and draws."""

import pytest
import torch
from quick import QUICK
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from aurora_trl import AuroraModel, AuroraProcessor, AuroraSFTConfig, AuroraSFTTrainer
from aurora_trl.cli import main
from aurora_trl.data import DataError
from aurora_trl.data.synthetic import world_corpus
from aurora_trl.generation.answers import answer_rows
from aurora_trl.models.policies.registry import load_policy
from aurora_trl.tiny.text_encoder import create_tiny_text_checkpoint
from aurora_trl.tiny.videollama2 import TURN_START, tiny_tokenizer


@pytest.fixture(scope="module")
def trained(rows, tmp_path_factory):
    """Steps of SFT, with the encoder frozen: the head, the projector and the mask decoder train."""
    folder = tmp_path_factory.mktemp("text")
    create_tiny_text_checkpoint(folder / "base", image_size=32, hidden_size=32, num_layers=2)
    processor = AuroraProcessor.from_pretrained(folder / "base")
    settings = {**QUICK, "learning_rate": 3e-2, "max_steps": 3, "per_device_train_batch_size": 4}
    args = AuroraSFTConfig(str(folder / "sft"), targets="answer", **settings)
    model = AuroraModel.from_pretrained(folder / "base")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = AuroraSFTTrainer(model, args, train_dataset=rows, processing_class=processor)
    trainer.train()
    trainer.save_model()
    return folder / "sft", before


def test_it_writes_the_constant_sentence_and_learns_to_draw(trained, rows):
    folder, before = trained
    model, processor = AuroraModel.from_pretrained(folder).eval(), AuroraProcessor.from_pretrained(folder)
    after = model.state_dict()
    for name, value in after.items():
        frozen = name.startswith(("policy.model.text_model", "mask_decoder.image_encoder"))
        if frozen:
            assert torch.equal(value, before[name]), name
    assert not torch.equal(after["seg_projector.0.weight"], before["seg_projector.0.weight"])
    answers = list(answer_rows(model, processor, rows.select(range(6)), batch_size=3, max_new_tokens=8))
    assert {answer.completion for answer in answers} == {"It is [SEG]."}
    assert all(answer.mask_logits is not None for answer in answers)


def test_it_reads_the_reference_and_nothing_else(trained, rows):
    folder, _ = trained
    model, processor = AuroraModel.from_pretrained(folder).eval(), AuroraProcessor.from_pretrained(folder)
    some = rows.select([0, 5, 9]).to_list()

    def drawn(swap):
        answers = answer_rows(model, processor, some, batch_size=3, max_new_tokens=8, swap=swap)
        return torch.stack([answer.decoded_logits for answer in answers])

    own = drawn(None)
    assert torch.equal(drawn("audio"), own)
    assert not torch.equal(drawn("reference"), own)


def test_batches_of_other_lengths_change_nothing(trained, rows):
    """Prompts are padded on the left."""
    folder, _ = trained
    model, processor = AuroraModel.from_pretrained(folder).eval(), AuroraProcessor.from_pretrained(folder)
    some = rows.select(range(4)).to_list()
    one, four = (
        [answer.decoded_logits for answer in answer_rows(model, processor, some, batch_size=size, max_new_tokens=8)]
        for size in (1, 4)
    )
    for alone, together in zip(one, four, strict=True):
        torch.testing.assert_close(alone, together, atol=1e-4, rtol=1e-4)


@pytest.fixture
def clip(tmp_path):
    """A published CLIP, small: its text encoder begins a text with a token of its own."""
    tokenizer = tiny_tokenizer(world_corpus())
    tokenizer.bos_token = TURN_START
    tokenizer.save_pretrained(tmp_path / "clip")
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict()))
    model.save_pretrained(tmp_path / "clip")
    return tmp_path / "clip", model


def test_the_text_encoder_of_a_published_clip(clip):
    folder, model = clip
    policy, processor = load_policy(folder)
    ids = torch.tensor([[5, 9, 11]])
    with torch.no_grad():
        ours = policy.model(ids).last_hidden_state
        theirs = model.text_model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(ours, theirs)
    assert "[SEG]" in processor.tokenizer.get_vocab()
    text = processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "the drum"}]}],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert text == f"{TURN_START}<video>the drum{TURN_START}"
    places = processor.tokenizer.convert_tokens_to_ids(["<video>", "<audio>"])
    ids = [token for token in range(110) if token not in places][:100]
    assert processor.expand_ids([*places, *ids], {}) == [*ids[:63], ids[-1]]


def test_a_weight_that_is_missing_is_named(clip):
    folder, _ = clip
    file = folder / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if name.startswith("text_model.") and "q_proj.weight" in name)
    save_file({key: value for key, value in weights.items() if key != name}, file, {"format": "pt"})
    with pytest.raises(DataError, match="q_proj.weight"):
        load_policy(folder)


def test_by_the_command(tmp_path, capsys):
    assert main(["tiny-model", str(tmp_path / "text"), "--without-language-model"]) == 0
    assert "without a language model" in capsys.readouterr().out
    assert type(AuroraModel.from_pretrained(tmp_path / "text").policy).__name__.startswith("TextEncoder")
    words = ["tiny-model", str(tmp_path / "other"), "--without-language-model", "--world", "somewhere"]
    assert main(words) == 1
    assert "leave --world, --tower-steps and --box-steps" in capsys.readouterr().err
