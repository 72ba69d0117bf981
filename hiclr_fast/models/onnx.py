"""The encoder as an ONNX graph: joint coordinates in, pooled features out."""

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from hiclr_kernels.augment.reference import Stream, to_stream
from torch import Tensor, nn

from hiclr_fast.data.contract import Contract
from hiclr_fast.errors import InputError
from hiclr_fast.files.atomic import replacing
from hiclr_fast.models.build import Encoder
from hiclr_fast.models.config import EncoderConfig
from hiclr_fast.models.load import export_facts

TOLERANCE = 1e-4  # of the largest feature, torch against onnxruntime


class _Network(nn.Module):
    """(N, 3, T, V, M) joint coordinates as in a packed dataset -> features (N, D), and with a head probabilities (N, C): the
    stream is made inside."""

    def __init__(self, encoder: Encoder, head: nn.Linear | None, stream: Stream, parents: tuple[int, ...]):
        super().__init__()
        self.encoder, self.head, self.stream, self.parents = encoder, head, stream, parents

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features = self.encoder.features(to_stream(x, self.stream, self.parents))
        return (features,) if self.head is None else (features, self.head(features).softmax(1))


def export_onnx(
    encoder: Encoder,
    config: EncoderConfig,
    contract: Contract,
    path: Path,
    head: nn.Linear | None = None,
    facts: dict[str, str] | None = None,
) -> float:
    """Writes `x` (batch, 3, frames, V, M) float32 -> `features` (batch, D), and with a head `probabilities` (batch, C).

    x holds rows as in a packed dataset; the graph makes the stream itself. Batch and frames are free; the number of bodies is
    that of training, since absent ones (zeros) count in the features. Metadata: config, layout, and `input`, the whole
    contract as JSON; and `facts`. Returns the largest difference from torch, relative to the largest output, on a batch of
    another size; InputError, and no file, where it is above 1e-4.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch.onnx needs it)
    except ImportError as error:
        raise InputError(f"{error.name} is not installed; ONNX export needs pip install 'hiclr_fast[export]'") from None
    model = _Network(encoder, head, contract.stream, contract.layout.parents).eval().cpu()
    free = {0: torch.export.Dim("batch"), 2: torch.export.Dim("frames")}
    _, frames, joints, bodies = contract.shape
    example = torch.randn(3, 3, frames, joints, bodies)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of packages that it does not need
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch about itself
        names = dict(input_names=["x"], output_names=["features", "probabilities"][: 1 if head is None else 2])
        program = torch.onnx.export(model, (example,), dynamo=True, dynamic_shapes=(free,), verbose=False, **names)
    program.model.metadata_props.update(export_facts(config, contract) | (facts or {}))
    with replacing(path) as temporary:
        program.save(temporary, external_data=False)
        x = torch.randn(5, 3, frames + 7, joints, bodies)
        x[0, ..., -1] = 0  # an empty body
        with torch.no_grad():
            wanted = [y.numpy() for y in model(x)]
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        found = session.run(None, {"x": x.numpy()})
        difference = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, wanted, strict=True))
        if not difference < TOLERANCE:
            raise InputError(f"{path}: onnxruntime differs from torch by {difference:.1e} of the largest feature; not written")
    return difference
