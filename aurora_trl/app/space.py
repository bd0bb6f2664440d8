"""A Hugging Face Space: the page on a checkpoint that is on the Hub."""

import importlib.metadata
import shutil
import sys
import tempfile
from pathlib import Path

import yaml
from packaging.requirements import Requirement

from ..errors import DataError
from ..models.checkpoints.hub import CARD_FILE, CARD_MARK
from ..models.checkpoints.own_files import HTTPError, one_line

PACKAGE = "aurora-trl"
# What trains and never answers; it would take minutes to install.
TRAINING_PACKAGES = ("trl", "deepspeed")

_APP = '''"""The page of aurora_trl on a checkpoint. `aurora push --space` wrote this file."""

from aurora_trl.app.server import App, AppSettings

with App(AppSettings(models=[{model!r}])) as app:
    app.launch("0.0.0.0")
    app.wait()
'''
_CARD = """{mark}

# {title}

Drop a clip or a picture and write a sentence: [{model}](https://huggingface.co/{model}) reasons about what it sees and
hears, and draws the object that the sentence means.

The Space brings the version of aurora_trl that made it. A large checkpoint needs a GPU: choose one in the Space's
settings. A private checkpoint needs a token that may read it: add it there as the secret `HF_TOKEN`.
"""


def write_space(folder: str | Path, model: str, title: str) -> None:
    """
    Write the files of a Space.

    Args:
        folder (`str` or `Path`): afterwards holds `README.md` with its front matter, `app.py`, `requirements.txt` and
            the package `aurora_trl`.
        model (`str`): the checkpoint's repository.
        title (`str`): of the page.

    Raises:
        `DataError`: where this package or Gradio is not installed, so that nobody knows what the Space needs.
    """
    folder = Path(folder)
    meta = {
        "title": title,
        "colorFrom": "indigo",
        "colorTo": "yellow",
        "sdk": "gradio",
        "sdk_version": _gradio_version(),
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
        "app_file": "app.py",
        "license": "apache-2.0",
        "models": [model],
    }
    front = f"---\n{yaml.safe_dump(meta, sort_keys=False)}---\n"
    text = _CARD.format(mark=CARD_MARK, title=title, model=model)
    (folder / CARD_FILE).write_text(f"{front}\n{text}", encoding="utf-8")
    (folder / "app.py").write_text(_APP.format(model=model), encoding="utf-8")
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in _requirements()), encoding="utf-8")
    shutil.copytree(
        Path(__file__).parents[1],
        folder / "aurora_trl",
        ignore=shutil.ignore_patterns("__pycache__", "*.pyc"),
        dirs_exist_ok=True,
    )


def check_space(space: str, token: str | None = None) -> None:
    """
    See to it that a Space can be made, before a checkpoint is pushed for it.

    Args:
        space (`str`): `namespace/name`.
        token (`str`, *optional*): the one that was logged in with by default.

    Raises:
        `DataError`: where the Space is somebody's own, or this package or Gradio is not installed.
        `ValueError`: where it is no name of a repository.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(space)
    _requirements()
    _gradio_version()
    api = HfApi(token=token)
    try:
        if not api.file_exists(space, CARD_FILE, repo_type="space"):
            return
        card = hf_hub_download(space, CARD_FILE, repo_type="space", token=token)
    except HTTPError as error:  # those without an answer are no `OSError`
        raise DataError(f"{space}: the Hub can not be asked for the Space: {one_line(error)}; push again") from error
    if CARD_MARK not in Path(card).read_text(encoding="utf-8"):
        raise DataError(f"{space}: a Space that aurora_trl did not write is left as it is; name another with --space")


def push_space(space: str, model: str, *, private: bool | None = None, token: str | None = None) -> str:
    """
    Make a Space for a checkpoint, or bring it to this version.

    Args:
        space (`str`): `namespace/name`, see `check_space`; made where it does not exist.
        model (`str`): the checkpoint's repository on the Hub.
        private (`bool`, *optional*): for a new Space.
        token (`str`, *optional*): the one that was logged in with by default.

    Returns:
        `str`: address of the commit.

    Raises:
        `DataError`: where the Hub does not take it.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        with tempfile.TemporaryDirectory() as folder:
            write_space(folder, model, space.split("/")[-1])
            api.create_repo(space, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=space,
                repo_type="space",
                folder_path=folder,
                commit_message=f"Show {model} with aurora_trl",
                delete_patterns=["aurora_trl/**"],  # files of an earlier version
            )
    except HTTPError as error:  # those without an answer are no `OSError`
        raise DataError(f"{space}: the Hub did not take the Space: {one_line(error)}; push again") from error
    return str(commit.commit_url)


def _requirements() -> list[str]:
    """What the package needs to answer, as its metadata say."""
    _version_of(PACKAGE, "pip install -e .")
    lines = [Requirement(line) for line in importlib.metadata.requires(PACKAGE) or ()]
    needed = [line for line in lines if "extra" not in str(line.marker or "")]
    return [str(line) for line in needed if line.name not in TRAINING_PACKAGES]


def _gradio_version() -> str:
    return _version_of("gradio", "pip install 'aurora-trl[app]'")


def _version_of(package: str, command: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise DataError(f"{package} is not installed; `{command}` installs what a Space needs") from None
