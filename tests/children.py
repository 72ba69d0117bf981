"""Runs the programs in forked children of this process, which has everything imported: many and cheap, with limits and faults.

Not imported by tests, whose process has threads of its own: `scripts/campaign.py` is that process.
"""

import contextlib
import faulthandler
import fcntl
import os
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from helpers import packed
from tqdm import tqdm

import hiclr_fast.data.loading.loader as loading
from hiclr_fast.cli import COMMANDS, script

PIPE = 1 << 20  # bytes that a child can say before it has to wait; the most that Linux grants everybody
FINE, REFUSED, WRONG = "fine", "refused", "wrong"
TINY = (
    "--device cpu --threads 1 --hidden-channels 2 --hidden-dim 8 --feature-dim 8 --queue-size 16 --batch-size 8 --lr 0.01 "
    "--momentum 0.9 --init torch --knn-every 2 --loader resident --epochs 3"
).split()


@dataclass
class Ended:
    """What came of a child. code: its exit code, minus the number of the signal that ended it; None: it had to be killed."""

    code: int | None
    text: str
    seconds: float

    def judge(self) -> tuple[str, str]:
        """(fine | refused | wrong, why): a refusal is one line on its own and exit code 2, a stop one line and 128 + signal."""
        lines = [line.strip() for line in self.text.replace("\r", "\n").splitlines() if line.strip()]
        last = lines[-1] if lines else ""
        if self.code is None:
            return WRONG, f"no end within {self.seconds:.0f} s: {self.text[-3000:]}"
        if "Traceback" in self.text or "Exception ignored" in self.text:
            return WRONG, f"traceback: {last[:300]}"
        if self.code == 0:
            return FINE, last[:200]
        if self.code == 2 and "For full helptext" in self.text:
            return REFUSED, "by the parser of arguments"
        said = [line for line in lines if line.startswith(("error: ", "stopped by "))]
        if self.code in (2, 130, 143) and len(said) == 1 and said[0] == last and len(last) < 1500:
            return REFUSED, last[:300]
        return WRONG, f"code {self.code}, {len(said)} sentences: {last[:300]}"


class Child:
    """One program, or one function, in a process of its own.

    what: its words, or the function. cwd: where it runs. fault: called in the child first. memory: bytes of address space above
    what it has; file_size: of the largest file it may write; user: whose rights it has.
    """

    def __init__(
        self,
        what: tuple | Callable[[], object],
        *,
        cwd: Path,
        fault: Callable[[], None] = lambda: None,
        memory: int | None = None,
        file_size: int | None = None,
        user: int | None = None,
    ):
        self.began = time.monotonic()
        self.said, out = os.pipe()  # no file: a limit on the size of files would cut what is said
        fcntl.fcntl(out, fcntl.F_SETPIPE_SZ, PIPE)
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self.said)
                os._exit(self._run(out, what, fault, memory, file_size, user, cwd))
            finally:
                os._exit(99)
        os.close(out)
        os.set_blocking(self.said, False)

    def _run(self, out, what, fault, memory, file_size, user, cwd) -> int:
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.close(out)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(cwd)
        if user:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if file_size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
        if memory is not None:
            limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + memory
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        tqdm.set_lock(threading.RLock())  # its usual one is shared with every child, whatever a killed one did with it
        faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
        code = 1
        try:
            fault()
            if callable(what):
                what()
                return 0
            sys.argv = [f"hiclr {what[0]}", *map(str, what[1:])]
            script(what[0])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        return code & 255

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = 60) -> Ended:
        """Its end; kills it after that time."""
        while time.monotonic() - self.began < seconds:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                return Ended(code, self._text(), time.monotonic() - self.began)
            time.sleep(0.005)
        os.kill(self.pid, signal.SIGUSR1)  # it says where it is
        time.sleep(0.5)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return Ended(None, self._text(), seconds)

    def _text(self) -> str:
        """What it printed; it has ended, so all is there."""
        parts = []
        with contextlib.suppress(BlockingIOError):  # a child of it lives and may still say something
            while part := os.read(self.said, PIPE):
                parts.append(part)
        os.close(self.said)
        return b"".join(parts).decode(errors="replace")


class Place:
    """A folder with a packed set, another one, and a finished run, in which cases are tried."""

    def __init__(self, folder: Path):
        for command in COMMANDS:
            __import__(f"hiclr_fast.cli.{command}")
        for late in ("hiclr_fast.reports.run_report", "sklearn.cluster", "sklearn.manifold", "sklearn.metrics", "scipy.optimize"):
            __import__(late)
        torch.set_num_threads(1)
        tqdm.monitor_interval = 0  # no thread that a child would miss
        real = loading.make_feed  # importing DALI takes every child seconds
        loading.make_feed = lambda split, ids, size, device, dali: real(split, ids, size, device, False)
        self.folder, self.number, self.kinds = folder.resolve(), 0, {}
        self.here = self.folder / "here"
        self.here.mkdir()
        self.set, self.other = packed(self.folder / "set"), packed(self.folder / "other", seed=7)
        self.run = self.folder / "run"
        self._here("pretrain", "--data", self.set, "--out", self.run, *TINY, "--mining-epoch", 1)
        self._here("evaluate", "linear", "--run", self.run, "--epochs", 2)
        self._here("evaluate", "finetune", "--run", self.run, "--epochs", 1, "--batch-size", 8, "--augment", True)

    def _here(self, *words: object) -> None:
        """In this process: numba's and torch's code is loaded once."""
        before, sys.argv = sys.argv, ["hiclr", *map(str, words[1:])]
        try:
            script(str(words[0]))
        except SystemExit as stop:
            if stop.code:
                raise RuntimeError(f"{words} ended with {stop.code}") from None
        finally:
            sys.argv = before

    def fresh(self, name: str) -> Path:
        """A path of that name at which nothing lies, in a new folder."""
        self.number += 1
        for old in self.folder.glob("case*"):
            if int(old.name.removeprefix("case")) < self.number - 3:
                shutil.rmtree(old, ignore_errors=True)
        place = self.folder / f"case{self.number}"
        place.mkdir()
        return place / name

    def copy(self, name: str = "run") -> Path:
        """A copy of the finished run."""
        return shutil.copytree(self.run, self.fresh(name))

    def start(self, *words: object, **how) -> Child:
        self.number += 1
        return Child(words, **{"cwd": self.here, **how})

    def call(self, function: Callable[[], object], **how) -> Child:
        self.number += 1
        return Child(function, **{"cwd": self.here, **how})


def same(a: object, b: object) -> bool:
    """Equal, tensors and arrays bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and np.array_equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(same, a, b))
    return a == b
