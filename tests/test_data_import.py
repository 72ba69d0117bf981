"""Sequences, official arrays, synthetic actors: right results, and one sentence for everything wrong."""

import pickle

import numpy as np
import pytest

from hiclr_fast.data.formats.official import pack_official
from hiclr_fast.data.formats.sequences import pack_sequences, train_rows
from hiclr_fast.data.formats.synthetic import pack_synthetic, synthetic_sequences
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.data.preprocess import Preprocess, preprocess
from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import read_npz
from hiclr_fast.files.pickles import load_plain_pickle
from hiclr_fast.skeletons import LAYOUTS

NTU = LAYOUTS["ntu25"]
PLAIN = Preprocess(rotate="none")


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    lengths = [5, 60, 1, 20, 20, 33]
    frames = rng.normal(0, 1, (sum(lengths), 25, 3)).astype(np.float32)
    frames[86:106] = frames[66:86]  # sequence 4 repeats sequence 3
    return {
        "frames": frames,
        "offsets": np.cumsum([0, *lengths]),
        "label": np.array([0, 1, 2, 0, 0, 1]),
        "subject": np.array([1, 2, 3, 1, 2, 3]),
        "view": np.array([1, 1, 1, 2, 2, 2]),
        "layout": np.array("ntu25"),
    }


def pack(arrays, out, rule="subject=1,3", how=PLAIN, **kw):
    pack_sequences(arrays, out, how, train=lambda a: train_rows(a, rule, "here"), source="here", **kw)
    return open_packed(out)


def test_sequences(tmp_path, arrays):
    data = pack(arrays, tmp_path / "s")
    assert data["train"].name.tolist() == ["000000", "000002", "000003", "000005"]
    assert data["val"].label.tolist() == [1, 0]
    want = preprocess(arrays["frames"][66:86, :, :, None], NTU, PLAIN)
    np.testing.assert_array_equal(data["train"].x[2], want)
    assert data["train"].subject.tolist() == [1, 3, 1, 3] and data["train"].view.tolist() == [1, 1, 2, 2]


def test_duplicates_are_dropped(tmp_path, arrays):
    data = pack(arrays, tmp_path / "s", drop_duplicates=True)
    assert data["val"].name.tolist() == ["000001"] and len(data["train"]) == 4


def test_train_rules(arrays, tmp_path):
    arrays["name"] = np.array(list("abcdef"))
    assert train_rows(arrays, "view=2", "x").tolist() == [False] * 3 + [True] * 3
    (tmp_path / "names").write_text("a\nf\n")
    assert train_rows(arrays, str(tmp_path / "names"), "x").tolist() == [True, False, False, False, False, True]
    (tmp_path / "names").write_text("a\nz\n")
    for rule, what in (
        ("subject=9", "no subject 9, only"),
        ("subject=a", "expected whole numbers"),
        ("camera=1", "no 'camera' column"),
        ("nowhere", "neither subject"),
        (str(tmp_path / "names"), "'z' is no name"),
    ):
        with pytest.raises(InputError, match=what):
            train_rows(arrays, rule, "x")


