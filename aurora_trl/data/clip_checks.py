"""What is wrong with the rows of a clip: each of its files is looked at once, however many rows show it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from ..errors import DataError
from .folders import find_misplaced
from .hints import HINTS, box_around, box_iou, leaves_frame, marks_something, require_inside
from .json_values import names_values
from .mask_images import mask_values
from .mask_text import decode_rle, read_polygons
from .masks import load_masks, mask_shape, require_mask_count
from .media.checks import Fault, check_image, check_pixels, check_sound, check_track, check_video, group_frames
from .media.loading import split_moment
from .schema import REFERENCE_MEDIA, Row, check_row, split_mask

Value = TypeVar("Value")
Clip = list[tuple[int, dict[str, Any]]]
# Below it a box and the one around a mask are not of one object; of a frame, what a mask leaves out inside.
_LEAST_BOX_IOU, _LEAST_INSIDE = 0.3, 0.02
# Kinds of problems that are worth knowing of, and can be trained on.
_TOLD = (
    "empty mask",
    "mask values",
    "inverted mask",
    "outside",
    "contradiction",
    "order",
    "pixels",
    "silent sound",
    "short sound",
    "class",
)


@dataclass(frozen=True)
class Problem:
    """
    Something that is wrong with a dataset.

    Attributes:
        kind (`str`): `missing`, `cut short`, `unreadable`, `size`, `mask count`, `mask values`, `empty mask`,
            `inverted mask`, `outside`, `contradiction`, `order`, `pixels`, `empty sound`, `silent sound`,
            `short sound`, `duplicate id`, `class` or `row`.
        text (`str`): one line that names the file or the row and the way out.
        rows (`tuple[int, ...]`): the numbers of the rows that can not be used for it.
    """

    kind: str
    text: str
    rows: tuple[int, ...]

    @property
    def stops_training(self) -> bool:
        """Whether the rows can not be used; a silent clip is worth knowing of, and can be trained on."""
        return self.kind not in _TOLD


class ClipChecker:
    """
    Looks at the rows of one clip.

    Args:
        thorough (`bool`): decode every file; headers and ends of files are read otherwise.
        min_sound_seconds (`float`): a shorter sound is a problem.
    """

    def __init__(self, thorough: bool, min_sound_seconds: float):
        self.files = _FileLooks(thorough, min_sound_seconds)

    def check(self, clip: Clip) -> list[Problem]:
        """The problems of `(number, row)` pairs; one that several rows share comes once, with all of them."""
        found: dict[tuple[str, str], list[int]] = {}
        for number, row in clip:
            for fault in self._row_faults(row):
                found.setdefault((fault.kind, str(fault)), []).append(number)
        return [Problem(kind, text, tuple(numbers)) for (kind, text), numbers in found.items()]

    def _row_faults(self, row: Row) -> list[Fault]:
        try:
            check_row(row)
        except DataError as error:
            counts = [len(row[name]) for name in ("masks", "frames") if row.get(name)]
            return [Fault("mask count" if len(set(counts)) == 2 else "row", str(error))]
        try:
            images, moments = group_frames(row.get("frames") or [])
        except DataError as error:
            return [Fault("row", str(error))]
        looks = {path: self.files.once(("frame", path), partial(self.files.frame, path)) for path in images}
        if row.get("video"):
            moments[row["video"]] = ()
        for path, seconds in moments.items():
            looks[path] = self.files.once(("video", path, str(seconds)), partial(self.files.video, path, seconds))
        faults = [look for look in looks.values() if isinstance(look, Fault)]
        if row.get("audio"):
            faults += self._faults_of(("sound", row["audio"]), partial(self.files.sound, row["audio"]))
        elif row.get("video") and self.files.thorough and not faults:
            faults += self._faults_of(("track", row["video"]), partial(self.files.track, row["video"]))
        for column in REFERENCE_MEDIA:
            if row.get(column):
                faults += self._faults_of((column, row[column]), partial(self.files.reference, column, row[column]))
        named = [split_moment(name)[0] for name in row.get("frames") or [row["video"]]]
        sizes = {path: look for path in named if not isinstance(look := looks[path], Fault)}
        first_size = next(iter(sizes.values()), None)
        for path, size in sizes.items():
            if first_size is not None and size != first_size:
                shown = f"{_shown(size)} pixels, but the clip's first frame has {_shown(first_size)}"
                faults.append(Fault("size", f"{path}: {shown}"))
        if not faults and row.get("masks") and not row.get("is_null"):
            try:
                require_mask_count(row, len(row["masks"]))
            except DataError as error:
                faults.append(Fault("mask count", str(error)))
        if not faults and first_size is not None:
            faults += _hint_faults(row, first_size)
        faults += self._mask_faults(row, first_size)
        if not self.files.thorough:
            return faults
        for path in moments:
            if path in sizes:
                faults += self._faults_of(("pixels", path), partial(check_pixels, path))
        return [*faults, *_order_faults(row), *self._contradictions(row)]

    def _faults_of(self, key: tuple[str, ...], look: Callable[[], None]) -> list[Fault]:
        fault = self.files.once(key, look)
        return [fault] if isinstance(fault, Fault) else []

    def _contradictions(self, row: Row) -> list[Fault]:
        """What a row says twice, in two ways, of which one is taken."""
        faults = []
        if row.get("frames") and row.get("video"):
            text = (
                f"row {row['id']!r}: it has `frames` and `video`, and only its `frames` are shown; remove one of them"
            )
            faults.append(Fault("contradiction", f"{text}, or call the video `audio` where its sound is meant"))
        if row.get("is_null"):
            shown = [name for name in HINTS if marks_something(row, name)]
            masks = [name for name in row.get("masks") or () if name is not None]
            look = partial(self.files.any_drawn, {**row, "is_null": False})
            # Files that can not be read draw nothing: of such a row they are never read otherwise.
            if masks and self.files.once(("null masks", str(row.get("mask_value")), *masks), look) in (
                True,
                "inverted",
            ):
                shown.insert(0, "masks")
            for name in shown:
                text = f"row {row['id']!r}: `is_null` is true, and its `{name}` show something; remove one of the two"
                faults.append(Fault("contradiction", text))
        elif row.get("boxes") and any(row.get("masks") or ()):
            other = self.files.once(("boxes", row["id"]), partial(self.files.other_box, row))
            if isinstance(other, str):
                faults.append(Fault("contradiction", other))
        return faults

    def _mask_faults(self, row: Row, frame_size: tuple[int, int] | None) -> list[Fault]:
        if row.get("is_null"):
            return []
        faults: list[Fault] = []
        entries = [entry for entry in row.get("masks") or () if entry is not None]
        names = [name for entry in entries for name in split_mask(entry) or [entry] if name is not None]
        if not self.files.thorough:
            # Those in a JSON file were gone through when it was loaded: one of them shows the size.
            there = [name for name in names if names_values(name)]
            names = [name for name in names if not names_values(name)] + there[:1]
        for name in names:
            in_row = name.startswith("{") or names_values(name)
            size = self.files.once((name,), partial(self.files.mask_size, name, row, frame_size))
            if isinstance(size, Fault):
                faults.append(size)
            elif frame_size is not None and size != frame_size:
                where = f"row {row['id']!r}: a mask" if in_row else name
                faults.append(
                    Fault("size", f"{where}: {_shown(size)} pixels, but the clip's frames have {_shown(frame_size)}")
                )
        if faults or not entries or not self.files.thorough:
            return faults
        drawn = self.files.once(("masks", str(row.get("mask_value")), *names), partial(self.files.any_drawn, row))
        if isinstance(drawn, Fault):
            return [drawn]
        if row.get("mask_value") is None:
            for name in names:
                in_row = name.startswith("{") or names_values(name)
                values = [] if in_row else self.files.once(("values", name), partial(mask_values, name))
                if not isinstance(values, Fault) and len(values) > 1:
                    some = ", ".join(map(str, values[:5])) + (" …" if len(values) > 5 else "")
                    text = f"{name}: it holds several numbers ({some}), and all that are not 0 are drawn"
                    way_out = "set `mask_value` to the row's; where they are soft edges, save 0 and 255 alone"
                    return [Fault("mask values", f"{text}; where each is an object, {way_out}")]
        if frame_size is not None and any(_lies_outside(name, frame_size) for name in names):
            text = f"row {row['id']!r}: all outlines of a mask lie outside its frame of {_shown(frame_size)} pixels"
            return [Fault("outside", f"{text}; correct them, or give null where the frame is not annotated")]
        if not drawn and row.get("mask_value") is not None:
            text = f"row {row['id']!r}: no pixel of its masks is {row['mask_value']}, its `mask_value`"
            return [Fault("empty mask", text)]
        if not drawn:
            text = f"row {row['id']!r}: all its masks are empty; set `is_null` if the reference matches nothing"
            return [Fault("empty mask", text)]
        if drawn == "inverted":
            text = f"row {row['id']!r}: its masks draw what lies around something, up to the edges of the frame"
            return [Fault("inverted mask", f"{text}; where that is the object, invert them: 0 is background")]
        return []


def _hint_faults(row: Row, frame_size: tuple[int, int]) -> list[Fault]:
    """Boxes and points come one entry per frame, and lie in it."""
    try:
        for name in HINTS:
            if row.get(name):
                require_mask_count(row, len(row[name]), name)
        require_inside(row, (frame_size[1], frame_size[0]))
    except DataError as error:
        return [Fault("row", str(error))]
    box = leaves_frame(row, (frame_size[1], frame_size[0]))
    if box is not None:
        text = f"row {row['id']!r}: the box {box} goes beyond its frame of {_shown(frame_size)} pixels"
        return [Fault("outside", f"{text}; boxes are [x1, y1, x2, y2] in pixels, and not of width and height")]
    return []


def _order_faults(row: Row) -> list[Fault]:
    """Files that stand in the order of their names as text, where 10 comes before 2."""
    masks = () if row.get("is_null") else row.get("masks") or ()
    lists: dict[str, Sequence[str | None]] = {"frames": row.get("frames") or (), "masks": masks}
    files = {
        name: [path for path in paths if path is not None and not path.startswith(("{", "["))]
        for name, paths in lists.items()
    }
    wrong = [name for name, paths in files.items() if find_misplaced(paths) is not None]
    if not wrong:
        return []
    text = f"row {row['id']!r}: its {' and '.join(wrong)} are in the order of their names as text, 10 before 2"
    return [
        Fault("order", f"{text}; put them in the order of their numbers, in which frames and masks belong together")
    ]


class _FileLooks:
    """Looks at each file of a clip once; what is wrong with it is raised as its `Fault`."""

    def __init__(self, thorough: bool, min_sound_seconds: float):
        self.thorough = thorough
        self.min_sound_seconds = min_sound_seconds
        self._seen: dict[tuple[str, ...], Any] = {}

    def once(self, key: tuple[str, ...], look: Callable[[], Value]) -> Value | Fault:
        """What a look at a file finds, or its fault; the file is looked at once."""
        if key not in self._seen:
            try:
                self._seen[key] = look()
            except Fault as fault:
                self._seen[key] = fault
        return self._seen[key]

    def frame(self, path: str) -> tuple[int, int]:
        return check_image(path, "frame", decode=self.thorough)

    def video(self, path: str, seconds: tuple[float, ...]) -> tuple[int, int]:
        return check_video(path, moments=seconds, decode=self.thorough)

    def sound(self, path: str) -> None:
        check_sound(path, decode=self.thorough, min_seconds=self.min_sound_seconds)

    def reference(self, column: str, path: str) -> None:
        if column == "reference_image":
            check_image(path, "picture", decode=self.thorough)
        else:
            check_sound(path, decode=self.thorough, min_seconds=0.0)

    def track(self, path: str) -> None:
        check_track(path, min_seconds=self.min_sound_seconds)

    @staticmethod
    def any_drawn(row: Row) -> bool | str:
        """Whether a row's masks draw anything; `"inverted"` where that looks like the background of something."""
        try:
            masks = [mask for mask in load_masks(row) if mask.any()]
        except DataError as error:
            raise Fault("unreadable", str(error)) from None
        return "inverted" if masks and all(map(_surrounds, masks)) else bool(masks)

    @staticmethod
    def other_box(row: Row) -> str | None:
        """What is wrong with the first box that is far from the one around its frame's mask."""
        marked = [i for i, (box, mask) in enumerate(zip(row["boxes"], row["masks"], strict=False)) if box and mask]
        try:
            masks = list(load_masks(row, marked)) if marked else []
        except DataError:  # which is said elsewhere
            return None
        for number, mask in zip(marked, masks, strict=True):
            box, own = row["boxes"][number], box_around(mask)
            if own is not None and box_iou(box, own) < _LEAST_BOX_IOU:
                text = (
                    f"row {row['id']!r}: the box {box} of frame {number} is not around its mask, which lies in {own}"
                )
                return f"{text}; boxes are [x1, y1, x2, y2] in pixels, and not of width and height"
        return None

    def mask_size(self, name: str, row: Row, frame_size: tuple[int, int] | None) -> tuple[int, int]:
        if not name.startswith("{") and not names_values(name):
            return check_image(name, "mask")  # they are decoded all together
        try:
            if names_values(name):
                height, width = mask_shape(name, row)
                return width, height
            if '"polygons"' in name:
                read_polygons(name)
                return frame_size or (0, 0)
            height, width = decode_rle(name).shape
            return width, height
        except DataError as error:
            raise Fault("unreadable", f"row {row['id']!r}: {error}") from None


def _lies_outside(mask: str, frame_size: tuple[int, int]) -> bool:
    """Whether a mask has outlines, and each is left of, right of, above or below the frame of that width, height."""
    outlines = read_polygons(mask)[0] if '"polygons"' in mask else []
    return bool(outlines) and all(
        any(max(places) < 0 or min(places) >= side for places, side in zip((o[::2], o[1::2]), frame_size, strict=True))
        for o in outlines
    )


def _surrounds(mask: np.ndarray) -> bool:
    """Whether a mask draws all edges of its frame, and leaves out more than a little inside."""
    edges = mask[0].all() and mask[-1].all() and mask[:, 0].all() and mask[:, -1].all()
    return bool(edges) and bool(mask.mean() < 1 - _LEAST_INSIDE)


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
