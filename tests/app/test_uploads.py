"""What somebody drops: recognised by its content, limited, and refused in one line that names the file."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from sounds import tone, write_clip_with_sound
from videos import write_clip

from aurora_trl.app.uploads import Limits, load_clip, read_clip
from aurora_trl.data import DataError


@pytest.fixture
def drop(tmp_path):
    """Write a file of a kind to a folder of its own, as an upload lies; its path."""

    def write(kind, name):
        folder = tmp_path / f"digest{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        path = folder / name
        if kind == "video":
            write_clip(path, range(0, 200, 10))
        elif kind == "sounding":
            write_clip_with_sound(path, [(0.0, tone(4, 48000))])
        elif kind == "picture":
            Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(path, "PNG" if name.endswith("png") else "JPEG")
        elif kind == "sound":
            soundfile.write(path, tone(3, 16000), 16000)
        elif kind == "cut":
            whole = write_clip(folder / "whole.mp4", range(0, 250), container_options={"movflags": "faststart"})
            content = Path(whole).read_bytes()
            path.write_bytes(content[: len(content) // 2])
        else:
            path.write_text("no picture, no sound")
        return str(path)

    return write


def test_a_video_with_its_own_sound(drop):
    row = read_clip([drop("sounding", "clip.mp4")], None, Limits())
    clip = load_clip(row, 5)
    assert clip.frames.shape == (5, 48, 64, 3)
    assert clip.sound_seconds == pytest.approx(4.0, abs=0.1)
    assert clip.describe().startswith("clip.mp4: 4.0 s, 40 frames, 64 x 48 pixels, its own sound, 4.")
    assert clip.describe().endswith("the model sees 5 frames")
    picture = clip.draw()
    assert picture.width == 1600


def test_a_cameras_previews_make_a_photograph_no_video(tmp_path):
    """They stand behind it in its file; and the pages of a TIFF are no video either."""
    paths = [str(tmp_path / name) for name in ("1.jpg", "2.jpg", "pages.tiff")]
    for path, kind in zip(paths, ("MPO", "MPO", "TIFF"), strict=True):
        first, other = Image.new("RGB", (60, 40), (90, 90, 90)), Image.new("RGB", (30, 20))
        first.save(path, kind, save_all=True, append_images=[other])
    assert read_clip(paths[:2], None, Limits())["frames"] == paths[:2]
    with pytest.raises(DataError, match=r"^pages.tiff: it holds 2 pictures in place of one frame"):
        read_clip(paths[2:], None, Limits())


def test_pictures_are_frames_in_the_order_of_their_numbers(drop):
    dropped = [drop("picture", name) for name in ("10.jpg", "2.jpg", "1.png")]
    row = read_clip(dropped, drop("sound", "sound.wav"), Limits())
    assert [path.rsplit("/")[-1] for path in row["frames"]] == ["1.png", "2.jpg", "10.jpg"]
    clip = load_clip(row, 10)
    assert clip.seconds == [0.0, 1.0, 2.0]  # evenly over the sound
    assert clip.describe() == "1.png to 10.jpg: 3 pictures, 60 x 40 pixels, sound.wav, 3.0 s; the model sees 3 frames"


def test_a_picture_whatever_it_is_called(drop):
    row = read_clip([drop("picture", "photo.mp4")], None, Limits())
    assert row["video"] is None
    assert load_clip(row, 10).describe() == "photo.mp4: a picture, 60 x 40 pixels, no sound"


BAD = {
    "nothing": ([], None, "drop a video or a picture first"),
    "text called a video": ([("text", "notes.mp4")], None, "notes.mp4: can not be read as a video"),
    "text called a picture": (
        [("text", "notes.jpg")],
        None,
        "notes.jpg: it can not be read as a picture",
    ),
    "cut short": ([("cut", "clip.mp4")], None, "clip.mp4: the video is cut short"),
    "two videos": ([("video", "a.mp4"), ("video", "b.mp4")], None, "a.mp4: it is no picture; drop one video, or"),
    "a video among pictures": ([("picture", "a.jpg"), ("video", "b.mp4")], None, "b.mp4: it is no picture"),
    "a sound as the clip": ([("sound", "song.wav")], None, "song.wav: it has no video track"),
    "text as the sound": ([("video", "a.mp4")], ("text", "song.wav"), "song.wav: can not be read as sound"),
    "a silent video as the sound": ([("picture", "a.png")], ("video", "b.mp4"), "b.mp4: it has no sound track"),
}


@pytest.mark.parametrize("name", BAD)
def test_one_line_names_the_file_and_not_its_place(name, drop, tmp_path):
    files, sound, message = BAD[name]
    with pytest.raises(DataError) as raised:
        load_clip(read_clip([drop(*file) for file in files], sound and drop(*sound), Limits()), 4)
    text = str(raised.value)
    assert text.startswith(message)
    assert "\n" not in text
    assert str(tmp_path) not in text
    assert "rows" not in text  # the way out is for somebody without a dataset


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(upload_mb=0.0001), "clip.mp4: 0 MB; at most 0.0001 MB are taken here"),
        (Limits(seconds=1.5), "clip.mp4: 2 s long; at most 1.5 s are taken here"),
        (Limits(megapixels=0.001), "clip.mp4: 64x48 pixels; at most 0.001 megapixels are taken here"),
    ],
)
def test_limits(limits, message, drop):
    with pytest.raises(DataError, match=f"^{message}$"):
        read_clip([drop("video", "clip.mp4")], None, limits)


def test_the_number_of_pictures_and_the_length_of_the_sound_are_limited(drop):
    pictures = [drop("picture", f"{number}.jpg") for number in range(4)]
    with pytest.raises(DataError, match=r"^4 files; at most 2 pictures are taken here$"):
        read_clip(pictures, None, Limits(pictures=2))
    with pytest.raises(DataError, match=r"^song.wav: 3 s long; at most 2 s are taken here$"):
        read_clip(pictures[:1], drop("sound", "song.wav"), Limits(seconds=2))
