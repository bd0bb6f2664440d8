"""What tells one checkpoint from another."""

import hashlib
from pathlib import Path


def checkpoint_digest(checkpoint: str | Path) -> str:
    """Changes with a checkpoint's weights and settings; the name itself for one that is not a folder here."""
    folder = Path(checkpoint)
    if not folder.is_dir():
        return str(checkpoint)
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".safetensors", ".bin"):
            # Reading billions of weights would take minutes; a phase that is trained again writes its files again.
            digest.update(f"{path.name}\0{path.stat().st_size}\0{path.stat().st_mtime_ns}\0".encode())
        elif path.suffix in (".json", ".jinja") and path.name != "trainer_state.json":
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
