"""An answer as it is written, and the files that are made of it."""

import json
import zipfile
from io import BytesIO
from threading import Event

import numpy as np
import pytest
from PIL import Image
from sounds import tone, write_clip_with_sound

from aurora_trl import AuroraPipeline
from aurora_trl.app.examples import find_world, load_examples
from aurora_trl.app.results import answer_html, result_html, write_result
from aurora_trl.app.streaming import stream_answer
from aurora_trl.app.uploads import Limits, load_clip, read_clip
from aurora_trl.data import DataError
from aurora_trl.data.masks import decode_rle
from aurora_trl.generation.pipeline import Segmentation


@pytest.fixture(scope="module")
def pipeline(checkpoint):
    return AuroraPipeline.from_pretrained(checkpoint)


@pytest.fixture
def row(rows):
    return dict(rows[0])


def test_the_text_grows_to_what_the_pipeline_answers(pipeline, row):
    *texts, result = stream_answer(pipeline, row["reference"], row, Event(), max_new_tokens=12)
    assert len(texts) > 1
    assert all(
        later.startswith(earlier) and later != earlier for earlier, later in zip(texts, texts[1:], strict=False)
    )
    assert texts[-1].strip() == result.reasoning
    plain = pipeline(row["reference"], frames=row["frames"], audio=row["audio"], max_new_tokens=12)
    assert result.reasoning == plain.reasoning
    assert np.array_equal(result.masks, plain.masks)


def test_it_ends_when_somebody_stops_it(pipeline, row):
    stopped = Event()
    texts = []
    for step in stream_answer(pipeline, row["reference"], row, stopped, max_new_tokens=400):
        texts.append(step)
        stopped.set()
    whole = list(stream_answer(pipeline, row["reference"], row, Event(), max_new_tokens=400))
    assert isinstance(texts[-1], Segmentation)
    assert len(texts[-1].reasoning) < len(whole[-1].reasoning)
    assert whole[-1].reasoning.startswith(texts[-1].reasoning)


def test_it_ends_when_nobody_reads_on(pipeline, row):
    stopped = Event()
    steps = stream_answer(pipeline, row["reference"], row, stopped, max_new_tokens=400)
    next(steps)
    steps.close()
    assert stopped.is_set()


def test_what_is_wrong_comes_out(pipeline, row):
    with pytest.raises(DataError, match="no/such.mp4"):
        list(stream_answer(pipeline, "the drum", {"video": "no/such.mp4"}, Event()))
    with pytest.raises(ValueError, match="num_beems"):
        list(stream_answer(pipeline, "the drum", row, Event(), num_beems=2))


def written(clip, folder, **changes):
    height, width = clip.frames.shape[1:3]
    masks = np.zeros((len(clip.frames), height, width), np.uint8)
    masks[:, 4:12, 8:24] = 1
    values = {
        "reference": "the <b>box</b>",
        "reasoning": "I see a <box>. So the target is the box. It is [SEG].",
        "class_name": "box",
        "masks": masks,
        "has_seg": True,
        "frame_indices": clip.numbers,
        "frame_seconds": clip.seconds,
        "num_frames": 40,
    }
    result = Segmentation(**{**values, **changes})
    return result, write_result(result, clip, folder)


def test_the_files_of_an_answer(tmp_path):
    write_clip_with_sound(tmp_path / "clip.mp4", [(0.0, tone(4, 48000))])
    clip = load_clip(read_clip([str(tmp_path / "clip.mp4")], None, Limits()), 4)
    (tmp_path / "out").mkdir()
    result, files = written(clip, tmp_path / "out")
    with zipfile.ZipFile(files.masks) as archive:
        assert archive.namelist() == [f"masks/{index:06d}.png" for index in clip.numbers]
        stored = np.asarray(Image.open(BytesIO(archive.read(archive.namelist()[0]))))
    assert np.array_equal(stored, result.masks[0] * 255)
    runs = json.loads(files.coco.read_text())["masks"]
    assert [run["frame"] for run in runs] == clip.numbers
    assert np.array_equal(decode_rle(json.dumps(runs[0]["segmentation"])), result.masks[0])
    assert files.video is not None
    assert files.video.stat().st_size > 0
    shown = result_html(result, clip, files)
    assert shown.count('class="tick"') == 4
    assert "drawn in 4 of 4 frames" in shown
    assert all(name in shown for name in ("masks.zip", "masks.json", "overlay.mp4", "strip.png"))


def test_objects_have_masks_of_their_own(tmp_path):
    write_clip_with_sound(tmp_path / "clip.mp4", [(0.0, tone(4, 48000))])
    clip = load_clip(read_clip([str(tmp_path / "clip.mp4")], None, Limits()), 2)
    (tmp_path / "out").mkdir()
    objects = np.zeros((2, 2, 48, 64), np.uint8)
    objects[1, :, 20:30] = 1
    _, files = written(clip, tmp_path / "out", object_masks=objects)
    with zipfile.ZipFile(files.masks) as archive:
        assert [name for name in archive.namelist() if name.startswith("objects/1/")] == [
            f"objects/1/{index:06d}.png" for index in clip.numbers
        ]
    assert [run["object"] for run in json.loads(files.coco.read_text())["objects"]] == [0, 0, 1, 1]


def test_a_picture_has_no_video(tmp_path):
    Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(tmp_path / "photo.png")
    clip = load_clip(read_clip([str(tmp_path / "photo.png")], None, Limits()), 4)
    (tmp_path / "out").mkdir()
    result, files = written(clip, tmp_path / "out")
    assert files.video is None
    assert "<video" not in result_html(result, clip, files)


def test_what_a_model_writes_is_text_and_no_markup():
    shown = answer_html("sft", "<script>alert(1)</script> It is [SEG].", "writes")
    assert "<script>" not in shown
    assert '<b class="seg">[SEG]</b>' in shown


def test_examples_show_distinct_clips(world, checkpoint):
    examples = load_examples(world)
    assert len(examples) >= 2
    assert len({tuple(example.files) for example in examples}) == len(examples)
    assert all(example.sound for example in examples)
    assert find_world(checkpoint) is None
    assert find_world(world.parent / "sft") is None
    (world.parent / "data").symlink_to(world)
    assert find_world(world.parent / "sft") == (world.parent / "data")
    (world.parent / "data").unlink()
