"""One process a folder; signals, full disks and closed pipes end in one line, and what was there stays."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import packed, tiny

from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.data.packed.writer import exclusive
from hiclr_fast.distributed import Ranks
from hiclr_fast.errors import InputError, run_script
from hiclr_fast.files.atomic import new_folder, write_text
from hiclr_fast.files.lock import Lock
from hiclr_fast.files.tensors import load_checkpoint
from hiclr_fast.pretraining import loop, run_folder
from hiclr_fast.pretraining.loop import train
from hiclr_fast.pretraining.run_folder import read_metrics
from hiclr_fast.pretraining.start import finish, resume, start
from hiclr_fast.pretraining.trainer import Pretrainer

ROOT = Path(__file__).parent.parent
HELD = "import sys; from hiclr_fast.files.lock import Lock; lock = Lock(sys.argv[1]); print('held', flush=True); input()"


@pytest.fixture
def data(tmp_path):
    return open_packed(packed(tmp_path / "set"))


def test_another_process_is_named_and_its_end_frees_the_folder(tmp_path):
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"}
    other = subprocess.Popen(
        [sys.executable, "-c", HELD, str(tmp_path / "a")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(InputError, match=rf"a is in use by process {other.pid} on .*; wait for it, or choose another folder"):
        Lock(tmp_path / "a")
    (tmp_path / "a" / ".x.99999.tmp.pt").write_text("half")  # as a killed process leaves it
    other.kill()
    other.communicate()
    with Lock(tmp_path / "a"):
        assert not (tmp_path / "a" / ".x.99999.tmp.pt").exists()
    assert list((tmp_path / "a").iterdir()) == []  # it was there before, so it stays


def test_a_run_belongs_to_one_process_until_it_is_finished(tmp_path, data):
    run = tmp_path / "run"
    trainer = start(tiny(epochs=1), data, run)
    before = (run / "config.yaml").read_bytes()
    for _ in range(2):
        with pytest.raises(InputError, match=f"is in use by process {os.getpid()}"):
            resume(tiny(epochs=9), data, run)
        assert train(trainer, run) and (run / "config.yaml").read_bytes() == before
    finish(trainer, run)
    assert not list(run.glob("*lock*")) and resume(tiny(epochs=2), data, run).epoch == 2


def test_the_second_of_two_starts_gets_a_sentence(tmp_path, data, monkeypatch):
    """Both have looked before either is there."""
    monkeypatch.setattr(run_folder, "check_free", lambda out: None)
    monkeypatch.setattr("hiclr_fast.pretraining.start.check_free", lambda out: None)
    first = start(tiny(seed=1), data, tmp_path / "run")
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    with pytest.raises(InputError, match="run exists already; another process made it meanwhile"):
        start(tiny(seed=2), data, tmp_path / "run")
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before and not list(tmp_path.glob(".*"))
    first.release()


class Twin(Ranks):
    """A rank whose only peer has the same numbers."""

    def __init__(self):
        super().__init__(0, 2, 0)

    def gather(self, rows):
        return torch.cat([rows, rows])

    def mean(self, x):
        return x

    def wait(self):
        pass


def test_several_ranks_stop_in_epochs_shorter_than_a_reading(tmp_path, data, monkeypatch):
    trainer = start(tiny(epochs=5, read_every=1000), data, tmp_path / "run", Twin())
    inner = Pretrainer.train_step

    def asked(self, *args):
        inner(self, *args)
        self.stop |= (self.epoch, self.step) == (2, 0)

    monkeypatch.setattr(Pretrainer, "train_step", asked)
    assert not train(trainer, tmp_path / "run")
    state = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert (state["epoch"], state["step"]) == (3, 0) and len(read_metrics(tmp_path / "run")) == 2


@pytest.mark.parametrize(("when", "place"), [(1, (2, 1)), (2, (3, 0))])
def test_a_signal_while_an_epoch_is_closed(tmp_path, data, monkeypatch, when, place):
    """After the last epoch it is for whoever goes on: all is saved by then, and the folder is free."""
    real = loop.tell

    def told(epoch, *args):
        real(epoch, *args)
        if epoch == when:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, "tell", told)
    run, seen = tmp_path / "run", []
    previous = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        done = train(start(tiny(epochs=2), data, run), run)
    finally:
        signal.signal(signal.SIGTERM, previous)
    state = load_checkpoint(run / "checkpoint.pt")
    assert (state["epoch"], state["step"]) == place and done is (when == 2) and seen == [signal.SIGTERM] * (when == 2)
    resume(tiny(epochs=2), data, run).release()


def kill_itself():
    os.kill(os.getpid(), signal.SIGTERM)


class Deaf:
    """Python cannot let an exception out of this."""

    def __del__(self):
        kill_itself()


def lose_it():
    Deaf()
    for _ in range(100):
        time.sleep(0.01)


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("main", "code", "line"),
    [
        (raising(InputError("a\nb")), 2, "error: a b"),
        (raising(InputError("x" * 10**5)), 2, "error: " + "x" * 500 + " ... " + "x" * 500),
        (raising(OSError(errno.ENOSPC, "No space left on device", "/x/y")), 2, "error: /x/y: No space left"),
        (raising(PermissionError(errno.EACCES, "Permission denied", b"/\xff")), 2, r"error: /\udcff: Permission denied"),
        (raising(BrokenPipeError(errno.EPIPE, "Broken pipe")), 2, "error: the reader of the output has closed it"),
        (raising(MemoryError()), 2, "error: out of memory or threads (MemoryError)"),
        (raising(RuntimeError("can't start new thread")), 2, "error: out of memory or threads (can't start new thread)"),
        (raising(torch.OutOfMemoryError("CUDA out of memory")), 2, "error: out of memory or threads (CUDA out of memory)"),
        (raising(KeyboardInterrupt()), 130, "stopped by SIGINT; what was saved before is whole"),
        (lose_it, 143, "stopped by SIGTERM; what was saved before is whole"),
        (kill_itself, 143, "stopped by SIGTERM; what was saved before is whole"),
    ],
)
def test_one_line_and_its_code(main, code, line, capsys, monkeypatch):
    monkeypatch.setattr("hiclr_fast.errors._close_output", lambda: None)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        run_script(main)
    (said,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == code and said.startswith(line) and signal.getsignal(signal.SIGTERM) == before


def test_a_fault_of_the_code_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="shapes"):
        run_script(raising(RuntimeError("shapes")))


def test_nothing_half_written_stays(tmp_path, monkeypatch):
    write_text(tmp_path / "a", "old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot write .*a: No space left on device; free some space"):
        write_text(tmp_path / "a", "new")
    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(InputError, match=r"cannot write .*folder: No space left on device"), new_folder(tmp_path / "folder") as f:
        (f / "x").write_text("x")
    assert (tmp_path / "a").read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_process_left_goes_when_its_file_is_written_again(tmp_path):
    """What a living one writes stays."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left, others = tmp_path / f".e.{dead.pid}.tmp.txt", tmp_path / f".e.{os.getppid()}.tmp.txt"
    for file in (left, others):
        file.write_text("half")
    write_text(tmp_path / "e.txt", "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([others.name, "e.txt"])


def test_files_of_others_that_look_temporary_stay(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = [tmp_path / f".{name}.{dead.pid}.tmp.y" for name in ("a", "a.x")]
    theirs = [tmp_path / name for name in (".draft.tmp", ".vault.tmp.bak", ".a.my-tmp.y", f".a.x.{os.getppid()}.tmp.y", "thesis")]
    for folder in (*left, *theirs):
        folder.mkdir()
    with exclusive(tmp_path / "a.y"):
        assert sorted(tmp_path.glob(".*tmp*")) == sorted([left[1], *theirs[:-1]])
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "new"):
        for file in (tmp_path / "thesis" / name.name for name in (*left, *theirs)):
            file.touch()
        with Lock(tmp_path / "thesis"), Lock(folder):
            pass
    assert sorted(p.name for p in (tmp_path / "thesis").iterdir()) == sorted(p.name for p in theirs)
    assert (tmp_path / "empty").is_dir() and not (tmp_path / "new").exists()


def test_an_interrupted_library_that_stumbles_is_a_stop(capsys):
    def main():
        try:
            signal.raise_signal(signal.SIGTERM)
            time.sleep(5)
        except KeyboardInterrupt:
            raise IndexError("list index out of range") from None

    with pytest.raises(SystemExit) as stop:
        run_script(main)
    assert stop.value.code == 143 and capsys.readouterr().err.startswith("stopped by SIGTERM; what was saved")


def test_closed_streams_and_names_that_are_no_text():
    code = "from hiclr_fast.errors import run_script; run_script(lambda: print('f\\udcff'))"
    for closing in (">&-", "2>&-", ">/dev/null"):
        done = subprocess.run(["bash", "-c", f'"$0" -c "$1" {closing}', sys.executable, code], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=strict)
    assert done.returncode == 0 and done.stdout == b"f\\udcff\n"
