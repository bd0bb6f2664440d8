"""Every dataset is written in its official layout, recognised, loaded, read and scored."""

import json
import shutil
import tracemalloc
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from layouts import SIZE, blob, write_avss, write_ms3, write_reasonseg, write_s4

from aurora_trl.data import (
    COLUMNS,
    DataError,
    find_source,
    load_avsbench,
    load_json,
    load_parquet,
    load_reasonseg,
    load_refavs,
    save_json,
    save_parquet,
)
from aurora_trl.data.formats.avsbench import class_palette, load_class_maps, load_class_names
from aurora_trl.data.masks import encode_rle, load_masks, mask_indices
from aurora_trl.data.media.loading import load_audio, load_frames
from aurora_trl.data.schema import as_dataset
from aurora_trl.data.validation import check_dataset
from aurora_trl.evaluation.metrics import PROTOCOLS, SegmentationMetrics, SemanticMetrics
from aurora_trl.generation.clip_loader import ClipLoader

AVSBENCH = {"s4": write_s4, "ms3": write_ms3, "avss": write_avss}


@pytest.mark.parametrize("subset", AVSBENCH)
def test_avsbench_is_recognised_read_and_scored(subset, tmp_path):
    root = AVSBENCH[subset](tmp_path)
    source = find_source(root)
    assert (source.format, source.subset) == ("avsbench", subset)
    assert "test" in source.splits()
    rows = source.load("test")
    assert tuple(rows.column_names) == COLUMNS
    assert check_dataset(rows) == []
    metrics = SegmentationMetrics("avsbench")
    for row in rows:
        masks = load_masks(row)
        assert masks.shape == (len(row["frames"]), *SIZE)
        assert np.array_equal(masks[0], blob(1 if subset != "avss" else 0))
        assert load_frames(row, num_frames=5).shape == (5, *SIZE, 3)
        assert load_audio(row, sampling_rate=16000).shape == (80000,)
        target = PROTOCOLS["avsbench"].prepare_masks(masks)
        metrics.update(40.0 * target[None] - 20, target[None])
    assert metrics.compute()["J"] == pytest.approx(1, abs=1e-5)
    assert rows[0]["class_name"] == ("guitar" if subset == "s4" else None)


@pytest.mark.parametrize("subset", ["s4", "avss"])
def test_only_the_first_frame_of_a_single_source_clip_is_annotated_for_training(subset, tmp_path):
    row = load_avsbench(AVSBENCH[subset](tmp_path), subset, "train")[0]
    assert len(row["frames"]) == 5
    assert row["masks"][0] is not None
    assert row["masks"][1:] == [None] * 4
    assert mask_indices(row, 5) == [0, -1, -1, -1, -1]
    assert check_dataset([row]) == []
    masks = load_masks(row)
    assert masks[0].any()
    assert not masks[1:].any()


def test_both_older_subsets_in_one_folder_need_a_name(tmp_path):
    write_s4(tmp_path / "Single-source")
    write_ms3(tmp_path / "Multi-sources")
    with pytest.raises(DataError, match="it could be avsbench s4 or avsbench ms3; say which"):
        find_source(tmp_path)
    assert len(find_source(tmp_path, subset="ms3").load("val")) == 1
    with pytest.raises(DataError, match="does not look like avsbench avss; found avsbench s4 or avsbench ms3"):
        find_source(tmp_path, "avsbench", "avss")


def test_avss_classes(tmp_path):
    root = write_avss(tmp_path)
    assert class_palette()[[1, 2, 4, 9]].tolist() == [[128, 0, 0], [0, 128, 0], [0, 0, 128], [192, 0, 0]]
    assert load_class_names(root)[9] == "class 9"
    maps = [load_class_maps(row) for row in load_avsbench(root, "avss", "test")]
    assert [len(planes) for planes in maps] == [10, 5]
    assert np.array_equal(maps[0][2], blob(2, 9))
    metrics = SemanticMetrics()
    for planes in maps:
        metrics.update(torch.from_numpy(planes), torch.from_numpy(planes))
    scores = metrics.compute(load_class_names(root))
    assert scores["by_class"] == {"background": 1.0, "class 9": 1.0}
    assert scores["mIoU"] == pytest.approx(2 / 71)
    path = root / "v2" / "three" / "labels_rgb" / "0.png"
    from PIL import Image

    Image.new("RGB", SIZE[::-1], (1, 2, 3)).save(path)
    with pytest.raises(DataError, match="0.png: it has a colour that stands for none of the 71 classes"):
        load_class_maps(load_avsbench(root, "avss", "test")[0])


