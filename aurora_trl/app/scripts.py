"""What runs in the browser, and how the page looks."""

from pathlib import Path

_FOLDER = Path(__file__).parent
STYLE_FILE = _FOLDER / "page.css"
PLAYER_SCRIPT = (_FOLDER / "player.js").read_text(encoding="utf-8")
CHOOSE_SCRIPT = (_FOLDER / "choose.js").read_text(encoding="utf-8")
