"""Masks over frames, and the picture of a clip."""

import numpy as np
import pytest

from aurora_trl.generation.overlay import MASK_COLORS, TINT, overlay_masks
from aurora_trl.generation.picture import draw_clip

GREY = 90


def grey_frames(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((count, height, width, 3), GREY, np.uint8)


def square(count: int, left: int, height: int = 48, width: int = 64) -> np.ndarray:
    masks = np.zeros((count, height, width), np.uint8)
    masks[:, 12:36, left : left + 24] = 1
    return masks


def tint(color: tuple[int, int, int]) -> list[int]:
    """By hand: what is left of the grey, and the colour's share."""
    return [round((1 - TINT) * GREY + TINT * channel) for channel in color]


def test_the_tint_leaves_the_object_visible():
    """Two greys in one mask differ by what is left of their difference."""
    frame = grey_frames(1)[0]
    frame[:, 32:] = 190
    drawn = overlay_masks(frame, square(1, 20)[0])
    assert drawn[24, 26].tolist() == tint(MASK_COLORS[0])
    assert np.abs((drawn[24, 38].astype(int) - drawn[24, 26]) - (1 - TINT) * 100).max() <= 1
    assert (drawn[2, 2] == GREY).all()
    assert drawn[24, 20].tolist() != drawn[24, 26].tolist()  # the contour


def test_the_truth_is_a_white_line_with_nothing_inside():
    drawn = overlay_masks(grey_frames(1)[0], np.zeros((48, 64), np.uint8), square(1, 20)[0], size=(192, 256))
    assert (drawn[96, 128] == GREY).all()
    edge = drawn[96, 70:90].astype(int)
    assert edge.max() > 200
    assert edge.min() < 60  # a dark line on both sides: it is seen on white, too
    assert (edge.max(axis=1) - edge.min(axis=1)).max() <= 1  # it has no hue


def test_what_nobody_annotated_has_no_line():
    frame, nothing = grey_frames(1)[0], np.zeros((48, 64), np.uint8)
    assert np.array_equal(overlay_masks(frame, nothing, np.full((48, 64), 255, np.uint8)), frame)
    assert np.array_equal(overlay_masks(frame, nothing), frame)


def test_the_first_object_lies_on_top():
    objects = np.stack([square(1, 10)[0], square(1, 24)[0]])
    drawn = overlay_masks(grey_frames(1)[0], objects)
    assert drawn[24, 14].tolist() == tint(MASK_COLORS[0])
    assert drawn[24, 29].tolist() == tint(MASK_COLORS[0])  # both
    assert drawn[24, 43].tolist() == tint(MASK_COLORS[1])


def test_a_frame_is_drawn_at_another_size():
    drawn = overlay_masks(grey_frames(1)[0], square(1, 20)[0], size=(96, 128))
    assert drawn.shape == (96, 128, 3)
    assert drawn[48, 60].tolist() == tint(MASK_COLORS[0])


def test_colors_differ_in_lightness_or_hue_for_the_color_blind():
    """Of those that stand beside each other none are close, seen without red or without green cones (Viénot 1999)."""
    protan = np.array([[0.11, 0.89, 0.0], [0.11, 0.89, 0.0], [0.004, -0.004, 1.0]])
    deutan = np.array([[0.29, 0.71, 0.0], [0.29, 0.71, 0.0], [-0.02, 0.02, 1.0]])
    colors = (np.array(MASK_COLORS[:4]) / 255) ** 2.2
    for seen in (colors @ protan.T, colors @ deutan.T):
        seen = seen.clip(0, 1) ** (1 / 2.2)
        distances = np.abs(seen[:, None] - seen[None]).sum(axis=2) + 9 * np.eye(len(seen))
        assert distances.min() > 0.15


def test_a_clip_has_two_rows_and_its_sound_below():
    frames = grey_frames(10, 90, 160)
    wave = np.zeros(16_000 * 10, np.float32)
    wave[16_000 * 5 :] = 0.5
    picture = np.asarray(
        draw_clip(frames, square(10, 20, 90, 160), seconds=list(range(10)), waveform=wave, title="the drum")
    ).astype(int)
    assert picture.shape[1] == 1000
    hue = (picture[:, 600, 0] - picture[:, 600, 2]) > 30
    assert not hue[: len(hue) // 4].any()  # the upper row is the frames as they are
    tinted = (picture[..., 0] - picture[..., 2] > 60).any(axis=1)
    assert tinted.any()
    # The second half is loud: there the strip's ink stands high, in the first half it is a line.
    ink = (picture == 110).all(axis=2)
    assert ink[:, 300].sum() <= 3
    assert ink[:, 800].sum() > 20
    # No empty margin on any side but the band of the last line's height.
    filled = (picture != 255).any(axis=2)
    rows, columns = np.flatnonzero(filled.any(axis=1)), np.flatnonzero(filled.any(axis=0))
    assert rows[0] < 12
    assert columns[0] < 12
    assert columns[-1] >= 994
    assert rows[-1] >= len(picture) - 20


@pytest.mark.parametrize("size", [(90, 160), (160, 90), (64, 64)])
@pytest.mark.parametrize("count", [1, 2, 5, 30])
def test_any_clip_fits(size, count):
    picture = draw_clip(grey_frames(count, *size), square(count, 20, *size), numbers=list(range(count)), width=600)
    assert picture.width == 600
    assert 60 < picture.height < 1000
    alone = draw_clip(grey_frames(count, *size), width=600)
    assert count == 1 or alone.height < picture.height


def test_a_long_text_is_wrapped_and_a_long_word_broken():
    frames = grey_frames(2)
    short = draw_clip(frames, text="one line", width=500)
    long = draw_clip(frames, text="word " * 100 + "x" * 400, width=500)
    assert long.height > short.height + 10 * 12


def test_what_does_not_belong_together_is_named():
    with pytest.raises(ValueError, match="`masks` must be one per frame"):
        draw_clip(grey_frames(3), square(2, 5))
    with pytest.raises(ValueError, match="`targets` must be one per frame"):
        draw_clip(grey_frames(3), square(3, 5), square(2, 5))
    with pytest.raises(ValueError, match="at least 1"):
        draw_clip(grey_frames(0))