def test_own_skeleton(tmp_path, arrays):
    del arrays["layout"]
    arrays["parents"] = np.array(NTU.parents)
    assert pack(arrays, tmp_path / "known").layout == NTU
    arrays["parents"] = np.array([0, 0, 0, *range(2, 24)])
    with pytest.raises(InputError, match="`center_joint` is needed"):
        pack(arrays, tmp_path / "bad")
    arrays |= {"center_joint": np.array(3), "left_joints": np.array([1]), "right_joints": np.array([2])}
    layout = pack(arrays, tmp_path / "own").layout
    assert layout.mirror[1] == 2 and layout.center == 3 and layout.parents[24] == 23
    with pytest.raises(InputError, match="no `shoulders` for rotation"):
        pack(arrays, tmp_path / "turned", how=Preprocess())
    arrays["left_joints"] = np.array([25])
    with pytest.raises(InputError, match="left names the joint 25, expected whole numbers from 0 to 24"):
        pack(arrays, tmp_path / "outside")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda a: a.pop("offsets"), "no array 'offsets'"),
        (lambda a: a.update(frames=a["frames"].transpose(0, 2, 1)), r"expected float \(total, 25, 3\)"),
        (lambda a: a.update(frames=a["frames"].astype(int)), "frames int64"),
        (lambda a: a.update(offsets=a["offsets"] + 1), "offsets must rise from 0"),
        (lambda a: a.update(offsets=a["offsets"][[0, 2, 1, 3, 4, 5, 6]]), "offsets must rise"),
        (lambda a: a.update(label=a["label"][:-1]), r"label \(5,\), expected \(6,\)"),
        (lambda a: a.update(label=a["label"] * 1.0), "label is float64"),
        (lambda a: a.update(label=a["label"] - 2), "label -2; expected numbers from 0"),
        (lambda a: a.update(layout=np.array("body99")), "unknown joint layout 'body99'"),
        (lambda a: a["frames"].__setitem__((70, 3, 1), np.nan), "000003: NaN or Inf in 1 of 20 frames"),
        (lambda a: a["frames"].__setitem__(slice(5, 65), 0.0), "000001: the first body is zero in every frame"),
    ],
)
def test_bad_sequences(tmp_path, arrays, change, what):
    change(arrays)
    with pytest.raises(InputError, match=what):
        pack(arrays, tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_bad_npz_files(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_npz(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "objects.npz", frames=np.array([{}], dtype=object))
    np.savez(tmp_path / "cut.npz", frames=np.zeros(1000))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:500])
    for name in ("text", "objects", "cut"):
        with pytest.raises(InputError, match=f"{name}.npz: not a readable .npz"):
            read_npz(tmp_path / f"{name}.npz")


def test_nw_ucla_cross_subject(tmp_path, real_data):
    data = pack(read_npz(real_data("nw_ucla.npz")), tmp_path / "u", "subject=1,3,5,7,9", drop_duplicates=True)
    assert (len(data["train"]), len(data["val"])) == (674, 715)
    assert data.layout.name == "kinect20" and len(data.classes) == 10 and data.shape == (3, 50, 20, 1)


def test_irds(tmp_path, real_data):
    data = pack(read_npz(real_data("irds.npz")), tmp_path / "i", "subject=1,2", how=Preprocess())
    assert (len(data["train"]), len(data["val"])) == (127, 61) and data.layout == NTU


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("protocol", range(2, 6))
def test_plain_pickles(tmp_path, protocol):
    content = (["a", "b"], [0, np.int64(1)], np.arange(3), {"k": np.float32(2)})
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(content, protocol))
    names, labels, array, mapping = load_plain_pickle(tmp_path / "p.pkl")
    assert names == ["a", "b"] and labels == [0, 1] and array.tolist() == [0, 1, 2] and mapping == {"k": 2.0}


def test_pickles_that_name_code_are_refused(tmp_path, capsys):
    for i, evil in enumerate((Evil(), [Evil()], np.array([Evil()], dtype=object), print)):
        (tmp_path / "evil.pkl").write_bytes(pickle.dumps(evil))
        with pytest.raises(InputError, match=r"names the global builtins.print; only plain values"):
            load_plain_pickle(tmp_path / "evil.pkl")
        assert "executed" not in capsys.readouterr().out, i
    for broken in (b"", b"\x80\x04", b"hello", pickle.dumps(list(range(100)))[:-5]):
        (tmp_path / "broken.pkl").write_bytes(broken)
        with pytest.raises(InputError, match="not a readable pickle"):
            load_plain_pickle(tmp_path / "broken.pkl")


@pytest.fixture
def official(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 3, 50, 25, 2)).astype(np.float32)
    names = [f"S001C00{i % 3 + 1}P0{i + 1:02d}R001A00{i + 1}.skeleton" for i in range(6)]
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "y.pkl").write_bytes(pickle.dumps((names, [0, 1, 2, 0, 1, 2])))
    return tmp_path, x, names


