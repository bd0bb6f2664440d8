"""What tells one checkpoint from another."""

import hashlib
from contextlib import suppress
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from .adapters import ADAPTER_CONFIG_FILE
from .own_files import CONFIG_FILE


def checkpoint_digest(checkpoint: str | Path) -> str:
    """Changes with a checkpoint's weights and settings; of a Hub repository its name, and the commit that is here."""
    folder = Path(checkpoint)
    if not folder.is_dir():
        commit = _commit_here(str(checkpoint))
        return str(checkpoint) if commit is None else f"{checkpoint}@{commit}"
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".safetensors", ".bin"):
            # Reading billions of weights would take minutes; a phase that is trained again writes its files again.
            digest.update(f"{path.name}\0{path.stat().st_size}\0{path.stat().st_mtime_ns}\0".encode())
        elif path.suffix in (".json", ".jinja") and path.name != "trainer_state.json":
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _commit_here(name: str) -> str | None:
    """The commit of a repository that its files in the Hub's cache are of; None where there are none."""
    with suppress(HFValidationError):  # a name that can be none
        for file in (CONFIG_FILE, ADAPTER_CONFIG_FILE):
            path = try_to_load_from_cache(name, file)
            if isinstance(path, str):
                return Path(path).parent.name
    return None
