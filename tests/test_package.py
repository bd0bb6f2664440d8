"""The wheel and the sdist: built, looked at, and used from an empty folder, without a network."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY

import aurora_trl


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the two, as `python -m build` makes them: the wheel from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr + result.stdout
    return folder


def tracked(*folders):
    listed = subprocess.run(["git", "ls-files", *folders], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return {line for line in listed.stdout.splitlines() if (REPOSITORY / line).is_file()}


@pytest.mark.slow
def test_what_the_two_hold(built):
    (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
    assert wheel.name == f"aurora_trl-{aurora_trl.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names >= tracked("aurora_trl") | {f"aurora_trl/{name}" for name in tracked("recipes")}
    assert all(name.startswith("aurora_trl/") and "__pycache__" not in name for name in names)
    root = f"aurora_trl-{aurora_trl.__version__}/"
    with tarfile.open(source) as archive:
        held = {name.removeprefix(root) for name in archive.getnames()}
    assert held >= tracked("recipes", "examples", "docs") | {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"}


@pytest.mark.slow
def test_it_is_used_from_an_empty_folder(built, tmp_path):
    """Installed beside nothing of the checkout: a recipe is written, and the demo's chain is checked."""
    (wheel,) = built.glob("*.whl")
    place, work = tmp_path / "installed", tmp_path / "work"
    work.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "--target", str(place), str(wheel)], check=True, cwd=work)
    environment = {**os.environ, "PYTHONPATH": str(place)}

    def aurora(*words, folder=work):
        command = [sys.executable, "-m", "aurora_trl.cli", *words]
        result = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
        assert result.returncode == 0, result.stderr
        return result.stdout

    where = subprocess.run(
        [sys.executable, "-c", "import aurora_trl; print(aurora_trl.__file__)"],
        capture_output=True,
        text=True,
        cwd=work,
        env=environment,
    )
    assert Path(where.stdout.strip()).is_relative_to(place)
    assert aurora("--version").strip() == f"aurora_trl {aurora_trl.__version__}"
    assert "own: " in aurora("recipes")
    aurora("recipes", "tiny", "mine")
    said = aurora("run", "recipes/tiny/pipeline.yaml", "--dry-run", folder=work / "mine")
    assert "steps checked, all is well" in said
