"""The commands as a user types them: the whole way, and one sentence with exit code 2 for what is wrong."""

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import packed

ROOT = Path(__file__).parent.parent
TINY = (
    "--hidden-channels 2 --hidden-dim 8 --feature-dim 8 --queue-size 16 --batch-size 8 --lr 0.01 --momentum 0.9 "
    "--knn-every 0 --threads 1"
).split()


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """command("pretrain", ...) -> (exit code, stdout, stderr), in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(script: str, *args):
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, args)])
        code = 0
        try:
            runpy.run_path(str(ROOT / "scripts" / f"{script}.py"), run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


def test_the_whole_way(command, tmp_path):
    """prepare -> pretrain -> resume -> k-NN, linear, features; by run, checkpoint and exported encoder."""
    code, out, _ = command("prepare", "synthetic", "--out", "set", "--subjects", 3, "--repeats", 1, "--views", 1)
    assert code == 0 and "train 24, val 12 samples of (3, 50, 25, 1), 12 classes, layout ntu25" in out
    code, out, _ = command("pretrain", "--data", "set", "--out", "run", "--amp", "--epochs", 1, *TINY)
    assert code == 0, out
    how = r"[\d.]+ % \(\w+(, means over \d spans of time)?\)"
    each = f"random-init encoder {how}, pretrained encoder {how}, raw features {how}"
    assert re.search(each, out)
    code, out, _ = command("pretrain", "--resume", "run", "--epochs", 2)
    assert code == 0 and "epoch 2: loss" in out and "epoch 1: loss" not in out
    code, out, _ = command("evaluate", "knn", "--run", "run", "--k", 1, 3)
    assert code == 0 and "| knn | joint, pretrained | k=1" in out
    assert set(json.loads(Path("run/eval/knn/results.json").read_text())["percent"]) == {"k=1", "k=3", "weighted k=3"}
    code, out, _ = command("evaluate", "linear", "--run", "run", "--epochs", 3, "--out", "mine")
    result = json.loads(Path("mine/linear/results.json").read_text())
    assert code == 0 and result["headline"] == "last epoch" and "best_on_test_top1" in out
    assert result["percent"]["top1"] <= result["percent"]["best_on_test_top1"]
    assert result["schedule"]["epochs"] == 3 and result["schedule"]["drops"] == [2]
    scores = np.load("mine/linear/scores.npz")
    assert scores["scores"].shape == (12, 12) and len(set(scores["name"])) == 12
    for checkpoint in ("run/checkpoint.pt", "run/encoder.safetensors"):
        code, _, _ = command("evaluate", "features", "--checkpoint", checkpoint, "--data", "set", "--out", "f.npz")
        found = np.load("f.npz")
        assert code == 0 and found["train/features"].shape == (24, 8) and found["val/label"].shape == (12,)


def test_official_checkpoint(command, tmp_path, golden):
    packed(tmp_path / "set", bodies=2)
    weights = shutil.copy(golden("stgcn_eval").path, tmp_path)  # features are cached beside the checkpoint
    code, _, _ = command(
        "evaluate", "features", "--checkpoint", weights, "--format", "official", "--data", "set", "--out", "f.npz"
    )
    assert code == 0 and np.load("f.npz")["val/features"].shape == (12, 256)


def test_export_and_evaluate_what_was_exported(command, tmp_path, golden):
    """official -> safetensors -> official: the same features; what cannot be written is one sentence."""
    packed(tmp_path / "set", bodies=2)
    weights = shutil.copy(golden("dsta_eval").path, tmp_path)
    official = ("--checkpoint", weights, "--format", "official")
    code, out, _ = command("export", *official, "--stream", "bone", "--out", "bone.safetensors")
    assert code == 0 and "bone.safetensors: dsta, bone stream, ntu25, 256 features" in out
    here = ("evaluate", "features", "--data", "set")
    assert command(*here, *official, "--stream", "bone", "--out", "a.npz")[0] == 0
    assert command(*here, "--checkpoint", "bone.safetensors", "--out", "b.npz")[0] == 0  # bone is in the file
    a, b = np.load("a.npz"), np.load("b.npz")
    np.testing.assert_array_equal(a["val/features"], b["val/features"])
    assert command("export", "--checkpoint", "bone.safetensors", "--out", "back.pt")[0] == 0
    official_back = ("--checkpoint", "back.pt", "--format", "official", "--stream", "bone")
    assert command(*here, *official_back, "--out", "c.npz")[0] == 0
    np.testing.assert_array_equal(np.load("c.npz")["val/features"], a["val/features"])
    for name, args, what in (
        ("bone.safetensors", (), "bone.safetensors exists already"),
        ("x.bin", (), "name it .safetensors, .onnx or .pt"),
        ("x.onnx", ("--layout", "kinect20"), "the encoder is for 25 joints, the layout kinect20 has 20"),
        ("x.onnx", ("--run", "set"), "give either --run RUN or --checkpoint FILE"),
    ):
        code, _, err = command("export", *official, *args, "--out", name)
        assert code == 2 and what in err and not Path("x.onnx").exists()


@pytest.mark.slow
def test_a_preset_is_below_the_flags(command, tmp_path):
    packed(tmp_path / "data" / "ntu60_xsub")
    tiny = ("--epochs", 1, "--frames", 16, "--out", "run", *TINY)
    code, _, err = command("pretrain", "--preset", "ntu60_xsub/bone/dsta", *tiny)
    saved = Path("run/config.yaml").read_text()
    assert code == 0, err
    for line in ("encoder: dsta", "stream: bone", "weight_decay: 0.0005", "lr: 0.01", f"data: {tmp_path}/data/ntu60_xsub"):
        assert f"{line}\n" in saved


def test_config_order_is_flag_yaml_default(command, tmp_path):
    packed(tmp_path / "set")
    Path("c.yaml").write_text("epochs: 7\nlr: 0.5\naugment: {shear: 0.1}\n")
    code, _, _ = command("pretrain", "--config", "c.yaml", "--data", "set", "--out", "run", "--epochs", 1, *TINY)
    assert code == 0
    saved = Path("run/config.yaml").read_text()
    assert "epochs: 1\n" in saved and "lr: 0.01\n" in saved and "shear: 0.1\n" in saved and "temperature: 0.07\n" in saved


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (("pretrain", "--data", "nowhere"), "nowhere is not a packed dataset"),
        (("pretrain", "--config", "none.yaml"), "none.yaml does not exist"),
        (("pretrain", "--config", "none.yaml", "--preset", "pku1/joint/stgcn"), "give either --config or --preset"),
        (("pretrain", "--preset", "pku1"), "unknown preset 'pku1'; the nearest valid one is 'pku1/bone/dsta'"),
        (("pretrain", "--resume", "nowhere"), "nowhere is not a run folder"),
        (("pretrain", "--data", "set", "--queue-size", "100"), "queue_size 100 is not a multiple of batch_size 128"),
        (("pretrain", "--data", "set", "--frames", "50"), "has frames 16, the config says 50"),
        (("evaluate", "knn"), "give either --run RUN or --checkpoint FILE"),
        (("evaluate", "linear", "--run", "set"), "holds no checkpoint.pt"),
        (("evaluate", "knn", "--checkpoint", "none.pt", "--data", "set"), "none.pt does not exist"),
        (("evaluate", "knn", "--checkpoint", "set/train.npy"), "--checkpoint needs --data"),
        (("evaluate", "knn", "--checkpoint", "set/train.npy", "--data", "set"), "not a readable checkpoint"),
        (("evaluate", "transfer", "--run", "set", "--to", "set"), "holds no checkpoint.pt"),
        (("evaluate", "ensemble", "a", "b", "c"), "a/eval/linear holds no results; evaluate that protocol"),
        (("evaluate", "supervised", "--run", "set", "--origin", "raw"), "supervised trains from the random initialisation"),
        (("report", "run", "nowhere"), "nowhere is not a run folder"),
        (("reproduce", "--dataset", "none", "--split", "x"), "unknown preset 'none/joint/stgcn'; the nearest valid one is"),
        (("reproduce", "--config", ROOT / "configs" / "small.yaml", "--data", "none"), "none is not a packed dataset"),
        (("prepare", "sequences", "none.npz", "--out", "o", "--train-by", "subject=1"), "none.npz does not exist"),
        (("prepare", "official", "--data", "a.npy", "--labels", "b.pkl", "--out", "o"), "a.npy does not exist"),
        (("prepare", "official", "--data", "a", "--labels", "b", "--out", "o", "--layout", "x"), "unknown joint layout 'x'"),
        (("prepare", "synthetic", "--out", "set"), "set exists already"),
        (("prepare", "synthetic", "--out", "o", "--subjects", "1"), "expected at least 3 subjects"),
    ],
)
def test_bad_input_is_one_sentence(command, tmp_path, args, what):
    packed(tmp_path / "set")
    before = {f.name: f.read_bytes() for f in (tmp_path / "set").iterdir()}
    code, _, err = command(*args)
    message = err.splitlines()[-1]
    assert code == 2 and message.startswith("error: ") and what in message
    assert {f.name: f.read_bytes() for f in (tmp_path / "set").iterdir()} == before
    assert not (tmp_path / "o").exists() and not (tmp_path / "runs").exists()


def test_unknown_flag_names_the_nearest(command):
    code, out, err = command("pretrain", "--queue-sise", 3)
    assert code == 2 and "--queue-size" in out + err


def test_resume_with_another_model(command, tmp_path):
    packed(tmp_path / "set")
    assert command("pretrain", "--data", "set", "--out", "run", "--epochs", 1, *TINY)[0] == 0
    before = Path("run/checkpoint.pt").read_bytes()
    code, _, err = command("pretrain", "--resume", "run", "--hidden-dim", 16)
    assert code == 2 and "was trained with hidden_dim 8, not 16" in err
    assert Path("run/checkpoint.pt").read_bytes() == before


@pytest.mark.slow
def test_sigterm_saves_and_exits_cleanly(tmp_path):
    packed(tmp_path / "set", train=64)
    args = [sys.executable, ROOT / "scripts" / "pretrain.py", "--data", "set", "--out", "run", "--epochs", "1000", *TINY]
    process = subprocess.Popen(args, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "continue with --resume run" in out
    from hiclr_fast.files.tensors import load_checkpoint

    state = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert state["epoch"] >= len(metrics.read_text().splitlines())


@pytest.mark.slow
def test_killed_and_resumed_ends_like_a_straight_run(tmp_path):
    check = [sys.executable, ROOT / "scripts" / "check_resume.py", "--epochs", "2", "--kills", "1"]
    done = subprocess.run(check, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "metrics equal" in done.stdout and ", 0 differ" in done.stdout, done.stdout + done.stderr


def test_profile(command, tmp_path):
    packed(tmp_path / "set")
    code, out, _ = command("pretrain", "--data", "set", "--profile", 1, *TINY)
    assert code == 0 and "query forward" in out and Path("runs/profile/trace.json").exists()
    assert not Path("runs/set_joint").exists()
