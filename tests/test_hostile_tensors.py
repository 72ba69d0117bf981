"""Checkpoints and weights that were cut, changed or made up: one sentence before anything is loaded; sound ones stay readable."""

import copy
import io
import json
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from fuzz_structures import deep
from helpers import packed, tiny
from safetensors.torch import save_file
from test_hostile_files import refuses

from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.errors import InputError
from hiclr_fast.files.tensors import load_checkpoint, load_tensors, load_weights_file
from hiclr_fast.models.load import load_encoder, load_official
from hiclr_fast.pretraining.start import finish, start
from hiclr_fast.pretraining.trainer import Pretrainer

ONE = torch.zeros(1)
CONV = "encoder_q.blocks.0.conv.weight"
WIDE = "encoder_q.projector.2.weight"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    data = open_packed(packed(root / "set", train=16, val=4))
    trainer = start(tiny(data=data.path), data, root / "run")
    finish(trainer, root / "run")
    trainer.release()
    return root


@pytest.fixture(scope="module")
def trainer(run):
    data = open_packed(run / "set")
    return Pretrainer(tiny(data=data.path), data)


@pytest.fixture
def state(run):
    return torch.load(run / "run" / "checkpoint.pt", weights_only=True)


def momentum(state, tensor):
    state["optimizer"]["state"][1]["momentum_buffer"] = tensor


