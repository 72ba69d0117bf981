"""From real recordings to predictions elsewhere: prepare, pretrain a little, evaluate, predict, export, onnxruntime."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import IRDS_TRAIN, irds_files
from own_data import write_coco
from test_scripts import TINY, command  # noqa: F401 (a fixture)

import hiclr_fast
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.evaluation.results import read_scores
from hiclr_fast.files.archives import read_npz
from hiclr_fast.inference.clips import ClipReader

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime of the export extra is not installed")
pytestmark = pytest.mark.slow


def ucla(real_data, folder: Path) -> tuple[list[Path], list]:
    """JSON files of 48 sequences of NW-UCLA, and how they are prepared."""
    arrays = np.load(real_data("nw_ucla.npz"))
    label, view = arrays["label"], arrays["view"]
    rows = np.concatenate([np.flatnonzero((label == c) & (view == v))[:8] for c in (0, 3) for v in (1, 2, 3)])
    folder.mkdir()
    for i in rows:
        frames = arrays["frames"][arrays["offsets"][i] : arrays["offsets"][i + 1]].astype(float)
        content = {"skeletons": frames.tolist(), "label": int(label[i]) + 1}
        (folder / f"{arrays['name'][i]}.json").write_text(json.dumps(content))
    return sorted(folder.glob("*.json")), ["ucla", folder]


def irds(real_data, folder: Path) -> tuple[list[Path], list]:
    """48 .skeleton files of IRDS, evenly among all."""
    files = irds_files(real_data, folder.parent / "all")[::4]
    folder.mkdir()
    for file in files:
        shutil.copy(file, folder)
    return sorted(folder.glob("*.skeleton")), ["ntu", folder, "--split", IRDS_TRAIN]


def coco(real_data, folder: Path) -> tuple[list[Path], list]:
    """A pyskl pickle of IRDS seen by two cameras: 17 keypoints in pixels, scores, gaps; the score is the third channel."""
    folder.mkdir()
    file = write_coco(folder / "coco.pkl", read_npz(real_data("irds.npz")), every=4)
    return [file], ["pyskl", file, "--third", "score"]


@pytest.mark.parametrize(("make", "stream"), [(ucla, "bone"), (irds, "joint"), (coco, "motion")])
def test_from_raw_files_to_onnxruntime(command, real_data, tmp_path, make, stream):  # noqa: F811
    files, how = make(real_data, tmp_path / "raw")
    assert command("prepare", *how, "--out", "set")[0] == 0
    assert command("pretrain", "--data", "set", "--out", "run", "--stream", stream, "--epochs", 1, *TINY)[0] == 0
    assert command("evaluate", "linear", "--run", "run", "--epochs", 3)[0] == 0
    data, scores = open_packed("set"), read_scores(Path("run/eval/linear"))
    names = np.concatenate([split.name for split in data.splits.values()])
    rows = np.concatenate([split.x[:] for split in data.splits.values()])
    place = {name: i for i, name in enumerate(names.tolist())}

    assert command("predict", *files, "--run", "run", "--out", "p.csv")[0] == 0
    told = {row["name"]: row for row in csv.DictReader(Path("p.csv").read_text().splitlines())}
    assert set(told) == set(names.tolist()) and (make is coco or set(told) == {file.stem for file in files})
    classes = hiclr_fast.load_classifier("run").classes
    assert classes == data.classes[: len(classes)]
    want = torch.from_numpy(scores["scores"]).softmax(1).numpy()
    got = np.array([[float(told[name][c]) for c in classes] for name in scores["name"]])
    np.testing.assert_allclose(got, want, atol=1e-4)

    assert command("embed", tmp_path / "raw", "--run", "run", "--out", "f.npz")[0] == 0
    embedded = np.load("f.npz")
    features = embedded["features"][np.argsort(embedded["name"])]
    (cache,) = Path("run/features").glob("*.npz")
    cached = read_npz(cache)
    kept = np.concatenate([cached[f"{split}/features"] for split in data.splits])[np.argsort(names)]
    np.testing.assert_allclose(features, kept, rtol=0, atol=1e-5 * np.abs(kept).max())

    encoder = hiclr_fast.load_encoder("run")
    made = {clip.name: clip.read() for clip in ClipReader(encoder.contract).clips(files)}
    for name, row in made.items():
        np.testing.assert_array_equal(row, rows[place[name]])  # bit for bit what `prepare` made

    assert command("export", "--run", "run", "--head", "linear", "--out", "net.onnx")[0] == 0
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    x = np.stack([made[name] for name in names])
    found, probabilities = session.run(["features", "probabilities"], {"x": x})
    both = encoder.features(x, preprocessed=True)
    np.testing.assert_allclose(found, both, rtol=0, atol=1e-4 * np.abs(both).max())
    np.testing.assert_allclose(probabilities[[place[n] for n in scores["name"]]], want, atol=1e-4)
    facts = json.loads(session.get_modelmeta().custom_metadata_map["input"])
    assert facts["layout"]["name"] == data.layout.name and facts["shape"] == list(data.shape) and facts["stream"] == stream
