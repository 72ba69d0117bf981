"""The beginning, the continuation and the end of a run."""

from pathlib import Path

from hiclr_fast.data.packed.dataset import Packed
from hiclr_fast.distributed import ALONE, Ranks
from hiclr_fast.files.settings import save_yaml
from hiclr_fast.files.tensors import load_checkpoint
from hiclr_fast.models.load import CHECKPOINT, export_encoder
from hiclr_fast.pretraining.config import PretrainConfig
from hiclr_fast.pretraining.run_folder import ENCODER, create_run
from hiclr_fast.pretraining.trainer import Pretrainer


def start(config: PretrainConfig, data: Packed, out: Path, ranks: Ranks = ALONE) -> Pretrainer:
    """A new run in a new folder, which can be resumed as soon as it is there."""
    trainer = Pretrainer(config, data, ranks)
    if ranks.rank == 0:
        create_run(out, config, trainer.device, data.checksum, trainer.state())
    return trainer


def resume(config: PretrainConfig, data: Packed, run: Path, ranks: Ranks = ALONE) -> Pretrainer:
    """Continues the run in that folder from its checkpoint, with the settings of `config` from here on."""
    state = load_checkpoint(run / CHECKPOINT)
    trainer = Pretrainer(config, data, ranks)
    trainer.restore(state, str(run / CHECKPOINT))
    if ranks.rank == 0:
        save_yaml(config, run / "config.yaml")
        (run / ENCODER).unlink(missing_ok=True)  # it marks a finished run, and would be older than the checkpoint
    return trainer


def finish(trainer: Pretrainer, out: Path) -> None:
    """The query encoder for use elsewhere; where it lies in a run folder, the run is finished."""
    export_encoder(trainer.model.encoder_q, trainer.config, trainer.data.layout.name, out / ENCODER)
