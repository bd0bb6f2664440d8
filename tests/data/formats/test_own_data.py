"""The page about one's own data: what it shows is what works."""

import contextlib
import io
import re
import shlex

import datasets
import numpy as np
import soundfile
import yaml
from conftest import REPOSITORY
from PIL import Image
from videos import write_clip

from aurora_trl.cli import main
from aurora_trl.data import load_json
from aurora_trl.data.schema import COLUMNS, count_objects
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.training.arguments import RecipeArguments

PAGE = REPOSITORY / "docs" / "data.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.S)


def write_folder(folder):
    """The media that the page names."""
    (folder / "masks").mkdir(parents=True)
    (folder / "kitchen").mkdir()
    write_clip(folder / "park.mp4", [100] * 20)
    plane = np.zeros((48, 64), np.uint8)
    plane[10:20, 10:30] = 255
    for name in ("park_0", "park_1", "kitchen_0"):
        Image.fromarray(plane).save(folder / "masks" / f"{name}.png")
    for i in range(2):
        Image.new("RGB", (64, 48), (90, 90, 90)).save(folder / "kitchen" / f"{i}.jpg")
    soundfile.write(folder / "kitchen" / "sound.flac", 0.1 * np.sin(np.arange(32000)), 16000)
    add_sound(folder / "park.mp4")


def add_sound(path):
    """A track of two seconds, copied in beside the frames."""
    import av

    quiet = path.with_name("quiet.mp4")
    path.rename(quiet)
    with av.open(str(quiet)) as source, av.open(str(path), "w") as container:
        video = container.add_stream_from_template(source.streams.video[0])
        sound = container.add_stream("aac", rate=16000, layout="mono")
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                container.mux(packet)
        wave = 0.2 * np.sin(np.arange(32000) / 10)
        frame = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        container.mux([*sound.encode(frame), *sound.encode()])
    quiet.unlink()


def test_the_page_works(tmp_path, monkeypatch, processor, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_folder(tmp_path / "mine")
    (tmp_path / "mine" / "rows.jsonl").write_text(blocks("json")[0])
    for block in blocks("bash"):
        for line in block.strip().splitlines():
            command, *arguments = shlex.split(line)
            assert command == "aurora"
            assert main(arguments) == 0, capsys.readouterr()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in blocks("python"):
            exec(compile(block, str(PAGE), "exec"), {})
    assert printed.getvalue().split("\n")[:2] == ["the dog that barks", "json ['train'] 5"]
    assert (tmp_path / "cache" / "aurora_trl").is_dir()
    recipes = [RecipeArguments(model_name_or_path="x", **yaml.safe_load(block)) for block in blocks("yaml")]
    assert [recipe.dataset_path for recipe in recipes] == ["mine/rows.jsonl", "org/clips"]
    (tmp_path / "mine" / "several.jsonl").write_text(blocks("json")[1])
    assert main(["check-data", "mine/several.jsonl"]) == 0
    several = load_json("mine/several.jsonl").to_list()
    assert [count_objects(row) for row in several] == [2, 2]
    targets = ClipLoader(processor.with_max_objects(3)).object_masks(several[0])
    assert (targets[:2, 0] == 1).flatten(1).any(dim=1).all()  # both in the first frame
    assert (targets[:2, 1] == 1).flatten(1).any(dim=1).tolist() == [True, False]
    rows = load_json("mine/rows.jsonl")
    loader = ClipLoader(processor)
    for row in rows.to_list()[:4]:
        assert loader.clip(row)["mask_frames"].shape[0] == processor.num_frames
        assert (loader.masks(row)[0] == 1).any() == (not row["is_null"])
    assert "audio_values" in loader.clip(rows[0])
    assert "audio_values" not in loader.clip(rows[3])


def test_the_page_names_every_column():
    named = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.M)
    assert set(COLUMNS) <= set(named)
