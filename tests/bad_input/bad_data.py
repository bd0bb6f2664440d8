"""Media, masks and rows, which a command that exports a dataset reads as training would; and datasets' folders."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from kinds import Kind, Place, cut
from PIL import Image

from aurora_trl.data import load_json, save_parquet


def export(place: Place, data: Path | str, *flags: str) -> list[str]:
    return ["export", str(data), "--output", str(place.root / "exported"), *flags]


def row(name: str, change: dict[str, object], *named: str, **both: object) -> Kind:
    """Two rows, the second of which has something else; `...` leaves a key out."""
    return Kind(name, lambda place: export(place, place.rows({}, change, **both)), named)


def file(name: str, path: str, spoil: Callable[[Path], object], *named: str) -> Kind:
    """Two whole rows, a file of which is broken."""

    def command(place: Place) -> list[str]:
        rows = place.rows()
        spoil(place.root / path)
        return export(place, rows)

    return Kind(name, command, (Path(path).name, *named))


def lines(name: str, content: str | bytes, *named: str) -> Kind:
    return Kind(name, lambda place: export(place, place.write("rows.jsonl", content)), ("rows.jsonl", *named))


def world(name: str, spoil: Callable[[Path], object], *named: str, flags: tuple[str, ...] = ()) -> Kind:
    """A Ref-AVS folder of which something is broken."""

    def command(place: Place) -> list[str]:
        root = Path(shutil.copytree(place.world, place.root / "world", symlinks=True))
        spoil(root)
        return export(place, root, *flags)

    return Kind(name, command, named)


def retable(change: Callable[[list[str]], list[str]]) -> Callable[[Path], object]:
    """Change the lines of a world's table."""

    def spoil(root: Path) -> None:
        table = root / "metadata.csv"
        table.write_text("\n".join(change(table.read_text().splitlines())) + "\n")

    return spoil


def in_size(width: int, height: int) -> Callable[[Path], object]:
    return lambda path: Image.fromarray(np.zeros((height, width), np.uint8)).save(path)


def silence(path: Path) -> None:
    soundfile.write(path, np.zeros(32000, np.float32), 16000)


