"""The public API: what somebody needs who has no packed set, only coordinates and a trained run."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import packed, tiny

import hiclr_fast
from hiclr_fast.data.contract import Contract
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.data.packed.writer import write_packed
from hiclr_fast.data.preprocess import Preprocess, preprocess
from hiclr_fast.evaluation.candidate import Candidate
from hiclr_fast.files.tensors import load_tensors, load_weights_file
from hiclr_fast.models.load import save_official
from hiclr_fast.pretraining.loop import train
from hiclr_fast.pretraining.start import finish, start
from hiclr_fast.skeletons import LAYOUTS

ROOT = Path(__file__).parent.parent
HOW = Preprocess(frames=16, rotate="first", gaps="keep")


def clips(n: int = 6, joints: int = 25, bodies: int = 2, seed: int = 0) -> list[np.ndarray]:
    """Ragged (F, V, 3, M) float32, two metres from the camera; the second body of every other clip is empty."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        x = rng.normal(0, 0.3, (9 + 2 * i, joints, 3, bodies)).astype(np.float32) + np.float32(2)
        x[..., 1:] *= i % 2
        found.append(x)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """runs/ucla beside its packed set, made of `clips` with settings other than the defaults."""
    root = tmp_path_factory.mktemp("api")
    rows = np.stack([preprocess(x, LAYOUTS["ntu25"], HOW) for x in clips(16)])
    packed(root / "like", train=16, val=4, bodies=2)
    like = open_packed(root / "like")
    splits = {name: replace(like[name], x=rows[: len(like[name])]) for name in ("train", "val")}
    write_packed(root / "set", splits, like.layout, ["a", "b", "c"], source="test", preprocessing=HOW.as_dict())
    data = open_packed(root / "set")
    trainer = start(tiny(data=root / "set", stream="bone"), data, root / "runs" / "ucla")
    assert train(trainer, root / "runs" / "ucla")
    finish(trainer, root / "runs" / "ucla")
    return root


def test_the_snippet(folder, monkeypatch):
    """Word for word what the documentation shows."""
    monkeypatch.chdir(folder)
    x = np.stack([c[:9] for c in clips()]).transpose(0, 3, 1, 2, 4)  # (N, 3, T, V, M)
    generator = torch.Generator().manual_seed(0)
    q = torch.nn.functional.normalize(torch.randn(3, 4, 8, generator=generator), dim=-1).requires_grad_()
    key, queue = q[0].detach().roll(1, 0), hiclr_fast.Queue(16, 8)
    given = dict(x=x, q=q, key=key, queue=queue)
    code = """
        import hiclr_fast
        encoder = hiclr_fast.load_encoder("runs/ucla")                  # a run folder, or checkpoint.pt, encoder.safetensors, or an official .pt
        features = encoder.features(x, layout="ntu25")                  # x: one array (N, 3, T, V, M) in metres, or a list of ragged (F, V, 3[, M]); preprocessed as the encoder was trained
        loss, terms = hiclr_fast.hierarchical_contrast(q, key, queue)   # and make_views, Queue: what somebody needs for a MoCo loop of their own
    """  # noqa: E501
    exec(textwrap.dedent(code), given)
    features, loss = given["features"], given["loss"]
    assert isinstance(features, np.ndarray) and features.shape == (6, 8) and features.dtype == np.float32
    loss.backward()
    assert given["terms"].shape == (3,) and q.grad.abs().sum() > 0
    same, _ = hiclr_fast.hierarchical_contrast(q, key, queue.rows)
    assert torch.equal(same, loss)
    queue.enqueue(key)
    assert torch.equal(queue.rows[:4], key)
    layout, views = hiclr_fast.LAYOUTS["ntu25"], ("basic", "normal", "strong")
    rows = torch.from_numpy(given["encoder"].rows(x))
    draw = dict(seed=0, step=torch.zeros((), dtype=torch.int64))
    made = hiclr_fast.make_views(rows, torch.arange(6), torch.arange(6), views, hiclr_fast.AugmentConfig(), layout, **draw)
    assert [tuple(v.shape) for v in made] == [(6, 3, 16, 25, 2)] * 3