def test_avsbench_names_what_is_wrong(tmp_path):
    with pytest.raises(DataError, match="s4_meta_data.csv: no such file"):
        load_avsbench(tmp_path, "s4", "train")
    with pytest.raises(DataError, match="unknown subset 's5'"):
        load_avsbench(tmp_path, "s5", "train")
    with pytest.raises(DataError, match="unknown split 'test_s'"):
        load_avsbench(tmp_path, "s4", "test_s")
    (tmp_path / "s4_meta_data.csv").write_text("name,start,category,split\na,1\n")
    with pytest.raises(DataError, match="line 2: fewer values"):
        load_avsbench(tmp_path, "s4", "train")
    (tmp_path / "s4_meta_data.csv").write_text("name,start,category,split\na,1,cat,val\n")
    with pytest.raises(DataError, match="no row of split 'train'"):
        load_avsbench(tmp_path, "s4", "train")
    (tmp_path / "s4_meta_data.csv").write_text("name,start,category,split\na,1,cat,train\nb,1,cat,Train\n")
    with pytest.raises(DataError, match="line 3: its split is 'Train'; write `train`"):
        load_avsbench(tmp_path, "s4", "train")
    (tmp_path / "metadata.csv").write_text("uid,label,split\na,v3,val\n")
    with pytest.raises(DataError, match="label 'v3' of 'a'"):
        load_avsbench(tmp_path, "avss", "val")


def test_reasonseg_folder(tmp_path):
    root = write_reasonseg(tmp_path)
    source = find_source(root)
    assert source.format == "reasonseg"
    assert source.splits() == ["train", "val"]
    rows = source.load("train")
    assert rows["reference"] == ["the café", "b"]  # training takes every query
    assert rows["id"] == ["1", "1#2"]
    val = load_reasonseg(root, "val")
    assert val["reference"] == ["the thing that melts"]
    assert check_dataset(val) == []
    mask = load_masks(val[0])
    assert mask.shape == (1, *SIZE)
    assert mask[0, 5, 5] == 1
    assert mask[0, 7, 7] == 0  # cut out
    assert mask[0].sum() == 17 * 9 - 9
    metrics = SegmentationMetrics("reasonseg")
    target = torch.from_numpy(mask.copy())[None]
    metrics.update(2.0 * target - 1, target)
    assert metrics.compute() == {"gIoU": 1.0, "cIoU": 1.0}


def test_reasonseg_file(tmp_path):
    root = write_reasonseg(tmp_path)
    plane = np.zeros(SIZE, np.uint8)
    plane[2:5] = 1
    entries = [
        {"image": "val/1.jpg", "query": "a", "polygons": [[4, 4, 20, 4, 20, 12, 4, 12]], "class_name": "ice"},
        {"image": "val/1.jpg", "query": "b", "rle": json.loads(encode_rle(plane))},
        {"image": "val/1.jpg", "query": "c", "is_null": True, "split": "test"},
    ]
    (root / "mine.json").write_text(json.dumps(entries))
    source = find_source(root / "mine.json")
    rows = source.load("train")
    assert rows["reference"] == ["a", "b"]
    assert load_masks(rows[0]).sum() == 17 * 9
    assert np.array_equal(load_masks(rows[1])[0], plane)
    assert not load_masks(source.load("test")[-1]).any()
    (root / "lines.jsonl").write_text("\n".join(json.dumps(entry) for entry in entries))
    assert find_source(root / "lines.jsonl").load("train").to_list()[0]["masks"] == rows[0]["masks"]
    assert source.splits() == ["test"]  # what its entries name
    named = [{**entry, "split": split} for entry, split in zip(entries, ("val", "train", "val"), strict=True)]
    (root / "lines.jsonl").write_text(
        "\n".join(json.dumps({**entry, "query": "a\u2028b"}, ensure_ascii=False) for entry in named)
    )
    assert find_source(root / "lines.jsonl").splits() == ["train", "val"]
    assert find_source(root / "lines.jsonl").load("val")["reference"] == ["a\u2028b"] * 2
    for entry, message in (
        ({"image": "a.jpg"}, "entry 1: `query` is missing"),
        ({"image": "a.jpg", "query": "x"}, "give one of `polygons`, `rle` and `is_null"),
        ({"image": "a.jpg", "query": "x", "polygons": [[1, 2, 3]]}, "`polygons` is not a list of"),
        ({"image": "a.jpg", "query": "x", "mask": "m.png"}, "unknown key `mask`"),
        ({"image": "a.jpg", "query": "x", "is_null": "false"}, "`is_null` is 'false'; write true or false"),
        ({"image": "a.jpg", "query": "x", "rle": None}, "give one of `polygons`, `rle` and `is_null"),
    ):
        (root / "bad.json").write_text(json.dumps([entry]))
        with pytest.raises(DataError, match=message):
            load_reasonseg(root / "bad.json", "train")


