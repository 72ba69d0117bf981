"""The packed format: round trip, and every way a folder can be wrong."""

import dataclasses
import json

import numpy as np
import pytest
from helpers import packed, split

from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.data.packed.rows_on_disk import Rows
from hiclr_fast.data.packed.writer import write_packed
from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import sha256
from hiclr_fast.skeletons import LAYOUTS, Layout, Space


def rehash(path, name):
    """Makes meta.json agree with a changed file, so that the checks behind the checksum are reached."""
    meta = json.loads((path / "meta.json").read_text())
    facts = meta["splits"][name.split("_")[0].split(".")[0]]["files"][name]
    facts.update(bytes=(path / name).stat().st_size, sha256=sha256(path / name))
    (path / "meta.json").write_text(json.dumps(meta))


def test_round_trip(tmp_path):
    path = packed(tmp_path / "set")
    data, want = open_packed(path), split(32)
    assert data.shape == (3, 16, 25, 1) and data.layout == LAYOUTS["ntu25"] and data.classes == ("a", "b", "c")
    np.testing.assert_array_equal(data["train"].x, want.x)
    for column in ("label", "name", "subject", "view"):
        np.testing.assert_array_equal(getattr(data["train"], column), getattr(want, column))
    assert isinstance(data["train"].x, Rows)
    with pytest.raises(InputError, match="no 'test' split, only"):
        data["test"]


def test_custom_layout_survives(tmp_path):
    layout = Layout("stick", ("hip", "neck", "head"), (1, 1, 1), 1, (1, 1), (), ())
    write_packed(tmp_path / "s", {"train": split(4, joints=3)}, layout, "abc", source="t", preprocessing={})
    assert open_packed(tmp_path / "s").layout == layout


def test_not_a_folder_of_ours(tmp_path):
    with pytest.raises(InputError, match=r"not a packed dataset \(no meta.json\)"):
        open_packed(tmp_path)
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(InputError, match="prepare the set again"):
        open_packed(tmp_path)
    (tmp_path / "meta.json").write_text('{"format": "other", "version": 9}')
    with pytest.raises(InputError, match="format 'other' version 9"):
        open_packed(tmp_path)


def test_truncated_missing_and_changed_files(tmp_path):
    path = packed(tmp_path / "set")
    file = path / "train.npy"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(InputError, match=r"train.npy: \d+ bytes, expected \d+; the file was cut"):
        open_packed(path)
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match=r"train.npy: its checksum is not the one"):
        open_packed(path)
    file.unlink()
    with pytest.raises(InputError, match=r"train.npy is missing"):
        open_packed(path)


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_wrong_dtype_and_axis_order(tmp_path, dtype):
    path = packed(tmp_path / "set")
    x = np.load(path / "train.npy")
    np.save(path / "train.npy", x.astype(dtype))
    rehash(path, "train.npy")
    with pytest.raises(InputError, match=r"expected float32 \(32, 3, 16, 25, 1\)"):
        open_packed(path)
    np.save(path / "train.npy", x.transpose(0, 2, 3, 1, 4).copy())
    rehash(path, "train.npy")
    with pytest.raises(InputError, match=r"\(32, 16, 25, 3, 1\), expected"):
        open_packed(path)


def test_pickled_objects_are_refused(tmp_path):
    path = packed(tmp_path / "set")
    samples = dict(np.load(path / "train_samples.npz"))
    samples["name"] = np.array([{"a": 1}] * 32, dtype=object)
    np.savez(path / "train_samples.npz", **samples)
    rehash(path, "train_samples.npz")
    with pytest.raises(InputError, match=r"train_samples\.npz: not a readable"):
        open_packed(path)


@pytest.mark.parametrize(("value", "what"), [(np.nan, "NaN or Inf"), (np.inf, "NaN or Inf"), (0.0, "only zeros")])
def test_bad_values_are_refused_on_writing_and_on_opening(tmp_path, value, what):
    bad = split(8)
    x = bad.x.copy()
    x[5] = value
    bad = dataclasses.replace(bad, x=x)
    with pytest.raises(InputError, match=rf"sample 5 \(s0_0005\) holds {what}"):
        write_packed(tmp_path / "w", {"train": bad}, LAYOUTS["ntu25"], "abc", source="t", preprocessing={})
    assert list(tmp_path.iterdir()) == []
    path = packed(tmp_path / "set")
    x = np.load(path / "val.npy")
    x[5] = value
    np.save(path / "val.npy", x)
    rehash(path, "val.npy")
    with pytest.raises(InputError, match=rf"sample 5 .* holds {what}"):
        open_packed(path)