def test_features_are_those_of_the_evaluation_bit_for_bit(folder, tmp_path):
    """Ragged recordings, and rows of the packed set, in every form that x may have; from every kind of file."""
    data, run = open_packed(folder / "set"), folder / "runs" / "ucla"
    want = Candidate(run / "checkpoint.pt", data, tmp_path, torch.device("cpu")).features[0].feature
    rows, raw = data["train"].x[:], clips(16)
    for file in (run, run / "checkpoint.pt", str(run / "encoder.safetensors")):
        encoder = hiclr_fast.load_encoder(file)
        assert encoder.contract.how == HOW and encoder.contract.stream == "bone" and encoder.contract.classes == ("a", "b", "c")
        np.testing.assert_array_equal(encoder.rows(raw), rows)
        for x in (raw, [torch.from_numpy(c) for c in raw], rows, torch.from_numpy(rows)):
            np.testing.assert_array_equal(encoder.features(x), want)
    np.testing.assert_array_equal(encoder.features(rows, preprocessed=True), want)
    np.testing.assert_allclose(encoder.features(raw, batch_size=3), want, rtol=1e-4, atol=1e-6)
    again = encoder.features(rows, preprocessed=False)
    assert not np.array_equal(again, want)
    one = [c[..., 0] for c in raw[::2]]  # (F, V, 3): the missing body is an empty one
    np.testing.assert_array_equal(encoder.rows(one), rows[::2])
    assert encoder.features([]).shape == (0, 8)


def test_official_weights_and_old_files(folder, tmp_path):
    """They do not say how they are fed: what is assumed is said, or a packed set says it."""
    run = folder / "runs" / "ucla"
    mine = hiclr_fast.load_encoder(run)
    save_official(mine.module, 16, tmp_path / "w.pt")
    state = load_tensors(run / "checkpoint.pt")
    del state["input"]
    torch.save(state, tmp_path / "old.pt")
    for name in ("w.pt", "old.pt"):
        with pytest.warns(UserWarning, match="assumed: layout ntu25, the official preprocessing, 50 frames, 2 bodies"):
            encoder = hiclr_fast.load_encoder(tmp_path / name)
        assert encoder.features(clips()).shape == (6, 8) and encoder.contract.how == Preprocess()
        told = hiclr_fast.load_encoder(tmp_path / name, data=folder / "set", stream="bone")
        np.testing.assert_array_equal(told.features(clips()), mine.features(clips()))


@pytest.mark.parametrize(
    ("x", "settings", "message"),
    [
        (np.zeros((2, 3, 9, 20, 1)), {}, r"x \(2, 3, 9, 20, 1\): expected \(N, 3, T, 25 joints of ntu25, M\)"),
        (np.zeros((9, 25, 3)), {}, "or a list of"),
        (clips(2, joints=20), {}, r"sample 0: shape \(9, 20, 3, 2\), expected \(frames, 25 joints of ntu25, 3\)"),
        (clips(2), dict(layout="kinect20"), "ntu25, x has kinect20, another skeleton .20 joints against 25"),
        (clips(2), dict(layout="ntu52"), "unknown joint layout 'ntu52'"),
        (clips(2, bodies=3), {}, "sample 1: 3 bodies, the network was trained with 2"),
        ([np.full((4, 25, 3), np.nan)], {}, "sample 0: NaN or Inf at frame 0"),
        ([np.zeros((4, 25, 3))], {}, "sample 0: the first body is zero in every frame"),
        ([np.ones((0, 25, 3))], {}, "sample 0: the first body is zero in every frame"),
        ([["a"]], {}, "sample 0: <U1, expected real numbers"),
        (np.ones((2, 3, 17, 25, 2)), dict(preprocessed=True), r"rows of a packed set are \(N, 3, 16, 25, 2\) here"),
        (np.full((2, 3, 16, 25, 2), np.inf), dict(preprocessed=True), "sample 0 holds NaN or Inf"),
        (clips(2), dict(preprocessed=True), "x is a list"),
        (clips(2), dict(batch_size=0), "batch_size 0: expected at least 1"),
    ],
)
def test_what_does_not_fit_is_one_sentence(folder, x, settings, message):
    encoder = hiclr_fast.load_encoder(folder / "runs" / "ucla")
    with pytest.raises(hiclr_fast.InputError, match=message) as stop:
        encoder.features(x, **settings)
    assert "\n" not in str(stop.value)


def test_another_skeleton_of_as_many_joints_is_refused(folder, tmp_path):
    """Both are called custom."""
    mine = replace(LAYOUTS["ntu25"], name="custom", parents=(0, *range(24)), left=(), right=())
    data = open_packed(folder / "set")
    for name, layout in (("chain", mine), ("star", replace(mine, parents=(0,) * 25))):
        write_packed(tmp_path / name, data.splits, layout, data.classes, source="test", preprocessing=HOW.as_dict())
    chain = open_packed(tmp_path / "chain")
    trainer = start(tiny(data=tmp_path / "chain", epochs=1), chain, tmp_path / "run")
    assert train(trainer, tmp_path / "run")
    with pytest.raises(hiclr_fast.InputError, match=r"was trained on layout custom, .* has custom, another skeleton"):
        Candidate(tmp_path / "run" / "checkpoint.pt", open_packed(tmp_path / "star"), tmp_path / "eval", torch.device("cpu"))
    encoder = hiclr_fast.load_encoder(tmp_path / "run")
    assert encoder.contract.layout == mine
    with pytest.raises(hiclr_fast.InputError, match="another skeleton"):
        encoder.features(clips(), layout="ntu25")
    assert encoder.features(clips(), layout=replace(mine, name="mine")).shape == (6, 8)


