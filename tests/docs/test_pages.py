"""The documentation as a whole: each page is in the navigation, each link leads somewhere, the version is one."""

import re
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY

import aurora_trl

DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
README = REPOSITORY / "README.md"


def listed(entry):
    """The files that a navigation names."""
    if isinstance(entry, str):
        return [entry]
    entries = entry.values() if isinstance(entry, dict) else entry
    return [name for each in entries for name in listed(each)]


def test_every_page_is_in_the_navigation():
    settings = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())
    assert sorted(listed(settings["nav"])) == [str(page.relative_to(DOCS)) for page in PAGES]


def anchors(text):
    """What headings are called in a link, as GitHub and MkDocs write it."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [README, REPOSITORY / "CHANGELOG.md", *PAGES], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        linked = page if not file else (page.parent / file).resolve()
        assert linked.exists(), f"{page.name}: {target}"
        if page.parent == DOCS:
            assert linked.is_relative_to(DOCS), f"{page.name}: the site does not hold {target}"
        if anchor:
            assert anchor in anchors(linked.read_text()), f"{page.name}: {target}"


def test_the_first_screen_of_the_readme():
    """One sentence, one picture, the two commands, the lines of Python: before anything else."""
    lines = README.read_text().splitlines()
    assert len(lines) <= 167, "half of what it was"
    first = "\n".join(lines[:40])
    assert re.search(r"^!\[.+\]\(docs/images/\w+\.png\)$", first, re.M)
    assert re.search(r"```bash\nmake demo.*\nmake test.*\n```", first)
    assert re.search(r"```python\n(.+\n){4,6}```", first.replace("\n\n", "\n"))


def test_the_version_stands_in_one_place():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["version"] == aurora_trl.__version__
    assert f"## {aurora_trl.__version__}" in (REPOSITORY / "CHANGELOG.md").read_text()
    assert 'dynamic = ["version"]' in (REPOSITORY / "pyproject.toml").read_text()


def test_pictures_have_a_text():
    for page in (README, *PAGES):
        for text, _ in re.findall(r"!\[(.*?)\]\((\S+?)\)", page.read_text(), re.S):
            assert len(text) > 20, f"{page.name}: {text!r}"


def test_no_page_names_a_file_that_is_gone():
    """`recipes/x.yaml` and `aurora_trl/y.py` in code spans exist."""
    for page in (README, *PAGES):
        for name in re.findall(r"`((?:recipes|aurora_trl|examples|tests|docs)/[\w./-]+)`", page.read_text()):
            assert Path(REPOSITORY, name).exists(), f"{page.name}: {name}"
