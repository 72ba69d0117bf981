"""Pickles that lie about what they hold: each is refused in one sentence, quickly, and nothing in it is built or run."""

import _codecs
import pickle
import time

import numpy as np
import pytest
from fuzz_structures import deep, dtype_of, int_of, name_of, text_of, tuple_of
from test_hostile_files import refuses

from hiclr_fast.data.formats.official import load_labels
from hiclr_fast.data.formats.pyskl import Annotations
from hiclr_fast.errors import InputError
from hiclr_fast.files.pickles import load_plain_pickle

EIGHT = b"C\x08" + b"A" * 8
START = b"\x80\x04"
FIELDS = b"}" + text_of("a") + tuple_of(dtype_of("O8"), int_of(0)) + b"s"
RECORDS = tuple_of(int_of(3), text_of("|"), b"N", tuple_of(text_of("a")), FIELDS, int_of(8), int_of(1), int_of(0))
LIE = dtype_of("V8", RECORDS)  # says that it holds no objects, and has an object field
CORE = "numpy.core.multiarray"
SCALAR = name_of(CORE, "scalar") + tuple_of(LIE, b"C\x08" + b"A" * 8) + b"R"


def sharing(levels: int) -> bytes:
    """[x, x] of [x, x] of ...: 2 ** levels values."""
    return b"]\x94" + b"".join(b"0](h" + bytes([i]) + b"h" + bytes([i]) + b"e\x94" for i in range(levels))


def array(dtype: bytes, shape: bytes, content: bytes) -> bytes:
    made = name_of(CORE, "_reconstruct") + tuple_of(name_of("numpy", "ndarray"), tuple_of(int_of(0)), b"C\x01b") + b"R"
    return made + tuple_of(int_of(1), shape, dtype, b"\x89", content) + b"b"


CASES = {
    "an object field in a scalar": (SCALAR, "array of records"),
    "an object field in an array": (array(LIE, tuple_of(int_of(1)), b"C\x08" + b"A" * 8), "array of records"),
    "a state with fields on a plain dtype": (array(dtype_of("f8", RECORDS), tuple_of(int_of(1)), EIGHT), "array of records"),
    "more items than bytes": (array(dtype_of("f8"), tuple_of(int_of(10**9)), EIGHT), "8 bytes of data for 1000000000 items"),
    "negative lengths": (array(dtype_of("f8"), tuple_of(int_of(-1), int_of(-1)), EIGHT), "a shape of 2 dimensions"),
    "characters that do not exist": (array(dtype_of("U2"), tuple_of(int_of(1)), EIGHT), "characters that do not exist"),
    "an array that was never filled": (
        name_of("numpy", "ndarray") + tuple_of(tuple_of(int_of(8)), text_of("i8")) + b"R",
        r"calls numpy\.ndarray",
    ),
    "a call": (name_of("posix", "system") + tuple_of(text_of("true")) + b"R", r"names the global posix\.system"),
    "shared lists": (sharing(30), "nested or shared"),
    "a list of itself": (b"]\x94h\x00a", "nested or shared"),
    "nested tuples": (b")" + b"\x85" * 200000, "nested or shared"),
    "a long number": (b"\x8b\xff\x00\x00\x00" + b"\x01" * 255, "a number of 2033 bits"),
    "a claim": (b"\x8e" + (1 << 60).to_bytes(8, "little"), "claims 1152921504606846976"),
    "a far place": (b"Nr\xff\xff\xff\xff", "far off"),
    "ten million lists": (b"]" * 10_000_000, "far more of its bytes"),
    "ten million places": (b"N" + b"\x94" * 10_000_000, "far more of its bytes"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_no_data(tmp_path, case):
    content, what = CASES[case]
    (tmp_path / "x.pkl").write_bytes(START + content + b".")
    began = time.monotonic()
    with pytest.raises(InputError, match=what) as found:
        load_plain_pickle(tmp_path / "x.pkl")
    assert time.monotonic() - began < 30 and len(str(found.value)) < 400


FROMBUFFER = np.arange(2).__reduce_ex__(5)[0]


class Call:
    """Pickled, it stands for a call; its arguments are written once, however many calls have them."""

    def __init__(self, arguments: tuple, what=FROMBUFFER):
        self.what, self.arguments = what, arguments

    def __reduce__(self):
        return self.what, self.arguments


ALIKE = [None] * 200_000
BOMBS = {
    "text": Call(("a" * 10**6, "latin1"), _codecs.encode),
    "lists": Call((ALIKE, np.dtype(object), (len(ALIKE),), "C")),
    "words": Call((np.dtype("S999999"), b"a" * 999_999), np.float32(1).__reduce__()[0]),
}


@pytest.mark.parametrize("case", BOMBS)
def test_calls_that_make_far_more_than_the_file(tmp_path, case):
    """Each used to take over a gigabyte."""
    calls = [Call(BOMBS[case].arguments, BOMBS[case].what) for _ in range(1500)]
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(calls, 4))
    refuses(load_plain_pickle, tmp_path / "x.pkl", "far more of its bytes")


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_honest_arrays_of_more_than_every_file_may_make(tmp_path, protocol):
    x = np.random.default_rng(0).normal(size=(2, 75000, 25, 3)).astype(np.float16)
    x[1] = 0  # bytes that protocol 2 hardly lengthens
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(list(x.reshape(100, 1500, 25, 3)), protocol))
    np.testing.assert_array_equal(load_plain_pickle(tmp_path / "x.pkl"), x.reshape(100, 1500, 25, 3))