def test_refavs_and_jsonl_are_recognised(world, rows, tmp_path):
    assert find_source(world).format == "refavs"
    assert find_source(world).splits() == ["train", "val", "test_s", "test_u", "test_n"]
    file = save_json(rows.select(range(2)), tmp_path / "data" / "val.jsonl")
    folder = find_source(file.parent)
    assert (folder.format, folder.splits()) == ("json", ["val"])
    assert len(folder.load("val")) == 2
    mixed = [{**row, "split": split} for row, split in zip(rows.to_list()[:2], ("train", "val"), strict=True)]
    source = find_source(save_json(mixed, tmp_path / "mixed.jsonl"))
    assert source.splits() == ["train", "val"]
    assert source.load("val")["split"] == ["val"]
    with pytest.raises(DataError, match="no row of split 'test'; its rows name train, val"):
        source.load("test")


def test_the_rows_of_a_file_are_of_the_split_that_they_name(rows, tmp_path):
    """Rows of one split are no other's; a file of which no row names a split is whatever it is asked for."""
    val = [{**row, "split": "val"} for row in rows.to_list()[:2]]
    named, unnamed = find_source(save_json(val, tmp_path / "val.jsonl")), tmp_path / "unnamed.jsonl"
    assert named.load("val").to_list() == named.load().to_list() == val
    assert named.usual_split() == "val"
    for other in ("train", "test"):
        with pytest.raises(DataError, match=f"no row of split '{other}'; its rows name val"):
            named.load(other)
    unnamed.write_text((tmp_path / "val.jsonl").read_text().replace('"split": "val", ', ""))
    assert find_source(unnamed).load("whatever").to_list() == [{**row, "split": "train"} for row in val]
    assert find_source(unnamed).usual_split() == "train"


def test_what_a_run_leaves_beside_rows_is_no_split(rows, tmp_path):
    """`aurora annotate DIR --output DIR/cot.jsonl` leaves a journal and a list of failures there, too."""
    for name in ("train", "cot", "my.failed"):
        save_json(rows.select(range(1)), tmp_path / f"{name}.jsonl")
    for name in ("cot.journal", "cot.failed"):
        (tmp_path / f"{name}.jsonl").write_text('{"settings": {}}\n')
    assert find_source(tmp_path).splits() == ["train", "cot", "my.failed"]


def test_what_can_not_be_told_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such dataset folder or JSONL file"):
        find_source(tmp_path / "nothing")
    with pytest.raises(DataError, match="its files do not show its format; name it with `dataset_format`"):
        find_source(tmp_path)
    (tmp_path / "inner" / "train").mkdir(parents=True)
    (tmp_path / "inner" / "train.jsonl").touch()
    with pytest.raises(DataError, match=r"do not show its format \(.*inner looks like json; give that folder\)"):
        find_source(tmp_path)
    (tmp_path / "rows.csv").touch()
    with pytest.raises(DataError, match=r"a file of rows ends with \.jsonl, \.json, \.ndjson"):
        find_source(tmp_path / "rows.csv")
    with pytest.raises(DataError, match="unknown dataset format 'csv'"):
        find_source(tmp_path, "csv")
    with pytest.raises(DataError, match="unknown dataset subset 's5'"):
        find_source(tmp_path, subset="s5")
    with pytest.raises(DataError, match="the subset 's4' is named, but refavs has none"):
        find_source(tmp_path, "refavs", "s4")


