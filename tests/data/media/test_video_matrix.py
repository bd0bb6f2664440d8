"""Whatever the container and the codec: the frames that decoding from the start gives, or an error."""

from dataclasses import replace

import av
import numpy as np
import pytest
from video_matrix import MATRIX, Kind, draw_frame, set_display_matrix, set_edits, stamps_of, write_kind

from aurora_trl.data.masks import frame_size
from aurora_trl.data.media import video
from aurora_trl.data.media.loading import load_frames, taken_frames
from aurora_trl.data.media.video import Orientation, index_video, read_frames
from aurora_trl.data.validation import find_problems


def decode(path):
    """All frames by a plain loop, the last word on which there are."""
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def number_of(frame):
    """The number that `draw_frame` wrote into a frame."""
    height, width = frame.shape[:2]
    columns = [frame[2 : height // 3 - 2, int((bit + 0.5) * width / 5)].mean() for bit in range(5)]
    return sum(int(level > 128) << bit for bit, level in enumerate(columns))


@pytest.mark.parametrize("kind", MATRIX, ids=str)
def test_frames_are_those_of_decoding_from_the_start(kind, tmp_path):
    path = write_kind(tmp_path / f"clip.{kind.suffix}", kind)
    frames = decode(path)
    index = index_video(path)
    assert len(index.times) == len(frames) == kind.num_frames
    assert list(index.times) == sorted(index.times)
    assert index.size == kind.size
    assert [number_of(frame) for frame in frames] == [number % 32 for number in range(kind.num_frames)]
    # Each alone, where a jump may go wrong; and some together, in any order.
    for number in range(kind.num_frames):
        assert np.array_equal(read_frames(path, index, [number])[0], frames[number]), f"frame {number}"
    numbers = [kind.num_frames - 1, 0, kind.num_frames // 2, 0]
    assert np.array_equal(read_frames(path, index, numbers), frames[numbers])
    row = {"id": "a", "reference": "x", "video": path, "is_null": True}
    assert np.array_equal(load_frames(row, num_frames=5, pad=False), frames[taken_frames(row, 5)])
    wide = ["pixels"] if kind.codec == "h263" else []  # whose sizes are those of television
    assert [problem.kind for problem in find_problems([row])] == wide
    if kind.suffix not in ("avi", "mpg", "wmv"):  # which keep times roughly, or only some
        expected = np.array(stamps_of(kind)) / 100
        assert np.abs(np.array(index.times) - expected).max() <= 0.0101


# What a player is asked to do with a stored point (x, y): (a x + c y, b x + d y).
TURNS = [(a, b, c, d) for a, d in ((1, 1), (1, -1), (-1, 1), (-1, -1)) for b, c in ((0, 0),)] + [
    (0, b, c, 0) for b in (1, -1) for c in (1, -1)
]


@pytest.mark.parametrize("turn", TURNS, ids=str)
def test_turned_and_mirrored_videos_come_upright(turn, tmp_path):
    kind = Kind("h264", "mp4", 2, num_frames=8)
    path = write_kind(tmp_path / "clip.mp4", kind)
    stored = decode(path)
    set_display_matrix(path, turn)
    a, b, c, d = turn
    rows, columns = np.mgrid[: kind.size[0], : kind.size[1]]
    to_columns, to_rows = a * columns + c * rows, b * columns + d * rows
    to_columns, to_rows = to_columns - to_columns.min(), to_rows - to_rows.min()
    upright = np.zeros((8, to_rows.max() + 1, to_columns.max() + 1, 3), np.uint8)
    upright[:, to_rows, to_columns] = stored
    index = index_video(path)
    assert index.size == upright.shape[1:3] == frame_size({"id": "a", "video": path})
    assert np.array_equal(read_frames(path, index, range(8)), upright)
    assert np.array_equal(load_frames({"id": "a", "frames": [f"{path}#t=0.31"]}, num_frames=1), upright[3:4])


def test_a_video_that_asks_for_less_than_a_quarter_turn_is_refused(tmp_path):
    path = write_kind(tmp_path / "clip.mp4", Kind("h264", "mp4", 2, num_frames=2))
    set_display_matrix(path, (0.8, 0.6, -0.6, 0.8))
    row = {"id": "a", "reference": "x", "video": path, "is_null": True}
    with pytest.raises(ValueError, match="only quarter turns are known"):
        index_video(path)
    assert [problem.kind for problem in find_problems([row])] == ["unreadable"]


EDITS = {
    "head": [(1.5, 0.8)],
    "tail": [(1.5, 0.0)],
    "delay": [(0.5, None), (2.0, 0.3)],
    "two": [(0.7, 0.5), (0.8, 1.5)],
    "back": [(0.7, 1.5), (0.8, 0.5)],
    "again": [(0.9, 0.0), (0.9, 0.0)],
}


@pytest.mark.parametrize("codec", ["h264", "h264-open", "hevc"])
@pytest.mark.parametrize("name", EDITS)
def test_edit_lists_are_followed(name, codec, tmp_path):
    """Telephones trim a video so; what is cut off is never shown, and has no number."""
    path = write_kind(tmp_path / "clip.mp4", Kind(codec, "mp4", 2))
    set_edits(path, EDITS[name])
    frames, index = decode(path), index_video(path)
    assert 0 < len(frames) < 24
    assert len(index.times) == len(frames)
    for number in range(len(frames)):
        assert np.array_equal(read_frames(path, index, [number])[0], frames[number])


@pytest.mark.parametrize(
    ("codec", "suffix"), [("h264-open", "mp4"), ("h264-open", "mkv"), ("hevc", "mp4"), ("hevc", "ts")]
)
@pytest.mark.parametrize("dropped", [6, 8])
def test_a_video_that_was_cut_between_key_frames(codec, suffix, dropped, tmp_path):
    """As stream copies are: the first pictures lean on what is gone, and a decoder leaves them out."""
    whole = write_kind(tmp_path / "whole.mp4", Kind(codec, "mp4", 2))
    path = str(tmp_path / f"cut.{suffix}")
    with av.open(whole) as source, av.open(path, "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.dts is not None and number >= dropped:
                packet.stream = stream
                target.mux(packet)
    frames, index = decode(path), index_video(path)
    assert len(index.times) == len(frames) < 24 - dropped + 1
    for number in range(len(frames)):
        assert np.array_equal(read_frames(path, index, [number])[0], frames[number])


def test_the_matrix_is_wide():
    assert len(MATRIX) >= 40
    assert len({(kind.codec, kind.suffix) for kind in MATRIX}) >= 30


def test_a_jump_is_taken_where_it_saves_work(tmp_path, monkeypatch):
    """Of a long video with many key frames little is decoded; what a jump gives is checked frame by frame."""
    kind = Kind("h264", "mp4", 2, num_frames=31)
    path = write_kind(tmp_path / "clip.mp4", kind)
    index, frames = index_video(path), decode(path)
    assert len(index.keyframes) == 6
    converted = []
    upright = Orientation.apply
    monkeypatch.setattr(Orientation, "apply", lambda own, frame: converted.append(1) or upright(own, frame))
    found = video._jump(path, index, [0, 13, 30])
    assert [np.array_equal(found[number], frames[number]) for number in (0, 13, 30)] == [True] * 3
    assert len(converted) == 3
    assert video._jump(path, index, list(range(31))) is None  # nothing is saved
    broken = replace(index, stamps=tuple(stamp + 1 for stamp in index.stamps))
    assert video._jump(path, broken, [30]) is None  # other frames than the index says
    with pytest.raises(ValueError, match="frame 0 is another one than its packets announce"):
        read_frames(path, broken, [30])


def test_draw_frame_is_readable():
    assert [number_of(draw_frame(number, (48, 64))) for number in range(32)] == list(range(32))
