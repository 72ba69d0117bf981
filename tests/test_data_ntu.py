"""Numbers and NTU RGB+D text: against Python's float, the recorded official reader, and the same recordings as arrays."""

import math
import random
import struct

import numpy as np
import pytest
from data_files import IRDS_TRAIN, irds_files, skeleton_text

from hiclr_fast.data.formats.bodies import Bodies, denoised, first_two
from hiclr_fast.data.formats.ntu import find_files, in_training, parse_skeleton, read_ntu
from hiclr_fast.data.formats.parse_numbers import PAD, padded, read_float, read_int, read_xyz, skip_fields
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.data.prepare import Ntu
from hiclr_fast.data.preprocess import Preprocess, preprocess
from hiclr_fast.errors import InputError
from hiclr_fast.skeletons import LAYOUTS

NTU = LAYOUTS["ntu25"]


def text_numbers(count: int, seed: int) -> list[str]:
    """Decimals of all lengths and shapes whose power of ten stays within 22."""
    rng, out = random.Random(seed), []
    for _ in range(count):
        digits = rng.choice((1, 2, 7, 8, 9, 12, 15, 16, 17, 19))
        text = str(rng.randrange(10**digits))
        after = rng.randrange(len(text) + 1)
        text = text[: len(text) - after] + ("." + text[len(text) - after :] if after else "")
        if rng.random() < 0.2:
            text += f"e{rng.randint(-3, 3)}"
        out.append(rng.choice(("", "-", "+")) + text)
    return out


def test_floats_are_those_of_python_to_the_last_bit():
    for text in text_numbers(20000, 0):
        value, end, ok = read_float(padded(text.encode()), 0)
        assert ok and end == len(text) and value == float(text), text


def test_three_numbers_of_a_joint_are_those_of_python():
    numbers = text_numbers(9000, 1)
    numbers[:30] = ["0.1234567890123"] * 30  # longer than one word
    for at in range(0, len(numbers), 3):
        line = " ".join(numbers[at : at + 3]) + " 5\n"
        *values, end, ok = read_xyz(padded(line.encode()), 0)
        assert ok and values == [float(n) for n in numbers[at : at + 3]] and line[end:] == " 5\n", line


@pytest.mark.parametrize(("text", "value"), [("nan", math.nan), ("-Inf", -math.inf), ("INFINITY", math.inf), ("1e400", math.inf)])
def test_words_and_overflow(text, value):
    got, _, ok = read_float(padded(text.encode()), 0)
    assert (ok and struct.pack("d", got) == struct.pack("d", value)) or (math.isnan(got) and math.isnan(value))


@pytest.mark.parametrize("text", ["", "-", ".", "x", "1e", "1.2.3", "0x10", "1,", "nano", "1\x00", "--1"])
def test_what_is_no_number(text):
    _, end, ok = read_float(padded(text.encode()), 0)
    assert not ok or (text == "1," and end == 1)  # a comma ends a number, as in label files
    assert len(padded(text.encode())) == len(text) + PAD


def test_fields_are_counted_whatever_separates_them():
    for line, fields in ((b"1 2 3\n", 3), (b" 1  2\t3 \r\n", 3), (b"1 2 3", 3), (b"\n", 0), (b"a " * 70 + b"\n", 70)):
        end, got = skip_fields(padded(line), 0, 3)
        assert got == fields and end >= len(line)
    assert read_int(padded(b" -72057594037931101 "), 0)[0] == -72057594037931101


@pytest.mark.parametrize("i", [0, 1])
def test_recorded_official_reader(golden, tmp_path, i):
    g = golden("preprocess")
    text, name = g[f"skeleton/{i}/text_utf8"].tobytes(), g[f"skeleton/{i}/filename_utf8"].tobytes().decode()
    (tmp_path / name).write_bytes(text)
    recording = read_ntu(tmp_path / name)
    np.testing.assert_array_equal(recording.frames, g[f"skeleton/{i}/xyz"].transpose(1, 2, 0, 3).astype(np.float32))
    np.testing.assert_allclose(preprocess(recording.frames, NTU, Preprocess()), g["skeleton/position"][i], atol=1e-5)
    crlf = tmp_path / f"crlf_{name}"
    crlf.write_bytes(text.replace(b"\n", b"\r\n"))
    np.testing.assert_array_equal(read_ntu(crlf).frames, recording.frames)


@pytest.mark.parametrize("split", ["xsub", "xview"])
def test_recorded_official_splits(golden, tmp_path, split):
    g = golden("preprocess")
    names = [g[f"skeleton/{i}/filename_utf8"].tobytes().decode() for i in (0, 1)]
    recordings = []
    for i, name in enumerate(names):
        (tmp_path / name).write_bytes(g[f"skeleton/{i}/text_utf8"].tobytes())
        recordings.append(read_ntu(tmp_path / name))
    subject, view, setup = (np.array([getattr(r, c) for r in recordings]) for c in ("subject", "view", "setup"))
    trains = in_training(f"ntu60_{split}", subject, view, setup)
    for part, chosen in (("train", trains), ("val", ~trains)):
        want = g[f"gendata/{split}_{part}/file_index"]
        np.testing.assert_array_equal(np.flatnonzero(chosen), want)
        assert [recordings[i].label for i in want] == g[f"gendata/{split}_{part}/label"].tolist()
        frames = recordings[want[0]].frames[:8].transpose(2, 0, 1, 3)
        np.testing.assert_array_equal(frames, g[f"gendata/{split}_{part}/data_first8"][0, :, : frames.shape[1]])


