"""Features on disk: exact, whole, and never those of another file."""

import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch

from aurora_trl.errors import DataError
from aurora_trl.generation.feature_store import FeatureStore, MaskFeatures, clip_digest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_feature_comes_back_as_it_was(dtype, tmp_path):
    store = FeatureStore(tmp_path)
    feature = torch.randn(3, 4, 2, 2).to(dtype).transpose(0, 1)
    size = store.write("abcd", feature)
    assert torch.equal(store.get("abcd"), feature)
    assert store.get("abcd").dtype == dtype
    assert store.file("abcd").stat().st_size == size
    assert store.get("abce") is None


@pytest.mark.parametrize("damage", ["cut", "empty", "changed"])
def test_a_damaged_file_is_named(damage, tmp_path, caplog):
    store = FeatureStore(tmp_path)
    store.write("abcd", torch.randn(64))
    content = bytearray(store.file("abcd").read_bytes())
    content[-5] ^= 1
    store.file("abcd").write_bytes({"cut": content[:-9], "empty": b"", "changed": content}[damage])
    assert store.get("abcd") is None
    assert f"{store.file('abcd')}: " in caplog.text
    with pytest.raises(DataError, match=r"abcd\.safetensors: .*resume_from_checkpoint"):
        MaskFeatures(store, {"clip": "abcd"}).read("clip")
    store.write("abcd", torch.ones(2))
    assert store.get("abcd").tolist() == [1, 1]


def write_often(folder):
    store = FeatureStore(folder)
    for _ in range(100):
        store.write("abcd", torch.full((1000,), 7.0))
        assert bool((store.read("abcd") == 7).all())


def test_processes_may_write_the_same_file(tmp_path):
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as processes:
        list(processes.map(write_often, [tmp_path, tmp_path]))
    assert [path.name for path in (tmp_path / "ab").iterdir()] == ["abcd.safetensors"]


def test_a_digest_is_of_what_files_hold(rows, tmp_path):
    row = rows[0]
    copies = [shutil.copy(path, tmp_path / f"copy{i}.jpg") for i, path in enumerate(row["frames"])]
    copied = {**row, "frames": [str(path) for path in copies]}
    digest = clip_digest(row, 10, sound=True)
    assert clip_digest(copied, 10, sound=True) == digest
    assert clip_digest(row, 10, sound=False) != digest
    assert clip_digest(row, 5, sound=True) != digest
    assert clip_digest({**row, "frames": row["frames"][::-1]}, 10, sound=True) != digest
    other = next(entry for entry in rows if entry["audio"] != row["audio"])
    assert clip_digest({**row, "audio": other["audio"]}, 10, sound=True) != digest
    assert clip_digest({**row, "audio": other["audio"]}, 10, sound=False) == clip_digest(row, 10, sound=False)
    short = {**row, "frames": row["frames"][:4]}  # the rest is black
    assert clip_digest(short, 10, sound=False) != clip_digest(short, 4, sound=False)
    (tmp_path / "copy3.jpg").write_bytes((tmp_path / "copy3.jpg").read_bytes() + b"\0")
    assert clip_digest(copied, 10, sound=True) != digest
    (tmp_path / "copy3.jpg").unlink()
    with pytest.raises(DataError, match=r"copy3\.jpg: can not be read: No such file"):
        clip_digest(copied, 10, sound=True)


def test_moments_of_a_video_differ():
    video = __file__  # any file: it is not decoded
    row = {"frames": [f"{video}#t=0.5", f"{video}#t=1"]}
    other = {"frames": [f"{video}#t=0.5", f"{video}#t=1.5"]}
    assert clip_digest(row, 2, sound=False) != clip_digest(other, 2, sound=False)
    assert clip_digest({"video": video}, 2, sound=True) != clip_digest({"video": video}, 2, sound=False)
