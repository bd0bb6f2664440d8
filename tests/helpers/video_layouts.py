"""Writes the official layouts of references to objects in videos and photographs, small, with real files."""

import json
import pickle
from pathlib import Path

import numpy as np
from layouts import SIZE, blob, write_image, write_mask, write_sound, write_table
from pycocotools import mask as coco

FRAMES = ["00000", "00005", "00010"]


def rle(plane):
    """A run length as the files hold it."""
    encoded = coco.encode(np.asfortranarray(plane.astype(np.uint8)))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode()}


def other(number):
    """A second object, which is not in the last frame."""
    plane = np.zeros(SIZE, np.uint8)
    plane[14:20, 2 + number : 8 + number] = number < 2
    return plane


def number_planes():
    """Per frame the number of an object at each pixel: 1 is `blob`, 2 is `other`."""
    return [blob(i) + 2 * other(i) for i in range(len(FRAMES))]


def write_expressions(path, videos):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        video: {
            "vid_id": number,
            "frames": FRAMES,
            "expressions": {str(i): expression for i, expression in enumerate(expressions)},
        }
        for number, (video, expressions) in enumerate(videos.items())
    }
    path.write_text(json.dumps({"videos": content}))


def write_refytvos(root: Path) -> Path:
    for split in ("train", "valid"):
        for frame, plane in zip(FRAMES, number_planes(), strict=True):
            write_image(root / split / "JPEGImages" / "003234408d" / f"{frame}.jpg")
            if split == "train":
                path = root / split / "Annotations" / "003234408d" / f"{frame}.png"
                write_mask(path, plane, mode="P", palette=[0, 0, 0, 255, 0, 0, 0, 255, 0])
    texts = [{"exp": "a penguin is on the left", "obj_id": "1"}, {"exp": "a penguin that leaves", "obj_id": "2"}]
    write_expressions(root / "meta_expressions" / "train" / "meta_expressions.json", {"003234408d": texts})
    hidden = [{"exp": text["exp"]} for text in texts]
    write_expressions(root / "meta_expressions" / "valid" / "meta_expressions.json", {"003234408d": hidden})
    objects = {number: {"category": "penguin", "frames": FRAMES} for number in ("1", "2")}
    (root / "train" / "meta.json").write_text(json.dumps({"videos": {"003234408d": {"objects": objects}}}))
    return root


