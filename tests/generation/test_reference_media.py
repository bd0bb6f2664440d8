"""References that are spoken, or go with a sound or a picture: what a policy sees, hears and reads of them."""

import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
from grpo_helpers import build
from PIL import Image
from sounds import tone
from video_layouts import write_omniavs

from aurora_trl import AuroraModel, AuroraPipeline, AuroraProcessor
from aurora_trl.cli import main
from aurora_trl.data import DataError, find_source
from aurora_trl.data.media.loading import frame_indices, load_audio, load_frames
from aurora_trl.data.row_files import files_digest
from aurora_trl.data.schema import clip_key, view_key
from aurora_trl.generation.answers import answer_rows
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.generation.swaps import swap_modality
from aurora_trl.prompts import build_prompt
from aurora_trl.training.rewards import format_reward

RATE = 16000


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """The files of a reference: 2 s of speech, 1 s of sound, a picture that is twice as high as wide."""
    folder = tmp_path_factory.mktemp("asked")
    soundfile.write(folder / "say.wav", tone(2, RATE, 300), RATE, subtype="FLOAT")
    soundfile.write(folder / "bark.wav", tone(1, RATE, 900), RATE, subtype="FLOAT")
    Image.new("RGB", (24, 48), (200, 40, 90)).save(folder / "dog.png")
    names = {"speech": "say.wav", "sound": "bark.wav", "image": "dog.png"}
    return {f"reference_{kind}": str(folder / name) for kind, name in names.items()}


@pytest.fixture
def looking(checkpoint):
    """A processor whose policy looks at four frames."""
    processor = AuroraProcessor.from_pretrained(checkpoint)
    processor.policy_frames = 4
    return processor


def test_picture_and_sounds_stand_behind_the_clip(looking, rows, asked):
    """Of four places the picture takes the last two, and the clip those that two frames would have."""
    row = {**rows[0], **asked}
    clip, plain = ClipLoader(looking).clip(row), ClipLoader(looking).clip(rows[0])
    frames = load_frames(rows[0], num_frames=10)
    height, width = frames.shape[1:3]
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, width // 4 : width // 4 + width // 2] = (200, 40, 90)
    seen = np.stack([*frames[frame_indices(10, 2)], picture, picture])
    pause = np.zeros(RATE, np.float32)
    sounds = [load_audio({"audio": asked[f"reference_{kind}"]}, sampling_rate=RATE) for kind in ("speech", "sound")]
    wave = np.concatenate([load_audio(rows[0], sampling_rate=RATE)[: 5 * RATE], pause, sounds[0], pause, sounds[1]])
    assert len(wave) == looking.policy_processor.longest_sound  # of ten seconds of the clip, five are left
    expected = looking.policy_processor.process_media(seen, None)["pixel_values_videos"]
    assert torch.equal(clip["pixel_values_videos"], expected)
    heard = looking.policy_processor.process_audio(wave)
    assert clip["audio_values"].shape == heard.shape
    behind = 5 * 100 + 3  # windows of 10 ms that hold nothing of the clip's own sound, whichever part of it is heard
    assert torch.allclose(clip["audio_values"][behind:], heard[behind:], atol=1e-5)
    assert torch.equal(clip["mask_frames"], plain["mask_frames"])  # nothing is drawn in the picture


def test_a_short_clip_is_followed_by_the_picture_alone(looking, rows, asked):
    row = {**rows[0], "frames": rows[0]["frames"][:1], "masks": None, "reference_image": asked["reference_image"]}
    shown = ClipLoader(looking).clip(row)["pixel_values_videos"]
    assert torch.equal(shown[1], shown[2])
    assert torch.equal(shown[2], shown[3])
    assert not torch.equal(shown[0], shown[1])


def test_what_is_spoken_is_heard_whole_and_a_longer_one_refused(looking, rows, asked, tmp_path):
    """Of a clip's sound what is left is heard; the reference is never cut."""
    long = tmp_path / "long.wav"
    soundfile.write(long, tone(11, RATE, 300), RATE)
    with pytest.raises(DataError, match=r"the sounds of its reference take 12\.0 s, and the policy hears 10\.0"):
        ClipLoader(looking).clip({**rows[0], "reference_speech": str(long)})
    silent = {**rows[0], "audio": None, "reference_speech": asked["reference_speech"]}
    ids = looking.prompt_ids(silent, ClipLoader(looking).clip(silent))
    assert looking.policy_processor.audio_token_id in ids  # a clip without sound has a place for what is said


def test_a_prompt_says_where_the_files_are_and_hides_what_is_spoken():
    row = {"reference": "who makes <audio> near <image>", "audio": "a.wav"}

    def text(**files):
        return build_prompt({**row, **files}, "{reference} Which?")[0]["content"][-1]["text"]

    assert text() == "who makes <audio> near <image>. Which?"
    assert text(reference_sound="b.wav", reference_image="c.png") == (
        "who makes the sound at the end near the picture at the end. Which?"
    )
    assert text(reference_image="c.png") == "who makes <audio> near the picture at the end. Which?"
    row["reference"] = "the dog"
    assert text(reference_sound="b.wav") == "the dog. Its sound is heard at the end. Which?"
    assert text(reference_speech="s.wav", reference_image="c.png") == (
        "What to look for is said after the clip's sound. Its picture is shown at the end. Which?"
    )