def test_official_arrays(official):
    path, x, names = official
    files = {"train": (path / "x.npy", path / "y.pkl"), "val": (path / "x.npy", path / "y.pkl")}
    pack_official(path / "out", files, NTU)
    data = open_packed(path / "out")
    np.testing.assert_array_equal(data["val"].x, x)
    assert data["train"].name.tolist() == names and data["train"].label.tolist() == [0, 1, 2, 0, 1, 2]
    assert data["train"].subject.tolist() == [1, 2, 3, 4, 5, 6] and data["train"].view.tolist() == [1, 2, 3, 1, 2, 3]


def test_bad_official_arrays(official):
    path, x, names = official

    def refuses(what):
        with pytest.raises(InputError, match=what):
            pack_official(path / "out", {"train": (path / "x.npy", path / "y.pkl")}, NTU)
        assert not (path / "out").exists()

    for labels, what in (
        ((names[:5], [0] * 5), r"expected 6 of each"),
        ((names, [0.5] * 6), "a float among the labels, expected whole numbers"),
        ((names,), "expected a pair"),
        ("text", "expected a pair"),
        ((names, [0, 1, 2, 0, 1, -2]), "label -2"),
        ((names, [0, 1, 2, 0, 1, 10**8]), "label 100000000, expected 0 to at most 65535"),
        ((names, np.array([0, 1, 2, 0, 1, 2**63], dtype=np.uint64)), "label 9223372036854775808"),
        (([*names[:5], 5], [0] * 6), "a int among the names, expected text"),
        ((names, [[0, 1], [2]]), "labels"),
    ):
        (path / "y.pkl").write_bytes(pickle.dumps(labels))
        refuses(what)
    (path / "y.pkl").write_bytes(pickle.dumps((names, [0] * 6)))
    np.save(path / "x.npy", x.transpose(0, 2, 3, 1, 4))
    refuses(r"expected float \(N, 3, T, 25 joints of ntu25, M\)")
    (path / "x.npy").write_bytes((path / "x.npy").read_bytes()[:5000])
    refuses("its header says")
    np.save(path / "x.npy", np.array([{}], dtype=object))
    refuses("Python objects or records")
    x[2, 0, 0, 0, 0] = np.nan
    np.save(path / "x.npy", x)
    refuses("sample 2 .* holds NaN or Inf")


def test_synthetic(tmp_path):
    pack_synthetic(tmp_path / "s", Preprocess(), subjects=3, repeats=1)
    data = open_packed(tmp_path / "s")
    assert len(data.classes) >= 10 and data.shape == (3, 50, 25, 1)
    assert set(data["val"].subject) == {3} and set(data["train"].subject) == {1, 2}
    assert set(data["train"].view) == {1, 2} and len(set(data["train"].name)) == len(data["train"])
    pack_synthetic(tmp_path / "again", Preprocess(), subjects=3, repeats=1)
    np.testing.assert_array_equal(open_packed(tmp_path / "again")["train"].x, data["train"].x)


def test_synthetic_actors_have_constant_bones_and_their_own_size():
    a = synthetic_sequences(subjects=2, repeats=1, views=1, two_person=False, seed=0)
    i = int(np.flatnonzero(a["subject"] == 1)[0])
    frames = a["frames"][a["offsets"][i] : a["offsets"][i + 1]].astype(np.float64)[..., 0]
    thigh = np.linalg.norm(frames[:, 13] - frames[:, 12], axis=-1)
    assert thigh.std() < 0.01 < thigh.mean()
    sizes = []
    for s in (1, 2):
        j = int(np.flatnonzero(a["subject"] == s)[0])
        x = a["frames"][a["offsets"][j] : a["offsets"][j + 1], ..., 0]
        sizes.append(np.linalg.norm(x[:, 13] - x[:, 12], axis=-1).mean())
    assert abs(sizes[0] - sizes[1]) > 0.005


def test_two_person_synthetic(tmp_path):
    pack_synthetic(tmp_path / "s", Preprocess(), subjects=3, repeats=1, views=1, two_person=True)
    data = open_packed(tmp_path / "s")
    pair = data["train"].label >= len(data.classes) - 2
    assert data.shape[3] == 2 and 0 < pair.sum() < len(pair)
    assert not data["train"].x[~pair][..., 1].any() and data["train"].x[pair][..., 1].any()
