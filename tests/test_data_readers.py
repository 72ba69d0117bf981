"""PKU-MMD, NW-UCLA and pyskl files -> recordings, and the whole conversion: reports, strictness, interruption, check."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_files import irds_files, skeleton_text, walk, write_ntu, write_pku, write_pyskl

from hiclr_fast.data import convert as conversion
from hiclr_fast.data.convert import Conversion
from hiclr_fast.data.formats.pku import read_labels, read_split
from hiclr_fast.data.formats.recording import Recording, repaired
from hiclr_fast.data.formats.sequences import pack_sequences, train_rows
from hiclr_fast.data.formats.ucla import read_ucla
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.data.packed.leaks import check_dataset, duplicates_across
from hiclr_fast.data.prepare import Ntu, Pku, Pyskl, Ucla
from hiclr_fast.data.preprocess import Preprocess, preprocess
from hiclr_fast.errors import InputError
from hiclr_fast.skeletons import LAYOUTS

HOW, OPTIONS = Preprocess(frames=20), Conversion(workers=2)
ROOT = Path(__file__).parent.parent


def reasons(out) -> dict[str, tuple[str, str]]:
    with open(out / "report.csv", newline="") as file:
        return {Path(line["recording"]).stem: (line["what"], line["reason"]) for line in csv.DictReader(file)}


def test_pku_instances_are_the_labelled_frames(tmp_path):
    skeletons, labels, split = write_pku(tmp_path / "raw")
    Pku(skeletons, labels, split, tmp_path / "set", HOW, OPTIONS).run()
    data = open_packed(tmp_path / "set")
    assert data["train"].name.tolist() == ["0002-L_0", "0002-L_1", "0003-M_0", "0003-M_1"]
    assert data["train"].label.tolist() == [0, 41, 1, 41] and data["val"].view.tolist() == [3, 3, 1, 1]
    x = np.loadtxt(skeletons / "0003-M.txt").astype(np.float32).reshape(-1, 2, 25, 3).transpose(0, 2, 3, 1)
    for row, (start, stop) in ((2, (5, 35)), (3, (50, 80))):  # the second label is written backwards
        np.testing.assert_array_equal(data["train"].x[row], preprocess(x[start:stop], LAYOUTS["ntu25"], HOW))


def test_bad_pku_files(tmp_path):
    skeletons, labels, split = write_pku(tmp_path)
    assert set(read_split(split).values()) == {"train", "val"} and len(read_split(split)) == 4
    (labels / "0002-L.txt").write_text("1,5,500,2\n")
    (skeletons / "0004-R.txt").write_text("1 2 3\n")
    Pku(skeletons, labels, split, tmp_path / "set", HOW, OPTIONS).run()
    found = reasons(tmp_path / "set")
    assert "instance 0 has frames 5 to 500, 0002-L.txt has 90" in found["0002-L"][1]
    assert "frame 1: not 150 numbers" in found["0004-R"][1]
    bad = [("0,1,2,3\n", "line 1: class 0"), ("52,1,2,3", "class 52"), ("\na,b,c\n", r"line 2: 'a,b,c'"), ("1,-4,2", "-4")]
    for text, match in bad:
        (labels / "x.txt").write_text(text)
        with pytest.raises(InputError, match=match):
            read_labels(labels / "x.txt")
    split.write_text("Training videos:\n0002-L\nValidataion videos:\n0002-L, 0003-M")
    with pytest.raises(InputError, match="0002-L is both"):
        read_split(split)
    split.write_text("0002-L, 0003-M")
    with pytest.raises(InputError, match="no training and validation lists"):
        read_split(split)
    split.write_text("Training videos:\n0009-L\nValidation videos:\n0003-M")
    with pytest.raises(InputError, match=r"0009-L\.txt does not exist, but the split file names it"):
        Pku(skeletons, labels, split, tmp_path / "other", HOW, OPTIONS).run()


def test_ucla_json_equals_the_same_recordings_as_arrays(real_data, tmp_path):
    arrays = np.load(real_data("nw_ucla.npz"))
    rows = np.arange(0, 1484, 37)
    raw = tmp_path / "raw"
    raw.mkdir()
    for i in rows:
        frames = arrays["frames"][arrays["offsets"][i] : arrays["offsets"][i + 1]].astype(float)
        content = {"file_name": str(arrays["name"][i]), "skeletons": frames.tolist(), "label": int(arrays["label"][i]) + 1}
        (raw / f"{arrays['name'][i]}.json").write_text(json.dumps(content))
    how = Preprocess(rotate="none")
    Ucla(raw, tmp_path / "set", how, OPTIONS).run()
    data = open_packed(tmp_path / "set")
    seen = 0
    for split, views in (("train", (1, 2)), ("val", (3,))):
        columns = (getattr(data[split], c) for c in ("name", "label", "view"))
        for x, name, label, view in zip(np.asarray(data[split].x), *columns, strict=True):
            i = arrays["name"].tolist().index(name)
            frames = arrays["frames"][arrays["offsets"][i] : arrays["offsets"][i + 1]][..., None]
            np.testing.assert_array_equal(x, preprocess(frames, data.layout, how))
            assert label == arrays["label"][i] and view in views
            seen += 1
    assert seen == len(rows)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('{"label": 1}', "skeletons is null, expected a list"),
        ("[]", "holds a list, expected an object"),
        ('{"skeletons": [[[1, 2]]], "label": 1}', r"skeletons \(1, 1, 2\), expected \(frames, 20 joints, 3\)"),
        ('{"skeletons": [[["a"]]], "label": 1}', "skeletons are no numbers"),
        ("[" * 100000, "RecursionError"),
        (json.dumps({"skeletons": np.zeros((2, 20, 3)).tolist(), "label": 11}), "label 11, expected"),
    ],
)
def test_bad_ucla_files(tmp_path, content, match):
    file = tmp_path / "a01_s01_e00_v01.json"
    file.write_text(content)
    with pytest.raises(InputError, match=match):
        read_ucla(file)


def test_pyskl_pickle(tmp_path):
    file = write_pyskl(tmp_path / "ntu.pkl")
    Pyskl(file, tmp_path / "set", HOW, OPTIONS).run()
    data = open_packed(tmp_path / "set")
    assert (len(data["train"]), len(data["val"])) == (3, 3) and data["val"].subject.tolist() == [3, 3, 3]
    x = walk(14, 25, 1, 2).astype(np.float16).astype(np.float32)
    two = np.concatenate([x, np.zeros_like(x)], axis=3)
    np.testing.assert_array_equal(data["train"].x[1], preprocess(two, data.layout, HOW))
    with pytest.raises(InputError, match=r"no split 'xset_train', only \['xsub_train', 'xsub_val'\]"):
        Pyskl(file, tmp_path / "other", HOW, OPTIONS, train="xset_train").run()
    flat = write_pyskl(tmp_path / "flat.pkl", dims=2)
    with pytest.raises(InputError, match=r"--rotate frame: the recordings are \(x, y\) in a plane; use --rotate none"):
        Pyskl(flat, tmp_path / "other", HOW, OPTIONS).run()
    assert {f.name for f in tmp_path.iterdir()} == {"ntu.pkl", "flat.pkl", "set"}


def test_bad_recordings_are_reported_and_strict_stops(tmp_path):
    files = write_ntu(tmp_path / "raw", 8)
    files[0].write_text("0\n")
    files[1].write_text(files[1].read_text()[:-300])
    x = walk(12, 25, 1, 5)
    x[4, 7, 1] = np.nan
    files[2].write_text(skeleton_text(x))
    x[:8] = np.nan
    files[3].write_text(skeleton_text(x))
    files[4].write_text(skeleton_text(np.zeros((12, 25, 3, 1))))
    (tmp_path / "raw" / "more").mkdir()
    (tmp_path / "raw" / "more" / files[5].name).write_bytes(files[5].read_bytes())
    command = Ntu((tmp_path / "raw",), tmp_path / "set", "ntu60_xsub", HOW, OPTIONS)
    command.run()
    data, found = open_packed(tmp_path / "set"), reasons(tmp_path / "set")
    assert sum(map(len, data.splits.values())) == 4  # 2 (repaired), 5, 6, 7
    assert found[files[2].stem] == ("repaired", "NaN or Inf in 1 of 12 frames, interpolated")
    wanted = {0: "0 frames, at least 1", 1: "line 7", 3: "8 of 12 frames, too many", 4: "first body is zero", 5: "same name"}
    for i, match in wanted.items():
        assert found[files[i].stem][0] == "rejected" and match in found[files[i].stem][1]
    with pytest.raises(InputError, match=r"line \d+: |0 frames"):
        replace(command, out=tmp_path / "strict", options=Conversion(strict=True)).run()
    assert not (tmp_path / "strict").exists()


def test_repair_interpolates_in_time():
    x = np.arange(10, dtype=np.float32).reshape(10, 1, 1, 1) * np.ones((1, 2, 3, 1), np.float32)
    x[[0, 4], 1, 2] = np.inf
    fixed, note = repaired(Recording("r", x, 0))
    assert note.startswith("NaN or Inf in 2 of 10 frames")
    assert fixed[4, 1, 2, 0] == 4 and fixed[0, 1, 2, 0] == 1 and (fixed[:, 0] == x[:, 0]).all()


def test_an_interrupted_conversion_continues_where_it_stopped(tmp_path, monkeypatch):
    write_ntu(tmp_path / "raw", 10)
    monkeypatch.setattr(conversion, "CHUNK", 3)
    command = Ntu((tmp_path / "raw",), tmp_path / "set", "ntu60_xsub", HOW, Conversion(workers=1))
    command.run()
    inner, reads = conversion._one, []

    def counted(item, *rest):
        reads.append(item)
        if len(reads) == 8:
            raise KeyboardInterrupt
        return inner(item, *rest)

    monkeypatch.setattr(conversion, "_one", counted)
    again = replace(command, out=tmp_path / "again")
    with pytest.raises(KeyboardInterrupt):
        again.run()
    assert not (tmp_path / "again").exists()
    done = len(list(tmp_path.glob(".again.*.work/*.npz")))
    reads.clear()
    reads.extend(range(100))
    again.run()
    assert done == 2 and len(reads) - 100 == 10 - 3 * done
    for file in (tmp_path / "set").iterdir():
        if file.suffix == ".npy" or file.name == "meta.json":
            assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()
    assert not list(tmp_path.glob(".again*"))
    with pytest.raises(InputError, match="exists already"):
        again.run()


@pytest.mark.slow
def test_kill_dash_nine_leaves_the_folder_whole_or_absent(tmp_path):
    write_ntu(tmp_path / "raw", 40, frames=30)
    code = (
        "import sys; from pathlib import Path; from hiclr_fast.data import convert; convert.CHUNK = 5;"
        "from hiclr_fast.data.prepare import Ntu; from hiclr_fast.data.preprocess import Preprocess;"
        "print('ready', flush=True);"
        "Ntu((Path(sys.argv[1]),), Path(sys.argv[2]), 'ntu60_xsub', Preprocess(), convert.Conversion(workers=1)).run()"
    )
    out, command = tmp_path / "set", [sys.executable, "-c", code, str(tmp_path / "raw"), str(tmp_path / "set")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    subprocess.run([*command[:-1], str(tmp_path / "first")], check=True, env=environment)  # compiles: kills meet the rest
    rng, killed = random.Random(0), 0
    for attempt in range(8):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
        assert process.stdout.readline() == b"ready\n"
        time.sleep(rng.random() * (0.4 if attempt > 3 else 0.05))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        if out.exists():  # whole: it opens, with every sample
            assert sum(map(len, open_packed(out).splits.values())) == 40
            shutil.rmtree(out)
    assert killed >= 3
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-1500:]
    assert sum(map(len, open_packed(out).splits.values())) == 40


def test_check_finds_the_copies_in_the_official_ucla_split(real_data, tmp_path, capsys):
    arrays = dict(np.load(real_data("nw_ucla.npz")))
    pack_sequences(arrays, tmp_path / "set", Preprocess(rotate="none"), train=lambda a: train_rows(a, "view=1,2", "nw_ucla"))
    pairs = duplicates_across(open_packed(tmp_path / "set"))
    assert {kind: len(found) for kind, found in pairs.items()} == {("val", "train"): 95}
    assert check_dataset(tmp_path / "set", tmp_path / "classes.png") == 1
    said = capsys.readouterr().out
    assert "LEAK: 95 of 464 val samples are exact copies of train samples" in said and "no view is in both splits" in said
    assert (tmp_path / "classes.png").read_bytes().startswith(b"\x89PNG")


def test_check_of_a_clean_and_of_a_damaged_set(real_data, tmp_path, capsys):
    irds_files(real_data, tmp_path)
    Ntu((tmp_path / "raw",), tmp_path / "set", "subject=1,2", Preprocess(), OPTIONS).run()
    assert check_dataset(tmp_path / "set") == 0
    said = capsys.readouterr().out
    assert "no subject is in both splits" in said and "10 to 17" in said and "LEAK" not in said
    file = tmp_path / "set" / "val.npy"
    whole = bytearray(file.read_bytes())
    whole[-1] ^= 1
    file.write_bytes(whole)
    with pytest.raises(InputError, match=r"val\.npy: its checksum is not the one"):
        check_dataset(tmp_path / "set")