def test_ntu120_splits():
    subject, setup = np.array([1, 45, 3, 103, 106]), np.array([2, 3, 4, 31, 32])
    assert in_training("ntu120_xsub", subject, subject, setup).tolist() == [True, True, False, True, False]
    assert in_training("ntu120_xset", subject, subject, setup).tolist() == [True, False, True, False, True]


def test_every_real_file_equals_the_same_recordings_as_arrays(real_data, tmp_path):
    files, arrays = irds_files(real_data, tmp_path), np.load(real_data("irds.npz"))
    assert len(files) == len(arrays["name"]) == 188
    Ntu((tmp_path / "raw",), tmp_path / "set", IRDS_TRAIN, Preprocess(), options()).run()
    data = open_packed(tmp_path / "set")
    rows = {name: i for i, name in enumerate(arrays["name"].tolist())}
    for split in data.splits.values():
        for x, name, label, subject in zip(np.asarray(split.x), split.name, split.label, split.subject, strict=True):
            i = rows.pop(str(name))
            raw = arrays["frames"][arrays["offsets"][i] : arrays["offsets"][i + 1]][..., None]
            np.testing.assert_array_equal(x[..., :1], preprocess(raw, NTU, Preprocess()))
            assert not x[..., 1].any() and (label, subject) == (arrays["label"][i], arrays["subject"][i])
    assert not rows and (data["train"].subject != 3).all() and (data["val"].subject == 3).all()


def options():
    from hiclr_fast.data.convert import Conversion

    return Conversion(strict=True, workers=2)


def tracks(*spans, scale=1.0) -> Bodies:
    """Bodies of one joint pair each, seen in frames [start, stop), standing upright and moving by their number."""
    rng = np.random.default_rng(0)
    seen = sorted((f, b) for b, (start, stop) in enumerate(spans) for f in range(start, stop))
    frame, ident = np.array([f for f, _ in seen]), np.array([b for _, b in seen])
    xyz = rng.normal(0, 0.01, (len(seen), 25, 3)) + (ident * frame * 0.01 * scale)[:, None, None]
    xyz[:, 3, 1] += 1.7  # higher than wide
    return Bodies(max(stop for _, stop in spans), frame, 100 + ident, xyz.astype(np.float32))


def test_first_two_bodies_are_in_file_order():
    out = first_two(tracks((0, 20), (5, 20), (5, 9)))
    assert out.shape == (20, 25, 3, 2) and not out[:5, ..., 1].any() and out[5:, ..., 1].any()


def test_denoising_drops_short_tracks_and_orders_by_motion():
    bodies = tracks((0, 30), (0, 30), (4, 15))  # the third is seen in 11 frames: noise
    out = denoised(bodies)
    np.testing.assert_array_equal(out[..., 0], bodies.xyz[bodies.ident == 101])  # moves more
    np.testing.assert_array_equal(out[..., 1], bodies.xyz[bodies.ident == 100])


def test_denoising_drops_what_is_wider_than_high():
    bodies = tracks((0, 30), (0, 30))
    wide = bodies.ident == 101
    bodies.xyz[wide, 3] = bodies.xyz[wide, 3][:, [1, 0, 2]]
    out = denoised(bodies)
    np.testing.assert_array_equal(out[..., 0], bodies.xyz[~wide])
    assert not out[..., 1].any()


def test_denoising_joins_tracks_that_follow_each_other_and_cuts_empty_frames():
    bodies = tracks((0, 20), (25, 45))
    out = denoised(bodies)
    assert len(out) == 40 and not out[..., 1].any()
    np.testing.assert_array_equal(out[..., 0], bodies.xyz)
    one = tracks((0, 5))
    np.testing.assert_array_equal(denoised(one)[..., 0], one.xyz)  # the last track stays, however short


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t[:-40], r"line \d+: (the text ends|a line has another number|not a number)"),
        (lambda t: t.replace("\n25\n", "\n24\n", 1), "line 4: not 25 joints in a body"),
        (lambda t: t + "1 2 3\n", "text after the last frame"),
        (lambda t: "999999999" + t[t.index("\n") :], "line 1: the number of frames does not fit"),
        (lambda t: "99" + t[t.index("\n") :], "the text ends before all frames are read"),
        (lambda t: t.replace("0.5", "zero", 1), "not a number where one is expected"),
        (lambda t: "", "line 1: not a number"),
    ],
)
def test_broken_text_names_the_line(change, match):
    text = skeleton_text(np.full((3, 25, 3, 1), 0.5))
    assert parse_skeleton(padded(text.encode()), "f").frames == 3
    with pytest.raises(InputError, match=match):
        parse_skeleton(padded(change(text).encode()), "f")


def test_names_and_the_missing_list(tmp_path):
    for a in (1, 2, 3):
        (tmp_path / f"S001C001P001R001A{a:03d}.skeleton").write_text("0\n")
    (tmp_path / "missing.txt").write_text("some words\nS001C001P001R001A002\r\n")
    assert [f.stem[-1] for f in find_files([tmp_path], tmp_path / "missing.txt")] == ["1", "3"]
    with pytest.raises(InputError, match=r"no \.skeleton file"):
        find_files([tmp_path / "nowhere"], None)
    (tmp_path / "x.skeleton").write_text("0\n")
    with pytest.raises(InputError, match="the name holds no SsssCcccPpppRrrrAaaa"):
        read_ntu(tmp_path / "x.skeleton")
