"""The pretraining loop: epochs, signals, metrics and checkpoints, from wherever the trainer stands."""

import signal
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hiclr_fast.files.tensors import save_tensors
from hiclr_fast.models.load import CHECKPOINT
from hiclr_fast.pretraining.monitor import knn_monitor, monitored, tell
from hiclr_fast.pretraining.queue_health import queue_health
from hiclr_fast.pretraining.run_folder import Metrics
from hiclr_fast.pretraining.trainer import Pretrainer
from hiclr_fast.training.readback import Readback


def train(trainer: Pretrainer, out: Path) -> bool:
    """Trains until the last epoch; True when it got there, False when a signal stopped it (checkpoint saved).

    Rank 0 writes to the run folder `out`.
    """
    return Loop(trainer, out).run()


def save(trainer: Pretrainer, out: Path) -> None:
    """The checkpoint, by rank 0; InputError, and the old one stays, where a number is NaN or Inf."""
    trainer.check_finite()
    if trainer.ranks.rank == 0:
        save_tensors(trainer.state(), out / CHECKPOINT)


class Loop:
    def __init__(self, trainer: Pretrainer, out: Path):
        self.trainer, self.out = trainer, out
        self.metrics = Metrics(out, trainer.epoch - 1) if trainer.ranks.rank == 0 else None
        self.readback = Readback(trainer.device)
        self.saved, self.signal = time.monotonic(), 0  # the number of one that came

    def run(self) -> bool:
        trainer = self.trainer
        previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGTERM, signal.SIGINT)}
        done = False
        try:
            done = self._to_the_end()
        finally:
            trainer.close()
            if self.metrics:
                self.metrics.close()
            if not done:
                trainer.release()
            for number, handler in previous.items():
                signal.signal(number, handler)
        if done and self.signal:  # it came when all was trained and saved: it is for whoever goes on from here
            trainer.release()
            signal.raise_signal(self.signal)
        return done

    def _to_the_end(self) -> bool:
        """False when a signal came before the last epoch was done; then all is saved."""
        t = self.trainer
        while t.epoch <= t.config.epochs:
            if not self.epoch():
                self.save()
                return False
            if self.close_epoch() and t.epoch <= t.config.epochs:
                return False
        return True

    def _on_signal(self, number: int, _: Any) -> None:
        self.trainer.stop, self.signal = True, number

    def save(self) -> None:
        save(self.trainer, self.out)
        self.saved = time.monotonic()

    def epoch(self) -> bool:
        """The rest of the current epoch; False when a signal came."""
        t, c = self.trainer, self.trainer.config
        self.first, self.began, self.lr = t.step, time.perf_counter(), t.lr_at(0)
        size = dict(total=t.loader.steps * c.batch_size, initial=t.step * c.batch_size, unit="sample")
        with tqdm(**size, leave=False, disable=t.ranks.rank > 0) as bar:
            bar.set_description(f"epoch {t.epoch}/{c.epochs}")
            for batch in t.loader.epoch(t.epoch, t.step):
                t.train_step(batch)
                t.step += 1
                if t.step == self.first + 1:
                    bar.unpause()  # what compiles in a first step is no part of the time left
                bar.update(c.batch_size)
                stopping = t.stop and t.ranks.world == 1
                if t.step % c.read_every == 0 and (seen := self.readback.swap(t.train.health(), t.step)):
                    numbers, at = seen
                    t.check_finite(numbers)
                    bar.set_postfix(loss=f"{numbers[0] / at:.3f}", lr=f"{self.lr:.2g}")
                    stopping |= numbers[-2] > 0
                if t.step == t.loader.steps:
                    break  # the epoch is closed in any case: its metrics look at the last batch, which no checkpoint holds
                if stopping:
                    return False
                if time.monotonic() - self.saved > 60 * c.save_minutes:
                    self.save()
        return True

    def close_epoch(self) -> bool:
        """Metrics first, then the checkpoint: a run killed in between repeats the epoch's end, and loses no line.

        True when a rank was asked to stop; the same on all of them.
        """
        t, c, steps, done = self.trainer, self.trainer.config, self.trainer.loader.steps, self.trainer.epoch
        t.check_finite()
        loss, *terms, spread, stopping = (t.train.sums / steps).tolist()
        seconds = time.perf_counter() - self.began
        values = {"loss": loss, "info_nce": terms[0], "spread": spread, "lr": self.lr, "seconds": round(seconds, 3)}
        values |= {f"consistency_{b}": term for b, term in enumerate(terms[1:], 1)}
        values["samples_per_s"] = round((steps - self.first) * c.batch_size / seconds, 1)
        if self.first < steps:  # none where an older version saved after the last step
            values |= queue_health(t.train.seen_q, t.train.seen_key, t.model.queue, t.model.pointer, c.temperature, c.batch_size)
        t.epoch, t.step = done + 1, 0
        t.train.sums.zero_()
        if self.metrics is not None:
            self._write(done, values)
        return stopping > 0

    def _write(self, done: int, values: dict[str, float]) -> None:
        t, c = self.trainer, self.trainer.config
        if monitored(t.data) and (done == c.epochs or (c.knn_every and done % c.knn_every == 0)):
            values["knn1"] = knn_monitor(t.model.encoder_q, t.data, c.stream, t.device, t.resident)
        self.metrics.write(done, values)
        self.save()
        if c.keep_every and done % c.keep_every == 0:
            save_tensors(t.state(), self.out / f"checkpoint_epoch{done}.pt")
        tell(done, values, c)