CHANGES = {
    "a momentum of another length": (lambda s: momentum(s, torch.zeros(7)), r"momentum of parameter 1 is torch.float32 \(7,\)"),
    "a momentum that is NaN": (lambda s: momentum(s, torch.full((3, 25, 25), torch.nan)), "momentum of parameter 1 is"),
    "no momentum": (lambda s: s["optimizer"]["state"].pop(3), "momentum of parameter 3 is a NoneType"),
    "a momentum too many": (lambda s: s["optimizer"]["state"].update({999: {}}), "optimizer is not that of this model"),
    "no optimizer": (lambda s: s.pop("optimizer"), "holds no optimizer"),
    "NaN in the queue": (lambda s: s["model"]["queue"].fill_(torch.nan), "queue holds NaN or Inf"),
    "an infinite variance": (lambda s: s["model"]["encoder_q.data_bn.running_var"].fill_(torch.inf), "holds NaN or Inf"),
    "a negative variance": (lambda s: s["model"]["encoder_q.data_bn.running_var"].fill_(-1), "negative variance"),
    "a pointer beyond the queue": (lambda s: s["model"]["pointer"].fill_(10**6), "pointer is 1000000, expected"),
    "sums of another length": (lambda s: s.update(sums=torch.zeros(99)), r"sums is torch.float32 \(99,\)"),
    "an epoch of text": (lambda s: s.update(epoch="3"), "epoch is a str, expected a whole number from 1 to 3"),
    "an epoch far off": (lambda s: s.update(epoch=10**9), "epoch is 1000000000"),
    "a negative step": (lambda s: s.update(step=-3), "step is -3"),
    "a step far off": (lambda s: s.update(step=10**6), "step is 1000000"),
    "ranks of text": (lambda s: s.update(world="x"), "world is a str"),
    "another layout": (lambda s: s.update(layout="zzz"), "names another layout"),
    "weights of another kind": (lambda s: s["model"].update({CONV: s["model"][CONV].double()}), "torch.float64"),
    "a weight of text": (lambda s: s["model"].update({CONV: "abc"}), "is str, expected a tensor"),
    "stride 0": (lambda s: s["model"].update({WIDE: ONE.expand(10**6, 10**6)}), "items overlap or have gaps"),
    "gaps": (lambda s: s["model"].update({WIDE: torch.zeros(9).as_strided((5,), (2,))}), "items overlap or have gaps"),
    "a bytearray": (lambda s: s.update(x=bytearray(5)), "names the global builtins.bytearray|__builtin__"),
    "a sparse tensor": (lambda s: s.update(x=torch.eye(3).to_sparse()), "names the global|calls"),
    "a complex tensor": (lambda s: s.update(x=torch.zeros(2, dtype=torch.complex64)), "names the global"),
    "nested lists": (lambda s: s.update(config={"epochs": deep(100)}), "nested or shared"),
    "no names of settings": (lambda s: s["config"].update({5: 1}), "a name that is no text"),
    "a list for settings": (lambda s: s.update(config=[1]), "not a checkpoint of hiclr_fast"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_state_is_refused_and_nothing_is_loaded(tmp_path, trainer, state, change):
    make, what = CHANGES[change]
    make(state)
    torch.save(state, tmp_path / "c.pt")
    before = copy.deepcopy(trainer.state())
    with pytest.raises(InputError, match=what) as found:
        trainer.restore(load_checkpoint(tmp_path / "c.pt"), str(tmp_path / "c.pt"))
    assert "\n" not in str(found.value) and len(str(found.value)) < 400
    for a, b in zip(torch.utils._pytree.tree_leaves(before), torch.utils._pytree.tree_leaves(trainer.state()), strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_settings_of_the_optimizer_are_those_of_the_config(trainer, state, tmp_path):
    state["optimizer"]["param_groups"][0].update(momentum=100.0, weight_decay=-1.0)
    torch.save(state, tmp_path / "c.pt")
    trainer.restore(load_checkpoint(tmp_path / "c.pt"), "c.pt")
    (group,) = trainer.train.optimizer.param_groups
    assert (group["momentum"], group["weight_decay"], group["lr"]) == (0.9, 1e-4, trainer.train.lr)


def test_what_is_read_is_what_torch_reads(run, state, tmp_path):
    found = load_checkpoint(run / "run" / "checkpoint.pt")
    torch.save(found["model"], tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    state["model"]["half"], state["model"]["none"] = torch.arange(6.0).half().view(2, 3).T, torch.zeros(0, 3)
    state["model"]["parameter"] = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    torch.save(state, tmp_path / "new.pt")
    for mine, theirs in (
        (load_tensors(tmp_path / "new.pt")["model"], state["model"]),
        (load_tensors(tmp_path / "old.pt"), found["model"]),
    ):
        assert list(mine) == list(theirs)
        for name, tensor in mine.items():
            assert torch.equal(tensor, theirs[name].detach()) and tensor.dtype == theirs[name].dtype


def test_every_flipped_bit_is_found(run, tmp_path):
    """In the content of every member of a checkpoint; the lists of the zip itself are checked by what they name."""
    file = run / "run" / "checkpoint.pt"
    sound = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        members = [m for m in archive.infolist() if "/data" in m.filename and m.file_size]
        places = [m.header_offset + 30 + len(m.filename) for m in members]
    rng = np.random.default_rng(0)
    for member, place in list(zip(members, places, strict=True))[:: len(members) // 20]:
        content = sound[place:]
        at = place + struct.unpack("<H", sound[member.header_offset + 28 : member.header_offset + 30])[0]
        assert len(content) > member.file_size
        data = bytearray(sound)
        data[at + rng.integers(member.file_size)] ^= 1 << rng.integers(8)
        (tmp_path / "c.pt").write_bytes(data)
        with pytest.raises(InputError, match="Bad CRC-32"):
            load_checkpoint(tmp_path / "c.pt")


@pytest.mark.parametrize("cut", [0, 1, 150, -500, -100])
def test_cut_files(run, tmp_path, cut):
    for name in ("checkpoint.pt", "encoder.safetensors"):
        (tmp_path / name).write_bytes((run / "run" / name).read_bytes()[:cut])
        with pytest.raises(InputError, match=r"take another copy|nothing in it was run"):
            load_encoder(tmp_path / name)


def test_a_changed_export(run, tmp_path):
    sound = (run / "run" / "encoder.safetensors").read_bytes()
    size = struct.unpack("<Q", sound[:8])[0]
    data = bytearray(sound)
    data[8 + size + 1000] ^= 1
    (tmp_path / "e.safetensors").write_bytes(data)
    with pytest.raises(InputError, match="its checksum is not the one it was written with"):
        load_encoder(tmp_path / "e.safetensors")
    header = json.loads(sound[8 : 8 + size])
    digest = header["__metadata__"].pop("sha256")
    text = json.dumps(header).encode()
    (tmp_path / "e.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + sound[8 + size :])
    load_encoder(tmp_path / "e.safetensors")  # of before there were checksums
    header["__metadata__"] |= {"sha256": digest, "layout": "kinect20"}
    text = json.dumps(header).encode()
    (tmp_path / "e.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + sound[8 + size :])
    with pytest.raises(InputError, match="its checksum"):
        load_encoder(tmp_path / "e.safetensors")


def test_a_tensor_of_many_dimensions(tmp_path):
    save_file({"x": torch.zeros([1] * 70)}, tmp_path / "e.safetensors")
    with pytest.raises(InputError, match="x has 70 dimensions, no weight has so many"):
        load_encoder(tmp_path / "e.safetensors")


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"shape": [3, 3_000_000, 25, 1]}, "too many"),
        ({"shape": [3, 16, 25, 200_000]}, "too many"),
        ({"preprocessing": {"rotate": "auto"}}, "something is auto"),
        ({"space": {"unit": "m", "third": "depth", "size": 10**400}}, "a whole number of 401 digits"),
    ],
)
def test_an_input_that_no_network_has(run, tmp_path, changed, what):
    state, facts = load_weights_file(run / "run" / "encoder.safetensors")
    facts["input"] = json.dumps({**json.loads(facts["input"]), **changed})
    save_file(state, tmp_path / "e.safetensors", facts)
    with pytest.raises(InputError, match=what):
        load_encoder(tmp_path / "e.safetensors")


def test_small_weights_of_a_large_network(run, state, tmp_path):
    """Shapes that ask for an encoder of 30000 channels: refused before it is made."""
    state["model"][CONV] = torch.zeros(30000, 1, 1, 1)
    torch.save(state, tmp_path / "c.pt")
    with pytest.raises(InputError, match="not the weights of an ST-GCN or DSTA-Net"):
        load_encoder(tmp_path / "c.pt")


@pytest.mark.parametrize("content", [torch.zeros(3), [1], {}, {1: ONE}, {"encoder_q.A": None}, "abc"])
def test_official_files_of_other_content(tmp_path, content):
    torch.save(content, tmp_path / "o.pt")
    with pytest.raises(InputError, match=r"expected a dict of tensors|not the weights"):
        load_official(tmp_path / "o.pt")


@pytest.mark.parametrize("dtype", ["f16", "u8", ">f4", "U1"])
def test_official_arrays_of_other_kinds(tmp_path, dtype):
    np.savez(tmp_path / "o.npz", **{"encoder_q.A": np.zeros((3, 25, 25), dtype)})
    with pytest.raises(InputError, match="not the weights"):
        load_official(tmp_path / "o.npz")


def test_members_that_overlap_or_are_compressed(tmp_path):
    content = {"archive/data.pkl": pickle.dumps({}, 2), "archive/byteorder": b"little"}
    for method, what in ((zipfile.ZIP_DEFLATED, "compressed"), (zipfile.ZIP_STORED, "")):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as archive:
            for name, data in content.items():
                archive.writestr(name, data)
        (tmp_path / "c.pt").write_bytes(out.getvalue())
        if what:
            with pytest.raises(InputError, match=what):
                load_tensors(tmp_path / "c.pt")
        else:
            assert load_tensors(tmp_path / "c.pt") == {}


def test_a_header_of_many_empty_tensors(tmp_path):
    """4 MB of header took 100 MB, and 20 MB half a gigabyte."""
    one = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    for tensors, end in ((360_000, "not readable safetensors .a header of"), (30_000, None)):
        header = json.dumps(dict.fromkeys(map("{:x}".format, range(tensors)), one), separators=(",", ":")).encode()
        (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
        if end:
            refuses(load_weights_file, tmp_path / "x.safetensors", end)
        else:
            assert len(load_weights_file(tmp_path / "x.safetensors")[0]) == tensors
