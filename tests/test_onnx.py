"""The exported ONNX graph in onnxruntime: the same features for other batch sizes, lengths and numbers of bodies."""

import json

import numpy as np
import pytest
import torch
from helpers import tiny
from hiclr_kernels.augment.reference import to_stream

from hiclr_fast.data.contract import Contract
from hiclr_fast.errors import InputError
from hiclr_fast.models import onnx
from hiclr_fast.models.build import build_encoder
from hiclr_fast.models.layers import BatchNorm
from hiclr_fast.skeletons import LAYOUTS

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime of the export extra is not installed")


def trained(encoder: str, layout: str, stream: str):
    """An encoder in eval mode whose running statistics and affine parameters are those of no fresh one."""
    config = tiny(encoder=encoder, layout=layout, stream=stream, hidden_channels=4, hidden_dim=32)
    torch.manual_seed(0)
    model = build_encoder(config, LAYOUTS[layout])
    for norm in (m for m in model.modules() if isinstance(m, BatchNorm)):
        torch.nn.init.uniform_(norm.weight, 0.5, 2.0)
        torch.nn.init.normal_(norm.running_mean)
    return model.eval(), config, Contract.assumed(LAYOUTS[layout], stream)


@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "layout", "stream"), [("stgcn", "kinect20", "motion"), ("dsta", "ntu25", "bone")])
def test_onnxruntime_gives_the_features_of_torch(tmp_path, encoder, layout, stream):
    model, config, contract = trained(encoder, layout, stream)
    path = tmp_path / "encoder.onnx"
    assert onnx.export_onnx(model, config, contract, path) < onnx.TOLERANCE
    assert [p.name for p in tmp_path.iterdir()] == ["encoder.onnx"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for n, frames in ((1, 50), (7, 50), (4, 33)):
        x = torch.randn(n, 3, frames, LAYOUTS[layout].num_joints, 2)
        x[0, ..., -1] = 0  # an empty body
        with torch.no_grad():
            want = model.features(to_stream(x, stream, LAYOUTS[layout].parents)).numpy()
        (got,) = session.run(["features"], {"x": x.numpy()})
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())
        assert got.std(0).max() > 1e-3 or n == 1
    with pytest.raises(Exception, match="Got: 1 Expected: 2"):  # a body less would be another mean
        session.run(None, {"x": x[..., :1].numpy()})
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["layout"] == layout and json.loads(facts["config"])["stream"] == stream
    found = Contract.from_dict(json.loads(facts["input"]), "the file")
    assert (found.layout, found.shape, found.stream, found.how) == (LAYOUTS[layout], contract.shape, stream, contract.how)
    assert "absent ones included" in json.loads(facts["input"])["empty_bodies"]


def test_a_file_that_differs_is_not_written(tmp_path, monkeypatch):
    """A graph whose features are not those of torch: nothing is left behind."""
    model, config, contract = trained("stgcn", "ntu25", "joint")
    monkeypatch.setattr(onnx, "TOLERANCE", 0.0)
    with pytest.raises(InputError, match=r"onnxruntime differs from torch by .* not written"):
        onnx.export_onnx(model, config, contract, tmp_path / "encoder.onnx")
    assert not list(tmp_path.iterdir())
