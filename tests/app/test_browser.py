"""The page driven in a real browser: `make test-app`. Skipped where Gradio, Playwright or a Chromium is missing."""

import json
import shutil
import zipfile

import numpy as np
import pytest
from sounds import tone, write_clip_with_sound

from aurora_trl.app.server import App, AppSettings
from aurora_trl.app.uploads import Limits
from aurora_trl.cli import main

pytest.importorskip("gradio", reason="needs the extra `app`")
playwright_api = pytest.importorskip("playwright.sync_api", reason="needs `pip install playwright`")
expect = playwright_api.expect
_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in _NAMES if (path := shutil.which(name))), "")
if not CHROMIUM:
    pytest.skip("needs a Chromium: `apt-get install chromium`", allow_module_level=True)

pytestmark = pytest.mark.slow
# What the text of an answer was, each time that it changed.
WATCH = """
window.texts = [];
new MutationObserver(() => {
  const column = document.querySelector("#answer-0 .answer");
  if (column) window.texts.push([column.dataset.state, column.querySelector(".reasoning").textContent]);
}).observe(document.querySelector("#answer-0"), {childList: true, subtree: true, characterData: true});
"""


@pytest.fixture(scope="module")
def chain(world, checkpoint, drawing_checkpoint, tmp_path_factory):
    """What a chain leaves: two checkpoints, the world, and an evaluation of each."""
    root = tmp_path_factory.mktemp("chain")
    (root / "data").symlink_to(world)
    for name, folder in (("base", checkpoint), ("sft", drawing_checkpoint)):
        (root / name).symlink_to(folder)
        flags = [
            "--data",
            str(world),
            "--output",
            str(root / "eval" / name),
            "--max-new-tokens",
            "16",
            "--max-rows",
            "12",
        ]
        assert main(["evaluate", str(folder), *flags]) == 0
    return root


@pytest.fixture(scope="module")
def app(chain):
    settings = AppSettings(
        models=[str(chain / "base"), str(chain / "sft")],
        answers=str(chain),
        phases=["base", "sft"],
        limits=Limits(upload_mb=1),
        max_new_tokens=24,
    )
    with App(settings) as app:
        app.address = app.launch()
        yield app
        folder = app.folder
    assert not folder.exists()


@pytest.fixture(scope="module")
def browser(app):
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(app, browser):
    context = browser.new_context(accept_downloads=True)
    yield open_page(app, context)
    context.close()


def open_page(app, context):
    page = context.new_page()
    page.outside = []
    page.on("request", lambda request: page.outside.append(request.url) if "127.0.0.1" not in request.url else None)
    page.goto(app.address)
    page.wait_for_selector("#reference textarea")
    return page


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A video with sound."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_clip_with_sound(path, [(0.0, tone(4, 48000))])
    return path


def drop(page, path, name="clip"):
    page.locator(f"#{name} input[type=file]").set_input_files(path)


def ask(page, sentence="the object that hums"):
    page.fill("#reference textarea", sentence)
    page.click("#ask")


def wait_for(condition, page):
    """Until it holds; a page that hangs fails by its limit."""
    for _ in range(600):
        if condition():
            return
        page.wait_for_timeout(100)
    raise AssertionError("it never came to that")


def test_a_clip_a_sentence_and_what_comes_out(page, clip, tmp_path):
    """Upload, reasoning that streams in, a video that plays with its sound, and downloads."""
    drop(page, clip)
    expect(page.locator("#message")).to_contain_text("clip.mp4: 4.0 s, 40 frames, 64 x 48 pixels, its own sound")
    expect(page.locator("#seen img")).to_be_visible()
    page.evaluate(WATCH)
    ask(page)
    for number in (0, 1):
        expect(page.locator(f"#answer-{number} [data-state=done]")).to_be_visible(timeout=60_000)
    texts = [text for state, text in page.evaluate("window.texts") if state == "writes"]
    lengths = [len(text) for text in texts]
    assert len(set(lengths)) >= 3
    assert lengths == sorted(lengths)

    video = page.locator("#answer-1 video")
    video.evaluate("video => { video.muted = true; return video.play(); }")
    wait_for(lambda: video.evaluate("video => video.currentTime") > 0.5, page)
    assert video.evaluate("video => [video.error, video.videoWidth, Math.round(video.duration)]") == [None, 64, 4]
    assert video.evaluate("video => video.webkitAudioDecodedByteCount") > 0
    head = page.locator("#answer-1 .head")
    wait_for(lambda: float(head.evaluate("head => parseFloat(head.style.left)")) > 5, page)
    page.locator("#answer-1 .wave").click(position={"x": 10, "y": 20})
    wait_for(lambda: video.evaluate("video => video.currentTime") < 0.5, page)
    assert page.locator("#answer-1 .tick").count() == 10

    files = {}
    for name in ("masks.zip", "masks.json", "overlay.mp4", "strip.png"):
        with page.expect_download() as download:
            page.click(f"#answer-1 a[data-file='{name}']")
        files[name] = tmp_path / name
        download.value.save_as(files[name])
    with zipfile.ZipFile(files["masks.zip"]) as archive:
        assert len(archive.namelist()) == 10
    assert len(json.loads(files["masks.json"].read_text())["masks"]) == 10
    assert page.outside == []  # nothing is fetched from elsewhere