def test_parquet_gives_back_the_same_rows(world, tmp_path, processor, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    splits = {"train": load_refavs(world, "train").select(range(6)), "test_n": load_refavs(world, "test_n")}
    folder = save_parquet(splits, tmp_path / "pack", shard_megabytes=1)
    source = find_source(folder)
    assert source.format == "parquet"
    assert sorted(source.splits()) == ["test_n", "train"]
    loader = ClipLoader(processor)
    for split, rows in splits.items():
        again = load_parquet(folder, split, media_dir=tmp_path / "media")
        assert again["reference"] == rows["reference"]
        for row, other in list(zip(rows, again, strict=True))[:3]:
            assert str(tmp_path / "media") in other["frames"][0]
            assert torch.equal(loader.clip(row)["mask_frames"], loader.clip(other)["mask_frames"])
            assert torch.equal(loader.masks(row), loader.masks(other))
    with pytest.raises(DataError, match="no split 'val'; it has test_n, train"):
        load_parquet(folder, "val")
    with pytest.raises(DataError, match="exists already"):
        save_parquet(splits, folder)
    with pytest.raises(DataError, match="no rows/SPLIT.parquet"):
        load_parquet(tmp_path, "train")
    with pytest.raises(DataError, match="name/none: no such folder, and the Hub can not .* offline mode"):
        load_parquet("name/none", "train")  # the tests run without a network
    row = {**splits["train"][0], "audio": str(tmp_path / "gone.wav")}
    with pytest.raises(DataError, match="gone.wav: no such file"):
        save_parquet({"train": [row]}, tmp_path / "other")


def test_a_dataset_is_not_another_of_its_name(tmp_path, monkeypatch):
    """A folder of the same name, and the same folder written again, are what they are now: rows and media."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    seen = []
    for parent, text, media_dir in (("a", "one", None), ("b", "two", None), ("a", "three", None), ("a", "four", "m")):
        (tmp_path / "sound.wav").write_text(f"sound {text}")
        row = {**dict.fromkeys(COLUMNS), "id": "x", "reference": text, "audio": str(tmp_path / "sound.wav")}
        folder = tmp_path / parent / "pack"
        shutil.rmtree(folder, ignore_errors=True)
        save_parquet({"train": as_dataset([row], "rows")}, folder)
        for _ in range(2):  # unpacked, and found
            loaded = load_parquet(folder, "train", media_dir=media_dir and tmp_path / media_dir)[0]
            seen.append((loaded["reference"], Path(loaded["audio"]).read_text()))
    assert seen == [(text, f"sound {text}") for text in ("one", "two", "three", "four") for _ in range(2)]


def test_export_holds_a_few_media_at_a_time(tmp_path):
    """Of 80 MB, Python and Arrow together hold three row groups of 16 MB at most, not a whole media file of 50."""
    file = tmp_path / "sound.raw"
    file.write_bytes(bytes(range(256)) * 4096)  # 1 MiB
    names = [tmp_path / f"{i}.raw" for i in range(80)]
    for name in names:
        name.hardlink_to(file)
    rows = [
        {**dict.fromkeys(COLUMNS), "id": name.stem, "split": "train", "reference": "x", "audio": str(name)}
        for name in names
    ]
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        folder = save_parquet({"train": rows}, tmp_path / "pack", shard_megabytes=50)
        held = tracemalloc.get_traced_memory()[1] + pool.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)
    assert 16 << 20 < held < 56 << 20
    shards = [pq.ParquetFile(path) for path in sorted((folder / "media").iterdir())]
    assert [shard.metadata.num_rows for shard in shards] == [64, 16]
    assert all(shard.metadata.row_group(0).num_rows == 16 for shard in shards)


def test_polygons_in_jsonl(tmp_path):
    write_reasonseg(tmp_path)
    row = {
        "id": "a",
        "reference": "x",
        "frames": ["val/1.jpg"],
        "masks": [{"polygons": [[4, 4, 20, 4, 20, 12, 4, 12]]}],
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    rows = load_json(tmp_path / "rows.jsonl")
    assert load_masks(rows[0]).sum() == 17 * 9
    row["masks"] = [{"polygons": [[1, 2]]}]
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match="not polygons"):
        load_masks(load_json(tmp_path / "rows.jsonl")[0])