def annotate_world(change: dict[str, object] | None, *named: str) -> Callable[[Place], list[str]]:
    """A world's truth, of which a key is gone, or the file is cut short."""

    def command(place: Place) -> list[str]:
        truth = json.loads((place.world / "world.json").read_text())
        content = json.dumps({key: value for key, value in truth.items() if change is None or key not in change})
        path = place.write("world/world.json", content[: len(content) // 2] if change is None else content)
        words = ["annotate", str(place.rows()), "--annotator", f"synthetic:{path.parent}"]
        return [*words, "--output", str(place.root / "cot.jsonl")]

    return command


def s4_of_two(place: Place) -> list[str]:
    return export(place, place.write("s4_meta_data.csv", "name,split\na,train\n").parent)


def exported(place: Place, part: str) -> list[str]:
    """A dataset in Parquet, a file of which is a text."""
    rows = load_json(place.rows())
    folder = save_parquet({"train": rows}, place.root / "parquets")
    next((folder / part).glob("*.parquet")).write_text("no table")
    return export(place, folder)


GONE = Path.unlink
ROWS = '{"id": "a", "reference": "the drum", "is_null": true, "frames": ["0.jpg"]}'

KINDS = [
    # Media
    file("a frame that is gone", "clip_1/0.jpg", GONE, "no such frame"),
    file("a frame cut short", "clip_1/0.jpg", cut, "cut short"),
    file("a frame that is a text", "clip_1/0.jpg", lambda p: p.write_text("x"), "can not be read"),
    file("a frame of no bytes", "clip_1/0.jpg", lambda p: p.write_bytes(b""), "can not be read"),
    file("a frame of another size", "clip_1/1.jpg", in_size(20, 20), "20x20"),
    file("a sound that is gone", "clip_1/sound.wav", GONE, "no such"),
    file("a sound cut short", "clip_1/sound.wav", cut, "cut short"),
    file("a sound that is a text", "clip_1/sound.wav", lambda p: p.write_text("x"), "can not be read"),
    row("a video that is gone", {"frames": ..., "masks": ..., "is_null": True, "video": "no.mp4"}, "no.mp4"),
    row("a moment of no video", {"frames": ["no.mp4#t=1.5"], "masks": ..., "is_null": True}, "no.mp4"),
    # Masks
    file("a mask that is gone", "clip_1/0.png", GONE, "no such mask"),
    file("a mask cut short", "clip_1/0.png", cut, "cut short"),
    file("a mask of another size", "clip_1/1.png", in_size(20, 20), "20x20"),
    row("fewer masks than frames", {"masks": ["clip_1/0.png"]}, "row_1", "1 masks for 3 frames"),
    row("a run length of nothing", {"masks": [{"size": [48, 48]}] * 3}, "row_1"),
    row("a run length of another size", {"masks": [{"size": [4, 4], "counts": "52203"}] * 3}, "row_1"),
    row("a polygon of two corners", {"masks": [{"polygons": [[1, 1, 2, 2]]}] * 3}, "row_1"),
    row("a mask that is a number", {"masks": [7, 7, 7]}, "line 2", "`masks` holds 7"),
    # Rows
    row("no reference", {"reference": ...}, "line 2", "`reference` is missing"),
    row("a reference of spaces", {"reference": "  "}, "row_1", "the reference is empty"),
    row("a reference that is a number", {"reference": 7}, "line 2", "`reference` is int"),
    row("no id", {"id": ...}, "line 2", "`id` is missing"),
    row("neither frames nor video", {"frames": ..., "masks": ..., "is_null": True}, "row_1", "neither"),
    row("frames that are a text", {"frames": "0.jpg"}, "line 2", "`frames` is str"),
    row("a frame that is a number", {"frames": [1, 2, 3]}, "line 2", "`frames` holds 1"),
    row("a class that is a list", {"class_name": ["drum"]}, "line 2", "`class_name` is list"),
    row("a number of objects that is a yes", {"num_objects": True}, "line 2", "`num_objects` is bool"),
    row("more objects than a number holds", {"num_objects": 10**30}, "rows.jsonl", "row_1", "`num_objects`"),
    row("a mask value that is a yes", {"mask_value": True}, "line 2", "`mask_value` is bool"),
    row("a mask value below the background", {"mask_value": -2}, "row_1", "`mask_value` is -2"),
    row("the background as the mask value", {"mask_value": 0}, "row_1", "`mask_value` is 0", "background"),
    row("a mask value without masks", {"mask_value": 3, "masks": ...}, "row_1", "`mask_value`", "no `masks`"),
    row("half a character", {"reference": "the drum \ud800"}, "rows.jsonl", "row_1", "`reference`"),
    row("a number of 40 digits", {"loudness": 10**40}, "rows.jsonl", "row_1", "`loudness`"),
    row("a column of two kinds", {"loudness": "high"}, "rows.jsonl", "`loudness`", loudness=7),
    lines("a row nested without end", "[" * 100_000, "line 1", "nested too deep"),
    lines("no rows", "", "no rows"),
    lines("rows of empty lines", "\n\n\n", "no rows"),
    lines("a row cut short", ROWS + "\n" + ROWS[:20], "line 2", "not valid JSON"),
    lines("a key of a row that stands twice", ROWS[:-1] + ', "id": "b"}', "line 1", "the key `id` stands twice"),
    lines("a row that is a list", "[1]", "line 1", "list"),
    Kind("no such rows", lambda p: export(p, p.root / "gone.jsonl"), ("gone.jsonl: no such",)),
    Kind("a folder of no format", lambda p: export(p, p.write("some/readme.txt").parent), ("some", "format")),
    Kind("a format that it has not", lambda p: export(p, p.rows(), "--format", "refavs"), ("rows.jsonl",)),
    # Folders
    world("no such split", lambda r: None, "'other'", flags=("--splits", "other")),
    world("no table", lambda r: (r / "metadata.csv").unlink(), "world"),
    world("a table without rows", retable(lambda t: t[:1]), "metadata.csv"),
    world(
        "a table without a column",
        retable(lambda t: [line.split(",", 1)[1] for line in t]),
        "metadata.csv",
        "no column `vid`",
        flags=("--format", "refavs"),
    ),
    world("a table with half a line", retable(lambda t: [*t[:2], t[2][:9], *t[3:]]), "metadata.csv, line 3", "cells"),
    Kind("a table of S4 with two columns", s4_of_two, ("s4_meta_data.csv", "name, start, category and split")),
    Kind("a table of Parquet that is none", lambda p: exported(p, "rows"), ("train.parquet", "can not be read")),
    Kind("media in Parquet that are none", lambda p: exported(p, "media"), ("00000.parquet", "can not be read")),
    Kind("a world's truth cut short", annotate_world(None), ("world.json", "no synthetic world")),
    Kind("a world's truth without clips", annotate_world({"clips": 0}), ("world.json", "`clips`")),
    Kind("rows of another world", annotate_world({}), ("row_0", "not a reference of the synthetic world")),
]