@pytest.mark.parametrize("protocol", range(6))
def test_what_pickles_of_data_hold(tmp_path, protocol):
    x = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    content = {"big": x.astype(">i4"), "turned": np.asfortranarray(x), "text": np.array(["a", "bé"]), "one": np.float32(1.5)}
    content |= {"objects": np.array(["a", "b"], dtype=object), "none": np.zeros((0, 3))}
    content["numbers"] = [1, -(2**40), 1.5, None, True]
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol))
    found = load_plain_pickle(tmp_path / "x.pkl")
    for name in ("big", "turned", "text", "none"):
        np.testing.assert_array_equal(found[name], content[name])
        assert found[name].dtype == content[name].dtype
    assert found["one"] == 1.5 and found["objects"] == ["a", "b"] and found["numbers"] == content["numbers"]


def test_the_pickle_that_ended_in_a_segmentation_fault(tmp_path):
    annotation = b"](}(" + text_of("frame_dir") + SCALAR + text_of("label") + int_of(0) + text_of("keypoint") + b"Nue"
    lists = b"}(" + text_of("xsub_train") + b"](" + text_of("a") + b"e" + text_of("xsub_val") + b"](" + text_of("b") + b"eu"
    content = START + b"}(" + text_of("split") + lists + text_of("annotations") + annotation + b"u."
    (tmp_path / "p.pkl").write_bytes(content)
    with pytest.raises(InputError, match="array of records"):
        Annotations(tmp_path / "p.pkl", "xsub_train", "xsub_val")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (dict(frame_dir=["a"]), "frame_dir is no text"),
        (dict(frame_dir="a" * 300), "frame_dir is no text of 1 to 255"),
        (dict(label=True), "no whole number from 0"),
        (dict(label=10**8), "no whole number from 0"),
        (dict(label=deep(30)), "no whole number from 0"),
        (dict(keypoint=np.zeros((0, 10**9, 25, 3), np.float16)), "is empty"),
        (dict(keypoint=np.zeros((1, 4, 25, 3), int)), "no float array"),
    ],
)
def test_fields_of_pyskl_annotations(tmp_path, change, what):
    one = {"frame_dir": "a", "label": 0, "keypoint": np.ones((1, 4, 25, 3), np.float16)} | change
    content = {"split": {"t": ["a"], "v": ["b"]}, "annotations": [one]}
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=what):
        Annotations(tmp_path / "p.pkl", "t", "v").read(0)


def test_one_annotation_does_not_stand_for_many(tmp_path):
    one = {"frame_dir": "a", "label": 0, "keypoint": np.ones((1, 4, 25, 3))}
    same = bytes(1200), np.dtype(np.float32), (1, 4, 25, 3), "C"  # two arrays over the same bytes
    shared = [{**one, "frame_dir": str(i), "keypoint": Call(same)} for i in range(2)]
    for many in ([one] * 1000, [{**one, "frame_dir": str(i)} for i in range(9)], shared):
        (tmp_path / "p.pkl").write_bytes(pickle.dumps({"split": {"t": ["a"], "v": []}, "annotations": many}))
        with pytest.raises(InputError, match="stands for several samples"):
            Annotations(tmp_path / "p.pkl", "t", "v")


def test_one_long_name_does_not_widen_all(tmp_path):
    (tmp_path / "y.pkl").write_bytes(pickle.dumps((["a"] * 100_000 + ["b" * 10**6], [0] * 100_001)))
    with pytest.raises(InputError, match="far more than the others"):
        load_labels(tmp_path / "y.pkl", 100_001)
