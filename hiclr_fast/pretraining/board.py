"""Curves for TensorBoard, written at once by the process that trains: what the disk refuses is said there and then."""

import os
import socket
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from hiclr_fast.errors import writing


class Board:
    """An event file in `folder`. TensorBoard drops what earlier files hold from step `first` on."""

    def __init__(self, folder: Path, first: int):
        unique = f"{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        self.path = folder / f"events.out.tfevents.{unique}"
        with writing(folder):
            folder.mkdir(exist_ok=True)
            self.file = open(self.path, "wb")  # noqa: SIM115 (closed by `close`)
        self.records = RecordWriter(self.file)
        self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._add(Event(wall_time=time.time(), step=first, session_log=SessionLog(status=SessionLog.START)))

    def _add(self, event: Event) -> None:
        with writing(self.path):
            self.records.write(event.SerializeToString())
            self.records.flush()

    def write(self, step: int, values: dict[str, float]) -> None:
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))

    def close(self) -> None:
        with writing(self.path):
            self.file.close()