def test_files_that_are_no_encoder(folder, tmp_path):
    (tmp_path / "x.pt").write_bytes(b"no")
    for name, message in (("none", "does not exist"), ("", "holds no checkpoint.pt"), ("x.pt", "not a readable checkpoint")):
        with pytest.raises(hiclr_fast.InputError, match=message):
            hiclr_fast.load_encoder(tmp_path / name)


def test_what_the_files_say(folder):
    """checkpoint.pt and encoder.safetensors carry the same whole contract; the latter is readable as any new file is."""
    run, data = folder / "runs" / "ucla", open_packed(folder / "set")
    said = load_tensors(run / "checkpoint.pt")["input"]
    assert said == json.loads(load_weights_file(run / "encoder.safetensors")[1]["input"])
    assert said["layout"] == data.layout.as_dict() and said["shape"] == [3, 16, 25, 2]
    assert said["preprocessing"] == HOW.as_dict() and said["classes"] == ["a", "b", "c"] and said["stream"] == "bone"
    assert "absent ones included" in said["empty_bodies"]
    (run / "plain").touch()
    assert (run / "encoder.safetensors").stat().st_mode == (run / "plain").stat().st_mode
    for broken in ({}, {**said, "shape": [3, 16, 24, 2]}, {**said, "stream": "speed"}, {**said, "layout": {"name": "x"}}, 3):
        with pytest.raises(hiclr_fast.InputError, match="not a description of a network's input"):
            Contract.from_dict(broken, "file")


def test_importing_costs_nothing():
    code = "import sys, hiclr_fast; dir(hiclr_fast); assert not {'torch', 'numpy', 'numba'} & set(sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "kernels")))}
    subprocess.run([sys.executable, "-S", "-c", code], check=True, env=environment)
    assert set(hiclr_fast.__all__) <= set(dir(hiclr_fast)) and all(getattr(hiclr_fast, n) for n in hiclr_fast.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lod_encoder'"):
        hiclr_fast.lod_encoder  # noqa: B018


@pytest.mark.slow
def test_installed_elsewhere(folder, tmp_path):
    """The wheel of a copy of the project holds what it has to, and gives API and command outside the checkout."""
    skip = shutil.ignore_patterns(".*", "runs", "data", "tests", "bench", "__pycache__", "build", "*.egg-info")
    shutil.copytree(ROOT, tmp_path / "source", ignore=lambda d, names: skip(d, names) if Path(d) == ROOT else ())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = ["--no-deps", "--no-build-isolation", "--no-index", "-q"]
    subprocess.run([*pip, "wheel", *build, "-w", tmp_path, tmp_path / "source"], check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {f.relative_to(ROOT).as_posix() for f in (ROOT / "hiclr_fast").rglob("*") if f.suffix in (".py", ".typed", ".html")}
    sources |= {f.relative_to(ROOT / "kernels").as_posix() for f in (ROOT / "kernels" / "hiclr_kernels").rglob("*.py")}
    assert sources <= names and not {n for n in names if n.startswith(("tests", "bench", "scripts"))}
    subprocess.run([*pip, "install", *build, "--target", tmp_path / "site", wheel], check=True, cwd=tmp_path)
    np.savez(tmp_path / "x.npz", *clips())
    code = """
        import numpy as np, hiclr_fast, pathlib
        home = pathlib.Path(hiclr_fast.__file__).parent
        assert home.parent.name == "site" and (home / "py.typed").is_file()
        encoder = hiclr_fast.load_encoder("runs/ucla")
        x = list(np.load("x.npz").values())
        print(encoder.features(x, layout="ntu25").shape)
    """
    shutil.copytree(folder / "runs", tmp_path / "runs")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    run = dict(cwd=tmp_path, env=environment, capture_output=True, text=True)
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], **run)
    assert done.stdout == "(6, 8)\n", done.stderr
    done = subprocess.run([sys.executable, tmp_path / "site" / "bin" / "hiclr", "--help"], **run)
    assert "usage: hiclr COMMAND" in done.stdout and done.returncode == 0, done.stderr
