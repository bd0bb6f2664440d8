"""Progress of long runs: lines in a log file, a bar on a terminal."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

from conftest import REPOSITORY

SCRIPT = """
import time
from aurora_trl.progress import Progress
progress = Progress(6, every_seconds={seconds}, unit="clips"{more})
for number in range(6):
    time.sleep(0.25)
    progress.step("reading train")
"""


def run(stderr, seconds=0.2, more=""):
    command = [sys.executable, "-c", SCRIPT.format(seconds=seconds, more=more)]
    return subprocess.run(command, stderr=stderr, cwd=REPOSITORY, check=True)


def test_a_log_file_has_lines(tmp_path):
    with open(tmp_path / "log", "w") as file:
        run(file)
    text = (tmp_path / "log").read_text()
    assert "\r" not in text
    lines = text.splitlines()
    assert len(lines) >= 3
    assert all(re.fullmatch(r"    \d/6 clips \(reading train\), \d\d:\d\d left", line) for line in lines)
    assert lines[-1] == "    6/6 clips (reading train), 00:00 left"


def test_a_short_run_says_nothing(tmp_path):
    for name, settings in (("short", {"seconds": 60}), ("quiet", {"more": ", quiet=True"})):
        with open(tmp_path / name, "w") as file:
            run(file, **settings)
        assert (tmp_path / name).read_text() == ""


def test_a_terminal_has_a_bar():
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))  # as a real one has
    run(theirs)
    os.close(theirs)
    text = b""
    try:
        while part := os.read(ours, 4096):
            text += part
    except OSError:  # the end of a terminal
        pass
    os.close(ours)
    assert b"\r" in text
    assert b"clips" in text
    assert b"reading train" in text