def test_a_picture(page, world):
    picture = next(world.glob("media/*/frames/0.jpg"))
    drop(page, picture)
    expect(page.locator("#message")).to_contain_text("0.jpg: a picture")
    ask(page)
    expect(page.locator("#answer-1 [data-state=done] .strip")).to_be_visible(timeout=60_000)
    assert page.locator("#answer-1 video").count() == 0


@pytest.mark.parametrize("content", [b"no video at all", None], ids=["text", "cut short"])
def test_a_broken_file_is_one_line(content, page, clip, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(clip.read_bytes()[:2000] if content is None else content)
    drop(page, broken)
    error = page.locator("#message .error")
    expect(error).to_contain_text("broken.mp4: ")
    assert "/" not in error.text_content()
    ask(page)
    expect(page.locator("#message .error")).to_contain_text("broken.mp4: ")
    expect(page.locator("#answer-0 [data-state=ready]")).to_be_visible()


def test_nothing_to_ask_about(page, clip):
    page.click("#ask")
    expect(page.locator("#message .error")).to_contain_text("write a sentence")
    ask(page)
    expect(page.locator("#message .error")).to_contain_text("drop a video or a picture first")


def test_too_large_a_file_is_refused(page, app, tmp_path):
    large = tmp_path / "large.mp4"
    large.write_bytes(np.random.default_rng(0).bytes(3_000_000))
    drop(page, large)
    expect(page.get_by_text("exceed the maximum allowed size")).to_be_visible()
    assert not list(app.folder.rglob("large.mp4"))


def test_an_example(page):
    page.locator("#examples button").first.click()
    expect(page.locator("#message")).to_contain_text("0.jpg to 9.jpg: 10 pictures, 48 x 48 pixels, audio.wav")
    assert page.input_value("#reference textarea")
    page.click("#ask")
    expect(page.locator("#answer-1 [data-state=done] video")).to_be_visible(timeout=60_000)


def test_two_at_once_and_what_is_left_of_them(app, browser, clip):
    """Each gets their own answer; when they leave, their files go."""
    contexts = [browser.new_context() for _ in range(2)]
    pages = [open_page(app, context) for context in contexts]
    for number, page in enumerate(pages):
        drop(page, clip)
        expect(page.locator("#seen img")).to_be_visible()
        page.fill("#reference textarea", f"the object number {number}")
    for page in pages:
        page.click("#ask")
    sources = []
    for page in pages:
        expect(page.locator("#answer-1 [data-state=done] video")).to_be_visible(timeout=60_000)
        sources.append(page.get_attribute("#answer-1 video", "src"))
        assert page.locator("#message .error").count() == 0
    assert sources[0] != sources[1]
    contexts[0].close()
    # The clip is the same file for both: it is still there for the one who stays.
    wait_for(lambda: len(list(app.folder.rglob("overlay.mp4"))) == 2, pages[1])
    assert len(list(app.folder.rglob("clip.mp4"))) == 1
    other = browser.new_context().new_page()
    pages[1].click("#ask")
    contexts[1].close()  # without waiting for the answer
    wait_for(lambda: not [path for path in app.folder.rglob("*") if path.is_file()], other)
    other.context.close()


def test_evaluations_are_browsed(page):
    """Filters, pages, a row in both phases with its pictures, and the next one."""
    page.get_by_role("tab", name="Answers").click()
    expect(page.locator("#scores")).to_contain_text("test_s")
    expect(page.locator("#changes")).to_contain_text("From base to sft")
    expect(page.locator("#table tr[data-index]").first).to_be_visible()
    everything = page.locator("#line").text_content()
    page.locator("#table tr[data-index='1']").click()
    expect(page.locator("#cards img.strip")).to_have_count(2)
    expect(page.locator("#table tr.chosen")).to_have_attribute("data-index", "1")
    page.click("#below")
    expect(page.locator("#table tr.chosen")).to_have_attribute("data-index", "2")

    choose(page, "filter-split", "test_n")
    expect(page.locator("#table tr[data-index] td:nth-child(2)").first).to_have_text("test_n")
    assert page.locator("#line").text_content() != everything
    splits = page.locator("#table tr[data-index] td:nth-child(2)").all_text_contents()
    assert set(splits) == {"test_n"}
    choose(page, "filter-outcome", "poor mask")  # of a class, which a null reference has not
    expect(page.locator("#table")).to_contain_text("No answer is like that")


def choose(page, menu, value):
    page.locator(f"#{menu} input").click()
    page.get_by_role("option", name=value, exact=True).click()
