"""Datasets of objects in videos and photographs, which a command that exports them reads as training would."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from kinds import Kind, Place, cut, edit
from PIL import Image
from video_layouts import (
    rle,
    write_mevis,
    write_omniavs,
    write_r2avsbench,
    write_refcoco,
    write_refdavis,
    write_refytvos,
    write_revos,
)


def folder(
    name: str, write: Callable[[Path], Path], spoil: Callable[[Path], object], *named: str, flags: tuple[str, ...] = ()
) -> Kind:
    """An official layout of which something is broken."""

    def command(place: Place) -> list[str]:
        root = write(place.root / "data")
        spoil(root)
        return ["export", str(root), "--output", str(place.root / "exported"), *flags]

    return Kind(name, command, named)


def change(path: str, key: str, value: object) -> Callable[[Path], object]:
    """Change a key of a JSON file; `__` reaches a key inside a key."""
    return lambda root: edit(root / path, **{key: value})


def lines(path: str, editing: Callable[[list[str]], list[str]], encoding: str = "utf-8") -> Callable[[Path], object]:
    """Change the lines of a text."""

    def spoil(root: Path) -> None:
        file = root / path
        file.write_text("\n".join(editing(file.read_text(encoding=encoding).splitlines())) + "\n", encoding=encoding)

    return spoil


def entry(number: int, **values: object) -> Callable[[list[str]], list[str]]:
    """Change a line of JSON."""

    def editing(text: list[str]) -> list[str]:
        content: dict[str, Any] = {**json.loads(text[number]), **values}
        text[number] = json.dumps({key: value for key, value in content.items() if value is not ...})
        return text

    return editing


def references(root: Path, content: object) -> None:
    (root / "refs(unc).p").write_bytes(pickle.dumps(content))


def references_that_run(place: Place) -> list[str]:
    """A pickle that leaves a file behind when it is read."""
    root = write_refcoco(place.root / "data")
    (root / "refs(unc).p").write_bytes(place.pickled())
    return ["export", str(root), "--output", str(place.root / "exported")]


def without_frames(root: Path) -> None:
    for file in (root / "DAVIS/JPEGImages/480p/dogs-jump").iterdir():
        file.unlink()


def write_small(path: Path) -> None:
    Image.new("RGB", (7, 9)).save(path)


def instances(editing: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def spoil(root: Path) -> None:
        content = json.loads((root / "instances.json").read_text())
        editing(content)
        (root / "instances.json").write_text(json.dumps(content))

    return spoil


MEVIS, YTVOS = "train/meta_expressions.json", "meta_expressions/train/meta_expressions.json"
BIRD, FIRST = "videos__2d9abb29a1e5", "videos__2d9abb29a1e5__expressions__0"
REVOS, TEXTS = "meta_expressions_valid_.json", "davis_text_annotations/Davis17_annot1.txt"
TRAIN = ("--splits", "train")
VALID = ("--splits", "valid")

KINDS = [
    # Ref-YouTube-VOS and Ref-DAVIS17
    folder(
        "expressions cut short", write_refytvos, lambda r: cut(r / YTVOS), "meta_expressions.json", "not valid JSON"
    ),
    folder("expressions without videos", write_refytvos, change(YTVOS, "videos", ...), "no mapping `videos`"),
    folder(
        "a number of an object that is a text",
        write_refytvos,
        change(YTVOS, "videos__003234408d__expressions__1__obj_id", "x"),
        "video '003234408d', expression '1'",
        "`obj_id`",
    ),
    folder(
        "classes of no objects",
        write_refytvos,
        change("train/meta.json", "videos__003234408d__objects", ...),
        "meta.json",
        "`objects`",
        flags=TRAIN,
    ),
    folder(
        "a mask of a video that is gone",
        write_refytvos,
        lambda r: (r / "train/Annotations/003234408d/00005.png").unlink(),
        "00005.png: no such mask",
        flags=TRAIN,
    ),
    folder(
        "a text about a video without its quotes",
        write_refdavis,
        lines(TEXTS, lambda t: ["dogs-jump one"]),
        "Davis17_annot1.txt, line 1",
    ),
    folder(
        "a text about a video in another encoding",
        write_refdavis,
        lambda r: (r / TEXTS).write_bytes(b"dogs-jump 1 caf\xe9\n"),
        "Davis17_annot1.txt",
        "utf-8",
    ),
    folder(
        "a list of videos that is gone",
        write_refdavis,
        lambda r: (r / "DAVIS/ImageSets/2017/val.txt").unlink(),
        "val.txt",
        "No such file",
    ),
    folder("a video of a list without frames", write_refdavis, without_frames, "dogs-jump: no frames"),
    folder(
        "a split that DAVIS has not",
        write_refdavis,
        lambda r: None,
        "no split 'test'",
        "train, val",
        flags=("--splits", "test"),
    ),
    # MeViS and ReVOS
    folder(
        "masks of videos cut short",
        write_mevis,
        lambda r: cut(r / "train/mask_dict.json"),
        "mask_dict.json",
        "not valid JSON",
    ),
    folder(
        "masks of videos that are a list",
        write_mevis,
        lambda r: (r / "train/mask_dict.json").write_text("[1, 2]"),
        "mask_dict.json",
        "run lengths for each annotation",
    ),
    folder(
        "an annotation that is not there",
        write_mevis,
        change(MEVIS, f"{FIRST}__anno_id", [9]),
        "expression '0'",
        "no annotation 9",
    ),
    folder(
        "an expression without annotations",
        write_mevis,
        change(MEVIS, f"{FIRST}__anno_id", ...),
        "expression '0'",
        "`anno_id` is missing",
    ),
    folder("an expression without a text", write_mevis, change(MEVIS, f"{FIRST}__exp", 7), "expression '0'", "`exp`"),
    folder(
        "a video without frames", write_mevis, change(MEVIS, f"{BIRD}__frames", []), "video '2d9abb29a1e5'", "`frames`"
    ),
    folder(
        "run lengths that are damaged",
        write_mevis,
        change("train/mask_dict.json", "1", [{"size": [24, 32]}] * 3),
        "2d9abb29a1e5_0",
        "run-length",
        flags=TRAIN,
    ),
    folder(
        "run lengths of another size",
        write_mevis,
        change("train/mask_dict.json", "1", [rle(np.ones((4, 4)))] * 3),
        "4x4",
        flags=TRAIN,
    ),
    folder(
        "a frame of a video of another size",
        write_mevis,
        lambda r: write_small(r / "train/JPEGImages/2d9abb29a1e5/00005.jpg"),
        "00005.jpg",
        "pixels",
        flags=TRAIN,
    ),
    folder(
        "a type that ReVOS has not",
        write_revos,
        change(REVOS, "videos__MOSE/birds__expressions__0__type_id", 5),
        "expression '0'",
        "`type_id` 5",
        flags=VALID,
    ),
    folder(
        "no masks of ReVOS", write_revos, lambda r: (r / "mask_dict.json").unlink(), "mask_dict.json", "No such file"
    ),
    folder(
        "a foreground of other videos",
        write_revos,
        change("mask_dict_foreground.json", "MOSE/birds", ...),
        "mask_dict_foreground.json",
        "'MOSE/birds'",
        flags=VALID,
    ),
    folder(
        "objects apart where there are none",
        write_refytvos,
        lambda r: None,
        "refytvos",
        "`apart`",
        flags=("--objects", "apart"),
    ),
    # RefCOCO
    Kind("references that run code", references_that_run, ("refs(unc).p", "lists and texts alone")),
    folder("references cut short", write_refcoco, lambda r: cut(r / "refs(unc).p"), "refs(unc).p", "can not be read"),
    folder(
        "references that are a mapping",
        write_refcoco,
        lambda r: references(r, {"ref_id": 1}),
        "refs(unc).p",
        "no list",
    ),
    folder(
        "a reference without a sentence",
        write_refcoco,
        lambda r: references(r, [{"ref_id": 1}]),
        "refs(unc).p, reference 0",
        "`ann_id`",
    ),
    folder(
        "instances cut short", write_refcoco, lambda r: cut(r / "instances.json"), "instances.json", "not valid JSON"
    ),
    folder(
        "instances of other references",
        write_refcoco,
        instances(lambda c: c["annotations"].clear()),
        "reference 0",
        "instances.json",
    ),
    folder(
        "an instance without an outline",
        write_refcoco,
        instances(lambda c: c["annotations"][0].pop("segmentation")),
        "entry 0 of `annotations`",
        "segmentation",
    ),
    folder(
        "an outline of two corners",
        write_refcoco,
        instances(lambda c: [a.update(segmentation=[[1, 1, 2, 2]]) for a in c["annotations"]]),
        "three or more pairs",
    ),
    folder(
        "a splitter that RefCOCO has not",
        write_refcoco,
        lambda r: None,
        "it does not look like s4",
        "refcoco unc",
        flags=("--subset", "s4"),
    ),
    # OmniAVS and R2-AVSBench
    folder(
        "a reference without its type",
        write_omniavs,
        lines("meta_expressions_train.jsonl", entry(1, expr_type=...)),
        "meta_expressions_train.jsonl, line 2",
        "`expr_type`",
    ),
    folder(
        "a type that OmniAVS has not",
        write_omniavs,
        lines("meta_expressions_train.jsonl", entry(1, expr_type="smell")),
        "line 2",
        "'smell'",
    ),
    folder(
        "a video that OmniAVS has not",
        write_omniavs,
        lines("meta_expressions_train.jsonl", entry(0, video_name="attic")),
        "line 1",
        "no video 'attic'",
    ),
    folder(
        "an object that OmniAVS has not",
        write_omniavs,
        lines("meta_expressions_train.jsonl", entry(0, obj_id=[8])),
        "line 1",
        "no object 8",
    ),
    folder(
        "a line of OmniAVS cut short",
        write_omniavs,
        lines("meta_expressions_train.jsonl", lambda t: [*t[:2], t[2][:20]]),
        "line 3",
        "not valid JSON",
    ),
    folder(
        "videos of OmniAVS cut short",
        write_omniavs,
        lambda r: cut(r / "video_dict.json"),
        "video_dict.json",
        "not valid JSON",
    ),
    folder(
        "a spoken reference that is gone",
        write_omniavs,
        lambda r: (r / "referrings/referring_speeches/say.mp3").unlink(),
        "say.mp3: no such",
    ),
    folder(
        "a picture of a reference that is none",
        write_omniavs,
        lambda r: (r / "referrings/referring_images/dog.jpg").write_text("x"),
        "dog.jpg: can not be read",
    ),
    folder(
        "a table of R2-AVSBench without a column",
        write_r2avsbench,
        lines("R2AVSBench_metadata.csv", lambda t: [line.rsplit(",", 1)[0] for line in t]),
        "R2AVSBench_metadata.csv",
        "no column `split`",
        flags=("--format", "r2avsbench", "--splits", "test_s"),
    ),
]
