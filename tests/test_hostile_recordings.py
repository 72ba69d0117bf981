"""Recordings, tables and settings of `prepare` that no packed set can hold: one sentence, before anything is written."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fuzz_inputs import peak
from helpers import packed, split
from test_hostile_files import HONEST, refuses

from hiclr_fast.data.convert import Conversion
from hiclr_fast.data.formats.clips import load_clip, read_table
from hiclr_fast.data.formats.sequences import pack_sequences, train_rows
from hiclr_fast.data.own import OwnClips
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.data.packed.writer import write_packed
from hiclr_fast.data.preprocess import Preprocess
from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import read_npz
from hiclr_fast.files.atomic import write_text
from hiclr_fast.files.settings import update
from hiclr_fast.pretraining.config import PretrainConfig
from hiclr_fast.skeletons import LAYOUTS, Layout

HOW, ONE = Preprocess(frames=8, rotate="auto", gaps="auto", unit="auto", scale="auto"), Conversion(workers=1)


def clips(folder, **arrays):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        np.save(folder / f"{name}.npy", rng.normal(size=(12, 25, 3)).astype(np.float32))
    for name, x in arrays.items():
        np.savez_compressed(folder / f"{name}.npz", frames=x)
    return folder


def test_a_table_that_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for file in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(InputError, match="not a regular file"):
            read_table(file)


@pytest.mark.parametrize("value", ["9" * 30, "9" * 5000, "3000000000", "-3", "4294967297"])
@pytest.mark.parametrize("column", ["view", "subject"])
def test_numbers_of_a_table(tmp_path, column, value):
    (tmp_path / "t.csv").write_text(f"name,{column}\na,1\nb,{value}\n")
    refuses(read_table, tmp_path / "t.csv", f"line 3: {column} {value[:40]}; expected 0 to 2147483647")
    (tmp_path / "t.csv").write_text(f"name,{column}\na,-1\nb,2147483647\n")
    assert read_table(tmp_path / "t.csv") == {"a": {column: "-1"}, "b": {column: "2147483647"}}


@pytest.mark.parametrize("column", ["subject", "view"])
@pytest.mark.parametrize("value", [-3, 2**31, 2**32 + 1, -(2**32) + 1])
def test_numbers_that_a_set_cannot_hold_are_not_written(tmp_path, column, value):
    data = split(3)
    getattr(data, column)[1] = value
    with pytest.raises(InputError, match=f"sample .* has {column} {value}, expected 0 to"):
        write_packed(tmp_path / "set", {"train": data}, LAYOUTS["ntu25"], "abc", source="s", preprocessing={})
    arrays = sequences() | {column: np.array([1, value, 1])}
    with pytest.raises(InputError, match=f"s: {column} {value}, expected 0 to"):
        pack(arrays, tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def sequences() -> dict[str, np.ndarray]:
    frames = np.random.default_rng(0).normal(size=(30, 25, 3)).astype(np.float32)
    return {"frames": frames, "offsets": np.array([0, 10, 20, 30]), "layout": np.array("ntu25")}


def pack(arrays, out):
    pack_sequences(arrays, out, HOW, train=lambda columns: train_rows(columns, "all", "s"), source="s", options=ONE)


@pytest.mark.parametrize("names", [np.array("a"), np.array(["a", "b", "a"]), np.array([1, 2, 3])])
def test_class_names_of_sequences(tmp_path, names):
    with pytest.raises(InputError, match=r"class_names .*, each name once"):
        pack(sequences() | {"class_names": names}, tmp_path / "set")


@pytest.mark.parametrize(
    ("change", "what"),
    [({"min_score": np.nan}, "--min-score nan"), ({"image": (5, np.nan)}, "--image 5 nan"), ({"image": (0, 9)}, "--image 0 9")],
)
def test_settings_that_are_no_numbers(tmp_path, change, what):
    how = Preprocess(frames=8, **change)
    with pytest.raises(InputError, match=what):
        OwnClips(clips(tmp_path / "raw"), "ntu25", tmp_path / "set", preprocess=how).run()
    assert not (tmp_path / "set").exists()


def test_one_bad_recording_is_left_out(tmp_path):
    """All joints in one point; coordinates that no network can square; numbers that overflow while they are turned."""
    point = np.ones((12, 25, 3), np.float32)
    far = np.random.default_rng(0).normal(size=(12, 25, 3)).astype(np.float32)
    folder = clips(tmp_path / "raw", point=point, far=far * 1e30, farther=np.clip(far, -3, 3) * 1e38)
    OwnClips(folder, "ntu25", tmp_path / "set", channels="xyz", preprocess=HOW, options=ONE).run()
    assert open_packed(tmp_path / "set")["train"].name.tolist() == ["a", "b"]
    report = (tmp_path / "set" / "report.csv").read_text()
    assert 'point,rejected,"point: all its joints lie in one point' in report
    assert 'far,rejected,"far: coordinates beyond 1e+09' in report and "farther,rejected," in report


def test_a_small_archive_of_a_long_recording(tmp_path):
    """800000 frames of almost nothing in 58 kB took 1.7 GB; 100000 take what any file may, and one recording has no more."""
    x = np.zeros((800_000, 25, 3), np.int8)
    x[5] = x[-1] = np.arange(75).reshape(25, 3)
    long = clips(tmp_path / "long", x=x)
    refuses(read_npz, long / "x.npz", "claim to unpack to 6")
    most = clips(tmp_path / "most", x=x[:100_000])
    np.save(most / "y.npy", x[:131_073])
    assert (most / "x.npz").stat().st_size < 20_000
    peak_before = reset_peak()
    OwnClips(most, "ntu25", tmp_path / "set", channels="xyz", preprocess=HOW, options=ONE).run()
    assert peak() - peak_before < HONEST
    assert "y.npy: 131073 frames, a recording has at most 131072" in (tmp_path / "set" / "report.csv").read_text()
    assert sorted(open_packed(tmp_path / "set")["train"].name.tolist()) == ["a", "b", "x"]


def reset_peak() -> int:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return peak()


def test_a_long_array_takes_twice_its_size(tmp_path):
    folder = clips(tmp_path / "raw")
    np.save(folder / "long.npy", np.random.default_rng(0).normal(size=(100_000, 25, 3, 2)).astype(np.float32))
    size, before = (folder / "long.npy").stat().st_size, reset_peak()
    OwnClips(folder, "ntu25", tmp_path / "set", channels="xyz", preprocess=HOW, options=ONE).run()
    assert peak() - before < 2 * size


def test_small_archives_may_hold_little(tmp_path):
    """Labels that are all the same shrink a thousandfold."""
    np.savez_compressed(tmp_path / "x.npz", label=np.zeros(10**6, np.int64))
    assert (tmp_path / "x.npz").stat().st_size < 10_000 and read_npz(tmp_path / "x.npz")["label"].shape == (10**6,)
    np.savez_compressed(tmp_path / "c.npz", frames=np.zeros((1000, 25, 3, 2), np.float32))
    assert load_clip(tmp_path / "c.npz")["frames"].shape == (1000, 25, 3, 2)


def test_halves_of_characters(tmp_path):
    """JSON, YAML, pickles and arrays can spell them; what is read could not be printed or written."""
    half = "\ud800x"
    with pytest.raises(InputError, match=r"a: out is '\\ud800x', expected a path"):
        update(PretrainConfig(), {"out": half}, "a")
    assert update(PretrainConfig(), {"out": "\udcff"}, "a").out == Path("\udcff")  # a byte of a file name
    np.savez(tmp_path / "x.npz", name=np.array(["a", half]))
    refuses(read_npz, tmp_path / "x.npz", "characters that do not exist")
    np.savez(tmp_path / "x.npz", name=np.array(["\ud7ff\ue000\U0001f600"]))
    assert read_npz(tmp_path / "x.npz")["name"] == "\ud7ff\ue000\U0001f600"
    where = r"layout .*: '.*\\ud800x' holds halves of characters"
    for values in ({"name": half}, {"joint_names": ["a", half]}, {"parts": {half: [0, 1]}}):
        with pytest.raises(InputError, match=where) as said:
            Layout.from_dict({"parents": [0, 0]} | values, "f")
        assert said.value.args[0].encode()
    packed(tmp_path / "set")
    meta = json.loads((tmp_path / "set" / "meta.json").read_text())
    meta["layout"]["name"] = half
    (tmp_path / "set" / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(InputError, match="half a character"):
        open_packed(tmp_path / "set")
    data = split(3)
    bad = ["a", "b", half]
    for names, classes, subjects in ((bad, "abc", ""), ("abc", bad, ""), ("abc", "abc", bad)):
        one, how = replace(data, name=np.array(list(names))), dict(source="s", preprocessing={}, subjects=subjects)
        with pytest.raises(InputError, match=r"the name '\\ud800x' of a (sample|class|subject) holds halves of characters"):
            write_packed(tmp_path / "new", {"train": one}, LAYOUTS["ntu25"], classes, **how)
    write_text(tmp_path / "t.txt", half)
    assert (tmp_path / "t.txt").read_text() == r"\ud800x" and not (tmp_path / "new").exists()
