"""The encoder as an ONNX graph: joint coordinates in, pooled features out."""

import json
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from hiclr_kernels.augment.reference import Stream, to_stream
from torch import Tensor, nn

from hiclr_fast.errors import InputError
from hiclr_fast.files.atomic import replacing
from hiclr_fast.files.settings import as_plain
from hiclr_fast.models.build import Encoder
from hiclr_fast.models.config import EncoderConfig
from hiclr_fast.skeletons import get_layout

TOLERANCE = 1e-4  # of the largest feature, torch against onnxruntime
FRAMES, BODIES = 50, 2  # of the traced example; both are free in the file


class _Features(nn.Module):
    """(N, 3, T, V, M) joint coordinates as in a packed dataset -> (N, hidden_dim): the stream is made inside."""

    def __init__(self, encoder: Encoder, stream: Stream, parents: tuple[int, ...]):
        super().__init__()
        self.encoder, self.stream, self.parents = encoder, stream, parents

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder.features(to_stream(x, self.stream, self.parents))


def export_onnx(encoder: Encoder, config: EncoderConfig, path: Path) -> float:
    """Writes `x` (batch, 3, frames, V, bodies) float32 -> `features` (batch, hidden_dim); batch, frames and bodies are free.

    The graph makes the config's stream itself. Config and layout go into the file's metadata. Returns the largest
    difference from torch, relative to the largest feature, on a batch of another size; InputError, and no file, where it
    is above 1e-4.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch.onnx needs it)
    except ImportError as error:
        raise InputError(f"{error.name} is not installed; ONNX export needs pip install 'hiclr_fast[export]'") from None
    layout = get_layout(config.layout)
    model = _Features(encoder, config.stream, layout.parents).eval().cpu()
    free = {0: torch.export.Dim("batch"), 2: torch.export.Dim("frames"), 4: torch.export.Dim("bodies")}
    example = torch.randn(3, 3, FRAMES, encoder.num_joints, BODIES)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of packages that it does not need
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch about itself
        names = dict(input_names=["x"], output_names=["features"])
        program = torch.onnx.export(model, (example,), dynamo=True, dynamic_shapes=(free,), verbose=False, **names)
    program.model.metadata_props.update(config=json.dumps(as_plain(config.of_encoder())), layout=layout.name)
    with replacing(path) as temporary:
        program.save(temporary, external_data=False)
        x = torch.randn(5, 3, FRAMES + 7, encoder.num_joints, 1)
        with torch.no_grad():
            want = model(x).numpy()
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        difference = float(np.abs(session.run(None, {"x": x.numpy()})[0] - want).max() / np.abs(want).max())
        if not difference < TOLERANCE:
            raise InputError(f"{path}: onnxruntime differs from torch by {difference:.1e} of the largest feature; not written")
    return difference
