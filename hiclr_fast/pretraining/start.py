"""The beginning, the continuation and the end of a run."""

from dataclasses import replace
from pathlib import Path

from hiclr_fast.data.contract import Contract
from hiclr_fast.data.packed.dataset import Packed
from hiclr_fast.distributed import ALONE, Ranks
from hiclr_fast.errors import InputError, writing
from hiclr_fast.files.lock import Lock
from hiclr_fast.files.settings import save_yaml
from hiclr_fast.files.tensors import load_checkpoint
from hiclr_fast.models.load import CHECKPOINT, export_encoder
from hiclr_fast.pretraining.config import PretrainConfig
from hiclr_fast.pretraining.run_folder import ENCODER, check_free, check_metrics, create_run
from hiclr_fast.pretraining.trainer import Pretrainer


def start(config: PretrainConfig, data: Packed, out: Path, ranks: Ranks = ALONE) -> Pretrainer:
    """A new run in a new folder, which can be resumed as soon as it is there. No other process may use it until `finish`."""
    config = replace(config, data=config.data and config.data.absolute())  # it is found from any folder
    if ranks.rank == 0:
        check_free(out)
    trainer = Pretrainer(config, data, ranks)
    if ranks.rank == 0:
        trainer.lock = create_run(out, config, trainer.device, data.checksum, trainer.state())
    return trainer


def resume(config: PretrainConfig, data: Packed, run: Path, ranks: Ranks = ALONE) -> Pretrainer:
    """Continues the run in that folder from its checkpoint, with the settings of `config` from here on.

    InputError, and all stays as it is, where another process uses the run.
    """
    lock = Lock(run) if ranks.rank == 0 else None
    try:
        ranks.wait()  # until the checkpoint is nobody else's
        state = load_checkpoint(run / CHECKPOINT)
        trainer = Pretrainer(config, data, ranks)
        trainer.restore(state, str(run / CHECKPOINT))
        begun = trainer.epoch if trainer.step else trainer.epoch - 1
        if config.epochs < begun:
            raise InputError(f"{run} has begun epoch {begun}, more than --epochs {config.epochs}; give at least {begun}")
        if lock:
            check_metrics(run)
            save_yaml(config, run / "config.yaml")
            if trainer.epoch <= config.epochs:
                with writing(run):
                    (run / ENCODER).unlink(missing_ok=True)  # it marks a finished run, and would be older than the checkpoint
    except BaseException:
        if lock:
            lock.release()
        raise
    trainer.lock = lock
    return trainer


def finish(trainer: Pretrainer, out: Path) -> None:
    """The query encoder for use elsewhere; where it lies in a run folder, the run is finished, and free for others."""
    try:
        contract = Contract.of(trainer.data, trainer.config.stream)
        export_encoder(trainer.model.encoder_q, trainer.config, contract, out / ENCODER)
    finally:
        trainer.release()
