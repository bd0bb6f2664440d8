"""One kind of bad input: what it is made of, the command that meets it, and what its one line must name."""

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image
from safetensors.torch import load_file, save_file


@dataclass(frozen=True)
class Kind:
    """
    A row of the table.

    Attributes:
        name (`str`): of the test.
        command (`Callable`): makes the bad input in a place, and returns the words after `aurora`, or those of a
            recipe, `sft` or `grpo` first.
        named (`tuple[str, ...]`): what the line must hold: the file, row or key, and what is wrong with it.
    """

    name: str
    command: Callable[["Place"], list[str]]
    named: tuple[str, ...]


class Place:
    """An empty folder, and copies of whole things to break in it."""

    def __init__(self, root: Path, checkpoint: Path, adapter: Path, world: Path):
        self.root, self.world = root, world
        self._checkpoint, self._adapter = checkpoint, adapter
        self.executed = root.parent / f"{root.name}.executed"
        self.kept: list[Any] = []  # what must live as long as the test

    def model(self) -> Path:
        """A copy of a checkpoint."""
        return Path(shutil.copytree(self._checkpoint, self.root / "model"))

    def adapter(self) -> Path:
        """A copy of an adapter of the checkpoint, which stays where it is."""
        return Path(shutil.copytree(self._adapter, self.root / "adapter"))

    def write(self, name: str, content: str | bytes = "precious") -> Path:
        """A file of the user's."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def rows(self, *changes: dict[str, Any], **others: Any) -> Path:
        """JSON lines of two clips of 3 frames with sound and masks, each row with its changes, and all with others."""
        lines = []
        for number, change in enumerate(changes or ({}, {})):
            row = {**self.clip(number), **others, **change}
            lines.append(json.dumps({key: value for key, value in row.items() if value is not ...}))
        return self.write("rows.jsonl", "\n".join(lines) + "\n")

    def clip(self, number: int) -> dict[str, Any]:
        """A row, and its files."""
        folder = self.root / f"clip_{number}"
        folder.mkdir(exist_ok=True)
        random = np.random.default_rng(number)
        for i in range(3):
            Image.fromarray(random.integers(0, 255, (48, 48, 3), np.uint8)).save(folder / f"{i}.jpg")
            mask = np.zeros((48, 48), np.uint8)
            mask[8 : 20 + i, 8:30] = 255
            Image.fromarray(mask).save(folder / f"{i}.png")
        soundfile.write(folder / "sound.wav", 0.1 * np.sin(np.arange(32000) / 10).astype(np.float32), 16000)
        return {
            "id": f"row_{number}",
            "reference": f"the thing that hums, number {number}",
            "class_name": "drum",
            "frames": [f"{folder.name}/{i}.jpg" for i in range(3)],
            "masks": [f"{folder.name}/{i}.png" for i in range(3)],
            "audio": f"{folder.name}/sound.wav",
            "target": "I see a box and I hear it hum. So the target is the drum. It is [SEG].",
        }

    def recipe(self, text: str = "", name: str = "recipe.yaml", **settings: Any) -> Path:
        """A recipe of one SFT step on two rows, with other settings; `...` leaves one out."""
        rows = self.root / "rows.jsonl"
        whole = {
            "model_name_or_path": str(self._checkpoint),
            "dataset_path": str(rows if rows.exists() else self.rows()),
            "output_dir": str(self.root / "out"),
            "max_steps": 1,
            "per_device_train_batch_size": 1,
            "report_to": "none",
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
        }
        whole = {key: value for key, value in {**whole, **settings}.items() if value is not ...}
        # JSON is YAML, and keeps what it is given.
        return self.write(name, "\n".join(f"{key}: {json.dumps(value)}" for key, value in whole.items()) + f"\n{text}")

    def pickled(self) -> bytes:
        """A pickle that leaves a file behind when it is read."""
        return pickle.dumps(_Evil(str(self.executed)))

    def torch_pickled(self, path: Path) -> None:
        """The same in torch's format."""
        torch.save(_Evil(str(self.executed)), path)

    def files(self) -> dict[str, str]:
        """All files and what they hold, as digests."""
        return {str(path.relative_to(self.root)): _digest(path) for path in _walk(self.root)}


class _Evil:
    def __init__(self, path: str):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def _walk(root: Path) -> Iterator[Path]:
    return (path for path in sorted(root.rglob("*")) if path.is_file())


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def cut(path: Path, share: float = 0.5) -> None:
    """Keep the beginning of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; `...` takes one out, and a name with `__` reaches a key inside a key."""
    content = json.loads(path.read_text())
    for name, value in changes.items():
        *parents, key = name.split("__")
        target = content
        for parent in parents:
            target = target[parent]
        if value is ...:
            del target[key]
        else:
            target[key] = value
    path.write_text(json.dumps(content))


def edit_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of a safetensors file in place."""
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})
