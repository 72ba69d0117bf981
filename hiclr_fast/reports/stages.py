"""One pretraining as a stage of a longer plan: done once, continued after a stop, never mixed with another."""

from dataclasses import replace
from pathlib import Path

from hiclr_fast.data.packed.dataset import Packed
from hiclr_fast.errors import InputError
from hiclr_fast.models.load import CHECKPOINT
from hiclr_fast.pretraining.config import PretrainConfig
from hiclr_fast.pretraining.loop import train
from hiclr_fast.pretraining.run_folder import ENCODER, load_run_config, read_environment
from hiclr_fast.pretraining.start import finish, resume, start
from hiclr_fast.pretraining.trainer import MAY_CHANGE


def pretrain_stage(config: PretrainConfig, data: Packed, out: Path) -> bool:
    """Makes sure that `out` holds a finished run; True when it does, False when a signal stopped it.

    A run that is there already is taken when it has the same settings and data.
    """
    if (out / CHECKPOINT).is_file():
        theirs = load_run_config(out)
        facts = read_environment(out)
        names = ["epochs", *(name for name in vars(config) if name not in MAY_CHANGE)]
        wanted = {name: (getattr(config, name), getattr(theirs, name)) for name in names}
        # beyond its epochs a run never mines
        wanted["mining_epoch"] = tuple(min(c.mining_epoch, c.epochs) for c in (config, theirs))
        wanted["data checksum"] = (data.checksum, facts.get("data_checksum"))
        for what, (mine, found) in wanted.items():
            if mine != found:
                raise InputError(f"{out} is a run with {what} {found}, expected {mine}; move it away, or choose another --out")
        if (out / ENCODER).is_file():
            return True
        trainer = resume(replace(theirs, out=out, data=data.path), data, out)
    elif out.exists():
        raise InputError(f"{out} holds no {CHECKPOINT}, so it is no run to evaluate; move it away, or choose another --out")
    else:
        trainer = start(replace(config, out=out, data=data.path), data, out)
    print(f"pretraining {out}, epochs {trainer.epoch} to {trainer.config.epochs}", flush=True)
    if not train(trainer, out):
        return False
    finish(trainer, out)
    return True
