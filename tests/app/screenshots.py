"""
Takes the pictures of `docs/app.md` with a chain's output: two checkpoints, their evaluations, and the world.

    python tests/app/screenshots.py outputs/tiny docs/images 4 teacher grpo  # the example to ask about, the models
"""

import shutil
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from aurora_trl.app.server import App, AppSettings

WIDTH, HEIGHT = 1360, 1000


def take(page: Page, path: Path, clip: dict[str, Any] | None = None) -> None:
    """A PNG of few colours: a page has few, and a repository keeps every version."""
    page.evaluate("document.activeElement.blur()")
    page.wait_for_timeout(800)
    content = page.screenshot(full_page=clip is None, clip=clip)
    picture = Image.open(BytesIO(content)).convert("RGB")
    picture.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    sys.stdout.write(f"{path}: {picture.width} x {picture.height}, {path.stat().st_size / 1000:.0f} kB\n")


def ask(page: Page, example: int) -> None:
    page.locator("#examples button").nth(example).click()
    page.wait_for_selector("#seen img")
    page.click("#ask")
    page.wait_for_selector("#answer-1 [data-state=done] video", timeout=120_000)
    video = page.locator("#answer-1 video")
    page.wait_for_timeout(500)
    for number in (0, 1):
        page.locator(f"#answer-{number} video").evaluate("video => { video.currentTime = 4.2; }")
    video.evaluate("video => video.currentTime")


def browse(page: Page) -> None:
    page.get_by_role("tab", name="Answers").click()
    page.locator("#filter-change input").click()
    page.get_by_role("option", name="wrong to right", exact=True).click()
    page.wait_for_timeout(800)
    page.locator("#table tr[data-index]").first.click()
    page.wait_for_selector("#cards img.strip")
    page.wait_for_timeout(800)
    page.evaluate("window.scrollTo(0, 0)")


def main(root: str, output: str, example: str, *phases: str) -> None:
    models = [str(Path(root, phase)) for phase in phases or ("sft", "grpo")]
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    settings = AppSettings(models=models, answers=root)
    with App(settings) as app, sync_playwright() as playwright:
        address = app.launch()
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(address)
        page.wait_for_selector("#examples button")
        ask(page, int(example))
        take(page, Path(output, "app_ask.png"))
        browse(page)
        take(page, Path(output, "app_answers.png"), {"x": 0, "y": 0, "width": WIDTH, "height": 1500})
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