def test_references_about_one_clip_are_told_apart(rows, asked):
    spoken = [{**rows[0], "reference_speech": asked[f"reference_{kind}"]} for kind in ("speech", "sound")]
    assert clip_key(spoken[0]) == clip_key(spoken[1]) == clip_key(rows[0])
    assert len({view_key(row) for row in (*spoken, rows[0])}) == 3


def test_an_answer_is_about_their_files_too(rows, asked, tmp_path):
    """Where a run goes on, another file of the same name is another question."""
    copy = shutil.copy(asked["reference_speech"], tmp_path / "say.wav")
    row = {**rows[0], "reference_speech": str(copy)}
    before = files_digest(row)
    assert files_digest(row) == before != files_digest(rows[0])
    shutil.copy(asked["reference_sound"], copy)
    assert files_digest(row) != before


def test_a_swapped_reference_takes_its_files_along(rows, asked):
    others = [next(row for row in rows if clip_key(row) != clip_key(rows[0])), rows[0]]
    spoken, plain = ({**row, "reference": "it", "reference_speech": None} for row in others)
    spoken["reference_speech"] = asked["reference_speech"]
    first, second = swap_modality([spoken, plain], "reference")
    assert (first["reference_speech"], second["reference_speech"]) == (None, asked["reference_speech"])
    assert (first["frames"], second["frames"]) == (spoken["frames"], plain["frames"])


@pytest.mark.parametrize("name", [True, "qwen3", "omni3", "videollama3"])
def test_every_family_takes_what_it_can(name, qwen_checkpoints, videollama3_checkpoint, rows, asked):
    """The answers to two pictures, or to two sounds, come from other states; the others are refused."""
    folder = videollama3_checkpoint if name == "videollama3" else qwen_checkpoints[name]
    model, processor = AuroraModel.from_pretrained(folder), AuroraProcessor.from_pretrained(folder)
    processor.policy_frames = 4
    pictured = {**rows[0], "reference_image": asked["reference_image"]}
    other = {**rows[0], "reference_image": rows[0]["frames"][0]}
    batch = [rows[0], pictured, other]
    if processor.policy_processor.sampling_rate is None:
        with pytest.raises(DataError, match=r"it has a `reference_speech`, and the policy does not hear; leave such"):
            ClipLoader(processor).clip({**rows[0], **asked})
    else:
        batch += [{**rows[0], "reference_speech": asked[f"reference_{kind}"]} for kind in ("speech", "sound")]
    seg = torch.tensor([processor.seg_token_id])
    model.policy.lm_head.register_forward_hook(lambda _module, _args, logits: logits.index_fill(-1, seg, 99.0))
    answers = answer_rows(model, processor, batch, batch_size=len(batch), max_new_tokens=2)
    features = torch.stack([answer.seg_features.flatten() for answer in answers])
    apart = torch.cdist(features, features) + torch.eye(len(batch))
    assert apart.min() > 1e-6


def test_a_picture_needs_a_place(checkpoint, rows, asked):
    processor = AuroraProcessor.from_pretrained(checkpoint)
    processor.policy_frames = 2
    with pytest.raises(
        DataError, match=r"`reference_image`, which takes a place of a frame, and the policy looks at 2"
    ):
        ClipLoader(processor).clip({**rows[0], **asked})


def test_omniavs_trains_and_is_scored_whole(checkpoint, looking, tmp_path):
    """All kinds of references, those of text among them, in one GRPO step and one evaluation."""
    data = write_omniavs(tmp_path / "data")
    looking.save_pretrained(tmp_path / "model")
    AuroraModel.from_pretrained(checkpoint).save_pretrained(tmp_path / "model")
    rows = find_source(data).load("train")
    trainer = build(
        AuroraModel.from_pretrained(checkpoint), rows, looking, tmp_path / "out", max_steps=1, rewards=[format_reward]
    )
    trainer.train()
    arguments = ["evaluate", str(tmp_path / "model"), "--data", str(data), "--protocol", "omniavs"]
    assert main([*arguments, "--output", str(tmp_path / "scores"), "--max-new-tokens", "3"]) == 0
    answers = [json.loads(line) for line in (tmp_path / "scores" / "answers.jsonl").read_text().splitlines()]
    assert [answer["id"] for answer in answers] == [f"hall_{number}" for number in range(5)]


def test_the_pipeline_takes_them_as_it_takes_a_clip(checkpoint, looking, rows, asked):
    """Files, or pixels and samples, of all references or of each."""
    pipe = AuroraPipeline(AuroraModel.from_pretrained(checkpoint), looking)
    seg = torch.tensor([looking.seg_token_id])
    pipe.model.policy.lm_head.register_forward_hook(lambda _module, _args, logits: logits.index_fill(-1, seg, 99.0))
    clip = {"frames": rows[0]["frames"], "audio": rows[0]["audio"], "max_new_tokens": 2}
    given = pipe("it", **clip, **asked)
    samples, rate = soundfile.read(asked["reference_speech"], dtype="float32")
    bark = soundfile.read(asked["reference_sound"], dtype="float32")
    with Image.open(asked["reference_image"]) as picture:
        same, plain = pipe(
            ["it", "it"],
            **clip,
            reference_speech=[(samples, rate), None],
            reference_sound=[bark, None],
            reference_image=[picture, None],
        )
    assert torch.allclose(same.seg_features, given.seg_features, atol=1e-5)
    assert not torch.allclose(plain.seg_features, given.seg_features, atol=1e-5)
    with pytest.raises(ValueError, match=r"`reference_sound` takes a path, or samples with their rate"):
        pipe("it", **clip, reference_sound=samples)