def test_every_file_of_a_split_is_named_and_no_other(tmp_path):
    """Without its samples among them, labels could be changed under the same checksum."""
    path = packed(tmp_path / "set")
    meta = json.loads((path / "meta.json").read_text())
    files = meta["splits"]["val"]["files"]
    rows, samples = files["val.npy"], files["val_samples.npz"]
    for wrong in (
        {"val.npy": rows},
        {"val_samples.npz": samples},
        {"val.npy": rows, "val_samples.npz": samples, "val_more.npz": samples},
        {"val.npy": rows, "val_00001.npy": rows, "val_samples.npz": samples},
        {"val_00001.npy": rows, "val_samples.npz": samples},
    ):
        meta["splits"]["val"]["files"] = wrong
        (path / "meta.json").write_text(json.dumps(meta))
        with pytest.raises(InputError, match=r"the files of split 'val' are not its rows and its samples"):
            open_packed(path)


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        *(({"preprocessing": said}, "preprocessing: expected a mapping") for said in (None, 5, [1])),
        ({"preprocessing": {"rotate": "auto"}}, "something is auto"),
        ({"preprocessing": {"turn": 1}}, "unknown key 'turn'"),
        ({"preprocessing": {"frames": 9}}, "other frames than the preprocessing"),
        ({"shape": [3, 3_000_000, 25, 1]}, "too large"),
        ({"shape": [3, 16]}, "a shape of 2 lengths"),
        ({"splits": {}}, "no split"),
        ({"splits": {"val": {"samples": 0, "files": {}}}}, "split 'val' has no samples"),
        ({"space": {"unit": "m", "third": "depth", "size": 10**30}}, None),
        ({"space": {"unit": "m", "third": "depth", "size": 10**400}}, "a whole number of 401 digits"),
    ],
)
def test_a_description_that_makes_no_sense(tmp_path, changed, what):
    path = packed(tmp_path / "set")
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps({**meta, **changed}))
    if what is None:
        assert open_packed(path).space.size == 1e30
        return
    with pytest.raises(InputError, match=what) as found:
        open_packed(path)
    assert "prepare the set again" in str(found.value) or "replace or remove it" in str(found.value)
    with pytest.raises(InputError, match="not a description of coordinates"):
        Space.from_dict({"unit": "m", "third": "depth", "size": 10**400}, "x")  # of a pickled file


def test_a_single_number_is_no_rows(tmp_path):
    path = packed(tmp_path / "set")
    np.save(path / "train.npy", np.float32(1))
    rehash(path, "train.npy")
    with pytest.raises(InputError, match=r"train.npy: holds a single number, expected rows"):
        open_packed(path)
    with pytest.raises(InputError, match="holds a single number"):
        Rows([path / "train.npy"])


@pytest.mark.parametrize("label", [-2, 3])
def test_label_outside_the_classes(tmp_path, label):
    path = packed(tmp_path / "set")
    samples = dict(np.load(path / "val_samples.npz"))
    samples["label"][4] = label
    np.savez(path / "val_samples.npz", **samples)
    rehash(path, "val_samples.npz")
    with pytest.raises(InputError, match=f"sample 4 has label {label}, expected 0 to 2"):
        open_packed(path)


def test_an_existing_folder_is_never_touched(tmp_path):
    path = packed(tmp_path / "set")
    before = {f.name: f.read_bytes() for f in path.iterdir()}
    with pytest.raises(InputError, match="exists already"):
        packed(path)
    assert {f.name: f.read_bytes() for f in path.iterdir()} == before


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(InputError, match="No space"):
        packed(tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_empty_split(tmp_path):
    with pytest.raises(InputError, match="val split would be empty"):
        packed(tmp_path / "set", val=0)
