"""Objects in videos whose masks are PNG files: Ref-YouTube-VOS and Ref-DAVIS17 in their official layouts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset

from ...errors import DataError
from ...text_files import read_json
from ..folders import visible_files
from ..schema import Row, as_dataset
from .expressions import EXPRESSIONS_FILE, FramePaths, build_row, read_expressions, require_split

EXPRESSIONS_FOLDER = "meta_expressions"
DAVIS_SPLITS = ("train", "val")
DAVIS_TEXTS = "davis_text_annotations"
# Two annotators have each described every object twice: by the first frame, and by the whole video.
_DAVIS_FILES = {
    "annot1": ("Davis17_annot1.txt", "utf-8"),
    "annot1_full_video": ("Davis17_annot1_full_video.txt", "utf-8"),
    "annot2": ("Davis17_annot2.txt", "latin-1"),
    "annot2_full_video": ("Davis17_annot2_full_video.txt", "latin-1"),
}
# Names that the texts and the videos spell differently.
_DAVIS_NAMES = {"clasic-car": "classic-car", "dog-scale": "dogs-scale", "motor-bike": "motorbike"}


def list_refytvos_splits(root: str | Path) -> list[str]:
    """The splits of a folder of Ref-YouTube-VOS that have references; none where it is no such folder."""
    order = {"train": 0, "valid": 1}
    found = [path.parent.name for path in Path(root, EXPRESSIONS_FOLDER).glob(f"*/{EXPRESSIONS_FILE}")]
    return sorted(found, key=lambda name: (order.get(name, 2), name))


def load_refytvos(root: str | Path, split: str) -> Dataset:
    """
    Load a split of Ref-YouTube-VOS (Seo et al., 2020) without reading any media.

    The layout is that of its competition, which others use for Ref-DAVIS17, too (ReferFormer, Wu et al., 2022):
    `meta_expressions/SPLIT/meta_expressions.json`, `SPLIT/JPEGImages/VIDEO/FRAME.jpg`,
    `SPLIT/Annotations/VIDEO/FRAME.png` with the number of an object at each of its pixels, and classes in
    `SPLIT/meta.json`. The competition keeps the masks of `valid` and `test` to itself: those rows have none.

    Args:
        root (`str` or `Path`): the folder.
        split (`str`): `"train"`, `"valid"` or `"test"`, those that are there.

    Returns:
        `Dataset`: one row per reference, with the columns of `aurora_trl.data.schema` and `mask_value`.

    Raises:
        `DataError`: names the file, the video and the reference.
    """
    root = Path(root)
    require_split(split, list_refytvos_splits(root), root, f"{EXPRESSIONS_FOLDER}/SPLIT/{EXPRESSIONS_FILE}")
    table, folder = root / EXPRESSIONS_FOLDER / split / EXPRESSIONS_FILE, root / split
    frames, masks = FramePaths(folder / "JPEGImages", ".jpg"), FramePaths(folder / "Annotations", ".png")
    annotated = (folder / "Annotations").is_dir()
    classes = _read_classes(folder / "meta.json")
    rows = []
    for expression in read_expressions(table):
        columns: dict[str, Any] = {"mask_value": None}
        if annotated and "obj_id" in expression.values:
            number = expression.numbers("obj_id")[0]
            columns = {"mask_value": number, "masks": masks.of(expression)}
            columns["class_name"] = classes.get(expression.video, {}).get(str(number))
        name = f"{expression.video}_{expression.name}"
        rows.append(build_row(name, split, expression.text, frames=frames.of(expression), **columns))
    if not rows:
        raise DataError(f"{table}: it holds no references")
    return as_dataset(rows, table)


def _read_classes(path: Path) -> dict[str, dict[str, str]]:
    """The class of each object of each video; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        return {
            video: {number: thing["category"] for number, thing in content["objects"].items()}
            for video, content in read_json(path)["videos"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not videos with `objects` of a `category` each ({error!r})") from None


def load_refdavis(root: str | Path, split: str) -> Dataset:
    """
    Load a split of Ref-DAVIS17 (Khoreva et al., 2018) without reading any media.

    The layout is that of the downloads, side by side: `davis_text_annotations/Davis17_annot1.txt` and its three
    sisters, and `DAVIS` with `ImageSets/2017/SPLIT.txt`, `JPEGImages/480p`, `Annotations_unsupervised/480p` and, for
    the classes, `davis_semantics.json`. [`load_refytvos`] loads the folders that others have converted them to.

    Args:
        root (`str` or `Path`): the folder.
        split (`str`): `"train"` or `"val"`.

    Returns:
        `Dataset`: one row per reference, with the columns of `aurora_trl.data.schema` and `mask_value`.
            `reference_kind` says which of the four texts it is from: the published score is the mean over them.

    Raises:
        `DataError`: names the file and the line.
    """
    root = Path(root)
    require_split(split, list(DAVIS_SPLITS), root, "such table")
    davis = root / "DAVIS"
    table = davis / "ImageSets" / "2017" / f"{split}.txt"
    videos = {line.strip() for _, line in _read_lines(table, "utf-8")}
    semantics = davis / "davis_semantics.json"
    classes = read_json(semantics) if semantics.is_file() else {}
    listed: dict[str, list[str]] = {}
    rows: list[Row] = []
    for kind, (name, encoding) in _DAVIS_FILES.items():
        for where, line in _read_lines(root / DAVIS_TEXTS / name, encoding):
            video, number, text = _split_line(where, line)
            if video not in videos:
                continue
            if video not in listed:
                listed[video] = _list_frames(davis / "JPEGImages" / "480p" / video)
            frames, masks = (
                [f"{davis}/{folder}/480p/{video}/{frame}{suffix}" for frame in listed[video]]
                for folder, suffix in (("JPEGImages", ".jpg"), ("Annotations_unsupervised", ".png"))
            )
            columns = {"frames": frames, "masks": masks, "mask_value": number, "reference_kind": kind}
            thing = classes.get(video)
            columns["class_name"] = thing.get(str(number)) if isinstance(thing, dict) else None
            rows.append(build_row(f"{video}_{number}_{kind}", split, text, **columns))
    if not rows:
        raise DataError(f"{root / DAVIS_TEXTS}: no reference to a video of {table}")
    return as_dataset(rows, root)


def _read_lines(path: Path, encoding: str) -> Iterator[tuple[str, str]]:
    """Each line that is not empty, with its place."""
    try:
        text = path.read_text(encoding=encoding)
    except OSError as error:
        raise DataError(f"{path}: can not be read: {error.strerror}; restore the official file") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not text in {encoding}; restore the official file") from None
    yield from ((f"{path}, line {n}", line.strip()) for n, line in enumerate(text.splitlines(), 1) if line.strip())


def _split_line(where: str, line: str) -> tuple[str, int, str]:
    """`dog 1 "a black dog"` as video, number and text."""
    parts = line.split(maxsplit=2)
    if len(parts) < 3 or not parts[1].isdecimal():
        raise DataError(f"{where}: not a video, the number of an object and a text in quotes")
    return _DAVIS_NAMES.get(parts[0], parts[0]), int(parts[1]), parts[2].strip().strip('"').strip()


def _list_frames(folder: Path) -> list[str]:
    frames = sorted(path.stem for path in visible_files(folder, "*.jpg"))
    if not frames:
        raise DataError(f"{folder}: no frames; restore the folder from the download of DAVIS 2017")
    return frames