def write_refdavis(root: Path) -> Path:
    davis, texts = root / "DAVIS", root / "davis_text_annotations"
    for split, video in (("train", "classic-car"), ("val", "dogs-jump")):
        (davis / "ImageSets" / "2017").mkdir(parents=True, exist_ok=True)
        (davis / "ImageSets" / "2017" / f"{split}.txt").write_text(f"{video}\n")
        for frame, plane in zip(FRAMES, number_planes(), strict=True):
            write_image(davis / "JPEGImages" / "480p" / video / f"{frame}.jpg")
            plane[0, 0] = 255  # void
            path = davis / "Annotations_unsupervised" / "480p" / video / f"{frame}.png"
            write_mask(path, plane, mode="P", palette=[i // 3 for i in range(768)])
    (davis / "davis_semantics.json").write_text(json.dumps({"dogs-jump": {"1": "dog", "2": "person"}}))
    texts.mkdir(parents=True)
    for annotator in (1, 2):
        for kind in ("", "_full_video"):
            lines = ['dogs-jump 1 "a black dog"', 'dogs-jump 2 "a man"', f'clasic-car 1 "the old car{kind}"']
            text = "\n".join(lines).replace("man", "man in a café" if annotator == 2 else "man") + "\n"
            encoding = "latin-1" if annotator == 2 else "utf-8"
            (texts / f"Davis17_annot{annotator}{kind}.txt").write_text(text, encoding=encoding)
    return root


def mask_lists():
    """Annotation 0 is `blob`, 1 is `other`, by frame; null where it is not there."""
    each = [[make(i) for i in range(len(FRAMES))] for make in (blob, other)]
    return {
        str(number): [rle(plane) if plane.any() else None for plane in planes] for number, planes in enumerate(each)
    }


def write_mevis(root: Path) -> Path:
    texts = [
        {"exp": "the bird that flies away", "obj_id": [1], "anno_id": [1]},
        {"exp": "both birds", "obj_id": [0, 1], "anno_id": [0, 1]},
    ]
    for split in ("train", "valid_u", "valid"):
        for frame in FRAMES:
            write_image(root / split / "JPEGImages" / "2d9abb29a1e5" / f"{frame}.jpg")
        hidden = [{"exp": text["exp"]} for text in texts]
        write_expressions(
            root / split / "meta_expressions.json", {"2d9abb29a1e5": hidden if split == "valid" else texts}
        )
        if split != "valid":
            (root / split / "mask_dict.json").write_text(json.dumps(mask_lists()))
    return root


def write_revos(root: Path) -> Path:
    texts = [
        {"exp": "the bird", "obj_id": [0], "anno_id": [0], "type_id": 0},
        {"exp": "what can fly", "obj_id": [0, 1], "anno_id": [0, 1], "type_id": 1},
        {"exp": "the fish", "obj_id": [], "anno_id": [], "type_id": 2},
    ]
    for video in ("bird", "MOSE/birds"):
        for frame in FRAMES:
            write_image(root / "JPEGImages" / video / f"{frame}.jpg")
    write_expressions(root / "meta_expressions_train_.json", {"bird": texts})
    write_expressions(root / "meta_expressions_valid_.json", {"MOSE/birds": texts})
    (root / "mask_dict.json").write_text(json.dumps(mask_lists(), indent=4))
    foreground = [rle((plane > 0).astype(np.uint8)) for plane in number_planes()]
    videos = {video: {"masks_rle": foreground, "foreground_ratio": [0.1] * 3} for video in ("bird", "MOSE/birds")}
    (root / "mask_dict_foreground.json").write_text(json.dumps(videos, indent=4))
    return root


REFERENCES = [
    {
        "ref_id": number,
        "ann_id": 100 + number,
        "image_id": 7,
        "category_id": 18,
        "split": split,
        "file_name": "COCO_train2014_000000000007_100.jpg",
        "sent_ids": [2 * number, 2 * number + 1],
        "sentences": [
            {"sent": f"dog {number}", "raw": "Dog", "sent_id": 2 * number, "tokens": ["dog"]},
            {"sent": "the left one", "raw": "The left one", "sent_id": 2 * number + 1, "tokens": ["the"]},
        ],
    }
    for number, split in enumerate(("train", "val", "testA"))
]
# Two outlines of one object, and one that overlaps.
OUTLINES = [[4.0, 4.0, 20.0, 4.0, 20.0, 12.0, 4.0, 12.0], [18.0, 10.0, 30.0, 10.0, 30.0, 20.0]]


def write_refcoco(root: Path, name: str = "refcoco+", splitter: str = "unc") -> Path:
    """Returns the dataset's own folder."""
    write_image(root / "images" / "mscoco" / "images" / "train2014" / "COCO_train2014_000000000007.jpg")
    folder = root / name
    folder.mkdir(parents=True)
    image = {"id": 7, "file_name": "COCO_train2014_000000000007.jpg", "height": SIZE[0], "width": SIZE[1]}
    annotations = [
        {"segmentation": OUTLINES, "area": 1.5, "iscrowd": 0, "image_id": 7, "bbox": [4, 4, 26, 16], "id": 100 + i}
        | {"category_id": 18}
        for i in range(3)
    ]
    content = {
        "info": {"year": 2015},
        "images": [image, {**image, "id": 8}],
        "licenses": [],
        "type": "instances",
        "annotations": annotations,
        "categories": [{"id": 18, "name": "dog", "supercategory": "animal"}],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    (folder / f"refs({splitter}).p").write_bytes(pickle.dumps(REFERENCES, protocol=0))
    return folder


def write_omniavs(root: Path) -> Path:
    for i, frame in enumerate(FRAMES):
        write_image(root / "images" / "hall" / f"{frame}.jpg", 40 * i)
    write_sound(root / "audios" / "hall.mp3")
    media = root / "referrings"
    write_sound(media / "referring_speeches" / "say.mp3")
    write_sound(media / "referring_sounds" / "bark.mp3")
    write_image(media / "referring_images" / "dog.jpg")
    masks = mask_lists()
    video = {
        "duration": 4.0,
        "file_name": [f"{frame}.jpg" for frame in FRAMES],
        "mask_dict": {"1": masks["0"], "5": masks["1"]},
    }
    (root / "video_dict.json").write_text(json.dumps({"hall": video}))
    plain = {"video_name": "hall", "expl": "It is loud.", **dict.fromkeys(["referring_image", "referring_sound"])}
    plain |= {"referring_speech": None}
    entries = [
        {"exp_id": 0, "expr": "who is most likely ill", "expr_type": "text", "obj_id": [1]},
        {"exp_id": 1, "expr": "all that sound", "expr_type": "text", "obj_id": [1, 5]},
        {"exp_id": 2, "expr": "the trumpet", "expr_type": "text", "obj_id": [], "expl": ""},
        {"exp_id": 3, "expr": "who laughs", "expr_type": "speech", "obj_id": [5], "referring_speech": "say.mp3"},
        {"exp_id": 4, "expr": "who makes <audio> near <image>", "expr_type": "text_sound_image", "obj_id": [1]}
        | {"referring_sound": "bark.mp3", "referring_image": "dog.jpg"},
    ]
    for split in ("train", "test"):
        lines = [json.dumps({**plain, **entry}) for entry in entries]
        (root / f"meta_expressions_{split}.jsonl").write_text("\n".join(lines) + "\n")
    return root


def write_r2avsbench(root: Path) -> Path:
    """Into a folder with Ref-AVS's media, of which one clip is made here."""
    for i in range(10):
        write_image(root / "media" / "7_video" / "frames" / f"{i}.jpg")
        write_mask(root / "gt_mask" / "7_video" / "fid_2" / f"{i:05d}.png", blob(i, 255))
    write_sound(root / "media" / "7_video" / "audio.wav")
    lines = [["7_video_dog_1", "2", "what would wake the neighbours", "test_s"]]
    write_table(root / "R2AVSBench_metadata.csv", ["uid", "fid", "exp", "split"], lines)
    return root
