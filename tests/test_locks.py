"""One run at a time: the second is refused by host, process and since when; what a killed run left blocks nobody."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from aurora_trl import AuroraSFTConfig, locks
from aurora_trl.cli import main
from aurora_trl.data import DataError
from aurora_trl.locks import LOCK_FILE, RunLock, hold, release
from aurora_trl.training.launch import prepare_run

HOLDER = """import sys, time
from aurora_trl.locks import hold
hold(sys.argv[1])
print("held", flush=True)
time.sleep(3000)
"""


@pytest.fixture
def another_run(tmp_path):
    """Lets another process hold a lock; returns the process."""
    started = []

    def start(path):
        process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def refusal(process):
    return rf"another run is writing it: process {process.pid} on {socket.gethostname()} since \d{{4}}-\d\d-\d\d \d\d:"


def test_a_phase_waits_for_nobody_and_overwrites_nobody(another_run, tmp_path):
    args = AuroraSFTConfig(output_dir=str(tmp_path / "sft"), use_cpu=True, bf16=False, report_to="none")
    other = another_run(tmp_path / "sft" / LOCK_FILE)
    with pytest.raises(DataError, match=refusal(other)):
        prepare_run(args)
    other.send_signal(signal.SIGKILL)  # not waited for: as a zombie it is dead, too
    while locks._start_of(other.pid) is not None:
        time.sleep(0.01)
    assert (tmp_path / "sft" / LOCK_FILE).exists()
    assert prepare_run(args) is None
    assert prepare_run(args) is None  # once more in the same process
    assert json.loads((tmp_path / "sft" / LOCK_FILE).read_text())["process"] == os.getpid()
    release(tmp_path / "sft" / LOCK_FILE)
    assert not (tmp_path / "sft" / LOCK_FILE).exists()


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "CHECKPOINT", "--data", "WORLD", "--output", "out"],
        ["segment", "--model", "CHECKPOINT", "--frames", "FRAME", "--reference", "it", "--output", "out"],
        ["tiny-model", "out"],
    ],
    ids=lambda command: command[0],
)
def test_a_command_is_refused_where_another_writes(command, another_run, checkpoint, world, rows, tmp_path, capsys):
    other = another_run(tmp_path / "out" / LOCK_FILE)
    places = {"CHECKPOINT": checkpoint, "WORLD": world, "FRAME": rows[0]["frames"][0], "out": tmp_path / "out"}
    assert main([str(places.get(word, word)) for word in command]) == 1
    assert re.search(refusal(other), capsys.readouterr().err)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK_FILE]


def test_the_end_of_a_process_lets_go(tmp_path):
    code = "import sys; from aurora_trl.locks import hold; hold(sys.argv[1]); sys.exit('an error')"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / LOCK_FILE)], stderr=subprocess.PIPE)
    assert not any(tmp_path.iterdir())


def test_another_process_of_the_same_number_is_another(tmp_path):
    path = tmp_path / LOCK_FILE
    record = RunLock(path, tmp_path).record
    path.write_text(json.dumps({**record, "process": os.getppid(), "start": "1"}))
    assert hold(path)["process"] == os.getppid()
    release(path)


def of_another_machine(path, **changes):
    record = RunLock(path, path.parent).record
    path.write_text(json.dumps({**record, "host": "node7", "machine": "another", "process": 7, **changes}))


def test_a_run_on_another_machine_is_known_by_its_sign_of_life(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locks, "_POLL_SECONDS", 0.01)
    path = tmp_path / LOCK_FILE
    of_another_machine(path)
    stop = threading.Event()

    def beat():
        while not stop.wait(0.01):
            os.utime(path)

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(DataError, match="another run is writing it: process 7 on node7 since"):
        hold(path)
    stop.set()
    thread.join()
    assert "node7 may be writing it; watching it for" in capsys.readouterr().err


@pytest.mark.parametrize("silent", ["for long", "from now on"])
def test_a_silent_one_is_gone(silent, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_POLL_SECONDS", 0.01)
    if silent == "from now on":
        monkeypatch.setattr(locks, "_SILENCE_SECONDS", 0.2)
    path = tmp_path / LOCK_FILE
    of_another_machine(path)
    if silent == "for long":
        os.utime(path, (time.time() - 61, time.time() - 61))
    assert hold(path)["host"] == "node7"
    release(path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"process": "x"}'])
def test_a_lock_that_says_nothing_blocks_for_a_minute_at_most(content, tmp_path):
    path = tmp_path / LOCK_FILE
    path.write_text(content)
    os.utime(path, (1, 1))
    assert hold(path) is not None
    release(path)


def test_the_lock_shows_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_BEAT_SECONDS", 0.01)
    path = tmp_path / LOCK_FILE
    hold(path)
    os.utime(path, (1, 1))
    while path.stat().st_mtime == 1:
        time.sleep(0.01)
    of_another_machine(path)  # taken by another, while this machine slept
    os.utime(path, (1, 1))
    time.sleep(0.05)
    assert path.stat().st_mtime == 1
    release(path)
    assert path.exists()  # it is not ours


def test_of_many_that_find_a_dead_lock_one_takes_it(tmp_path):
    path = tmp_path / LOCK_FILE
    for _ in range(5):
        path.write_text(json.dumps({**RunLock(path, tmp_path).record, "start": "1", "process": os.getppid()}))
        taken, refused, ready = [], [], threading.Barrier(8)

        def take(taken=taken, refused=refused, ready=ready):
            lock = RunLock(path, tmp_path)
            ready.wait()
            try:
                lock.acquire()
                taken.append(lock)
            except DataError as error:
                refused.append(error)

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(taken), len(refused)) == (1, 7)
        taken[0].release()
    assert not any(tmp_path.iterdir())
