"""Objects in photographs: RefCOCO, RefCOCO+ and RefCOCOg in their official layout."""

import io
import pickle
from pathlib import Path
from typing import Any

from datasets import Dataset

from ...errors import DataError
from ..json_values import Span, name_spans, scan_json
from ..schema import Row, as_dataset
from .expressions import build_row, require_split

INSTANCES_FILE = "instances.json"
# Whose splits of the references there are.
SPLITTERS = ("unc", "google", "umd")
_IMAGES = ("images/mscoco/images/train2014", "images/train2014", "train2014")
_ORDER = {"train": 0, "val": 1}


def list_splitters(root: str | Path) -> list[str]:
    """Those whose references a folder has, in files such as `refs(unc).p`; none where it is no such folder."""
    root = Path(root)
    if not (root / INSTANCES_FILE).is_file():
        return []
    return [name for name in SPLITTERS if _references_file(root, name).is_file()]


def list_refcoco_splits(root: str | Path, splitter: str) -> list[str]:
    """The splits that references are in: `train`, `val`, and `testA` and `testB`, or `test`."""
    found = {str(reference["split"]) for reference in _read_references(_references_file(Path(root), splitter))}
    return sorted(found, key=lambda name: (_ORDER.get(name, 2), name))


def load_refcoco(root: str | Path, splitter: str, split: str) -> Dataset:
    """
    Load a split of RefCOCO, RefCOCO+ (Yu et al., 2016) or RefCOCOg (Mao et al., 2016) without reading any image.

    The layout is that of the authors' API (github.com/lichengunc/refer): a folder `refcoco`, `refcoco+` or `refcocog`
    with `instances.json` and `refs(SPLITTER).p`, beside `images/mscoco/images/train2014` with COCO's photographs of
    2014. `instances.json` is gone through once; rows name the places of their outlines in it, which COCO's own code
    fills when they are read.

    Args:
        root (`str` or `Path`): the dataset's own folder.
        splitter (`str`): `"unc"` (RefCOCO and RefCOCO+), `"umd"` or `"google"` (RefCOCOg).
        split (`str`): such as `"train"`, `"val"`, `"testA"`.

    Returns:
        `Dataset`: one row per sentence, with the columns of `aurora_trl.data.schema`.

    Raises:
        `DataError`: names the file and the reference.
    """
    root = Path(root)
    if splitter not in SPLITTERS:
        raise DataError(f"unknown subset {splitter!r} of RefCOCO; use one of {', '.join(SPLITTERS)}")
    file, instances = _references_file(root, splitter), root / INSTANCES_FILE
    references = _read_references(file)
    known = sorted({str(reference["split"]) for reference in references}, key=lambda name: (_ORDER.get(name, 2), name))
    require_split(split, known, file, "references")
    wanted = [reference for reference in references if reference["split"] == split]
    images, outlines, classes = _find_instances(instances, wanted)
    places = [root.parent / name for name in _IMAGES]
    folder = next((path for path in places if path.is_dir()), places[0])
    rows: list[Row] = []
    for reference in wanted:
        place, where = reference["ann_id"], f"{file}, reference {reference['ref_id']}"
        if place not in outlines or reference["image_id"] not in images:
            raise DataError(f"{where}: {instances} has not its image and its annotation; both must be of one download")
        columns = {
            "frames": [f"{folder}/{images[reference['image_id']]}"],
            "masks": [name_spans(instances, outlines[place])],
            "class_name": classes.get(reference["category_id"]),
        }
        for number, sentence in enumerate(reference["sentences"]):
            row_id = f"{reference['ref_id']}_{sentence.get('sent_id', number)}"
            rows.append(build_row(row_id, split, sentence["sent"], **columns))
    return as_dataset(rows, file)


def _references_file(root: Path, splitter: str) -> Path:
    return root / f"refs({splitter}).p"


class _PlainUnpickler(pickle.Unpickler):
    """Lists, mappings, texts and numbers alone: a pickle that names anything else could run what it likes."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, and may hold lists and texts alone")


def _read_references(path: Path) -> list[dict[str, Any]]:
    """The references of a file that Python 2 has pickled."""
    keys = ("ref_id", "ann_id", "image_id", "category_id", "split", "sentences")
    try:
        # Its texts are bytes of the Latin alphabet.
        references = _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin-1").load()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; give the folder that holds it and {INSTANCES_FILE}") from None
    except Exception as error:  # of all kinds, for a file that is cut short
        raise DataError(f"{path}: can not be read as references ({error}); restore the official file") from None
    if not isinstance(references, list) or not references:
        raise DataError(f"{path}: it holds no list of references; restore the official file")
    for number, reference in enumerate(references):
        missing = next((key for key in keys if not isinstance(reference, dict) or key not in reference), None)
        if missing is not None:
            raise DataError(f"{path}, reference {number}: `{missing}` is missing; restore the official file")
        if not all(isinstance(sentence, dict) and "sent" in sentence for sentence in reference["sentences"]):
            raise DataError(f"{path}, reference {number}: a sentence has no `sent`; restore the official file")
    return references


def _find_instances(
    path: Path, references: list[dict[str, Any]]
) -> tuple[dict[int, str], dict[int, Span], dict[int, str]]:
    """The images' names, the places of the annotations and the classes that references need, by their numbers."""
    wanted_images = {reference["image_id"] for reference in references}
    wanted_annotations = {reference["ann_id"] for reference in references}
    images: dict[int, str] = {}
    outlines: dict[int, Span] = {}
    classes: dict[int, str] = {}

    def opens(keys: tuple[str | int, ...]) -> bool:
        return not keys or (len(keys) == 1 and keys[0] in ("images", "annotations", "categories"))

    for keys, value, span in scan_json(path, opens):
        if len(keys) != 2:
            continue
        try:
            if keys[0] == "categories":
                classes[value["id"]] = value["name"]
            elif keys[0] == "images" and value["id"] in wanted_images:
                images[value["id"]] = value["file_name"]
            elif keys[0] == "annotations" and value["id"] in wanted_annotations:
                if "segmentation" not in value:
                    raise KeyError("segmentation")
                outlines[value["id"]] = span
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{path}: entry {keys[1]} of `{keys[0]}` lacks a key ({error}); restore the file"
            ) from None
    return images, outlines, classes
