"""Archives, JSON, YAML and text that claim more than they hold, or unpack to far more: one sentence, little memory."""

import io
import json
import os
import resource
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from data_files import write_ntu
from fuzz_inputs import peak

from hiclr_fast.data.convert import Conversion
from hiclr_fast.data.formats.ntu import read_ntu
from hiclr_fast.data.formats.pku import read_split
from hiclr_fast.data.formats.ucla import read_ucla
from hiclr_fast.data.prepare import Ntu
from hiclr_fast.data.preprocess import Preprocess
from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import read_npz
from hiclr_fast.files.json_files import parse_json, read_json, read_json_lines
from hiclr_fast.files.tensors import load_tensors
from hiclr_fast.files.yaml_files import dump_yaml, read_yaml
from hiclr_fast.pretraining.config import load_yaml

HONEST = 100 << 20  # bytes of memory beside twice the file


def refuses(read, file: Path, what: str) -> None:
    """One sentence of at most 300 characters, with no more memory than is allowed."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = peak()
    with pytest.raises(InputError, match=what) as found:
        read(file)
    assert "\n" not in str(found.value) and len(str(found.value).replace(str(file), "")) <= 300
    grown = peak() - before
    assert grown <= 2 * (file.stat().st_size if file.is_file() else 0) + HONEST, f"{grown >> 20} MB more"


def npz(path: Path, header: str, data: bytes = b"", method: int = zipfile.ZIP_STORED) -> Path:
    head = header.encode()
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_that_unpack_without_bound(tmp_path, method):
    file = npz(tmp_path / "x.npz", "{'descr': '|u1', 'fortran_order': False, 'shape': (200000000,)}", bytes(200_000_000), method)
    assert file.stat().st_size < 100_000
    refuses(read_npz, file, "claim to unpack to|neither stored nor deflated")
    small = npz(tmp_path / "y.npz", "{'descr': '|u1', 'fortran_order': False, 'shape': (9,)}", bytes(9), method)
    refuses(read_npz, small, "neither stored nor deflated")


@pytest.mark.parametrize(("read", "head"), [(read_npz, b""), (load_tensors, b"PK\x03\x04")])
def test_a_directory_of_many_members(tmp_path, read, head):
    """It is read before any member; its end claims that there is none."""
    entry = struct.pack("<I6H3I5H2I", 0x02014B50, 20, 20, 0, 0, 0, 33, 0, 0, 0, 4, *[0] * 6) + b"name"
    end = struct.pack("<I4H2IH", 0x06054B50, 0, 0, 0, 0, 400_000 * len(entry), len(head), 0)
    (tmp_path / "x.zip").write_bytes(head + 400_000 * entry + end)
    refuses(read, tmp_path / "x.zip", "a directory of 20000000 bytes")
    np.savez(tmp_path / "x.npz", **{f"an_array_{i}": np.arange(2) for i in range(10_000)})
    assert len(read_npz(tmp_path / "x.npz")) == 10_000


@pytest.mark.parametrize(
    ("descr", "shape", "data", "what"),
    [
        ("'<f8'", "(-1, -1)", 8, "a shape of 2 dimensions"),
        ("'<f8'", "(True,)", 8, "a shape of 1 dimensions"),
        ("'<f8'", "(0, 99999999999999)", 0, "a shape of 2 dimensions"),
        ("'<f8'", "(1000000000,)", 8, "8 bytes of data for 1000000000 items"),
        ("'|O'", "(1,)", 8, "Python objects or records"),
        ("'|V0'", "(10,)", 0, "Python objects or records"),
        ("[('a', '<f8')]", "(1,)", 8, "Python objects or records"),
        ("'<U2'", "(1,)", 8, "ValueError"),
    ],
)
def test_headers_that_lie(tmp_path, descr, shape, data, what):
    content = b"A" * data
    file = npz(tmp_path / "x.npz", f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}", content)
    refuses(read_npz, file, f"not a readable .npz of plain arrays .*{what}")


def test_a_flipped_bit_in_an_archive(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.arange(1000.0))
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[4000] ^= 4
    (tmp_path / "x.npz").write_bytes(data)
    refuses(read_npz, tmp_path / "x.npz", "Bad CRC-32")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"[" * 100000, "RecursionError"),
        (b'{"a": 1e999}', "1e999 is no number"),
        (b'{"a": -1' + b"0" * 400 + b"}", "a whole number of 402 digits"),
        (b'{"a": ' + b"[" * 600 + b"]" * 600 + b"}", "nested more than 100 times"),
        (b"[" + b"[]," * 3_000_000 + b"[]]", "nearly all brackets or commas"),
        (b'{"a": 1, "a": 2}', "a key stands twice"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not readable JSON"),
        (b"[]", "holds a list, expected an object"),
        (b"\0" * 512, "not readable JSON"),
        (b"\xff", "not readable JSON"),
        (b"", "not readable JSON"),
    ],
)
def test_json(tmp_path, text, what):
    (tmp_path / "x.json").write_bytes(text)
    refuses(read_json, tmp_path / "x.json", what)


def test_lines_of_json(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n{"epo')  # the process was killed
    assert read_json_lines(tmp_path / "m.jsonl") == [{"epoch": 1}, {"epoch": 2}]
    (tmp_path / "m.jsonl").write_bytes(b'{"epoch": 1}\n' + b"\0" * 512 + b"\n")
    refuses(read_json_lines, tmp_path / "m.jsonl", "line 2: not readable JSON")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a: &a [lol, lol]\nb: &b [*a, *a]\n", "anchors and aliases"),
        ("epochs: &a [*a]\n", "anchors and aliases"),
        ("seed: !!python/object/apply:os.system ['true']\n", "tags are not read"),
        ("lr: !!float abc\n", "tags are not read"),
        ("epochs: " + "[" * 5000, "nested more than 20 times"),
        ("\n".join(" " * i + "a:" for i in range(300)), "nested more than 20 times"),
        ("epochs: 1\nepochs: 7\n", "the key epochs stands twice, line 2"),
        ("seed: " + "9" * 5000, "seed is '9+', expected a whole number"),
        ("seed: 0x" + "f" * 5000, "expected a whole number"),
        ("seed: 2001-13-45", "expected a whole number"),
        ("? [1, 2]\n: 3\n", "no name"),
        ("a: 1\n---\nb: 2\n", "another document"),
        ("0\n", "expected a mapping"),
        ("epochs: 1\0\n", "not readable YAML"),
        ("a" * 100000, "at most 65536 are read"),
    ],
)
def test_yaml(tmp_path, text, what):
    (tmp_path / "c.yaml").write_text(text)
    refuses(load_yaml, tmp_path / "c.yaml", what)


def test_numbers_of_yaml(tmp_path):
    (tmp_path / "c.yaml").write_text("lr: 1e-2\nweights: [1, 5E-1, .5]\nseed: -0\n")
    config = load_yaml(tmp_path / "c.yaml")
    assert (config.lr, config.weights, config.seed) == (0.01, (1.0, 0.5, 0.5), 0)
    odd = {"a": "1e5", "b": "010", "c": "1:30", "d": "yes", "e": 1e-5, "f": "2001-01-01", "g": None, "h": [1, 2.5]}
    (tmp_path / "c.yaml").write_text(dump_yaml(odd))
    assert read_yaml(tmp_path / "c.yaml") == odd


def test_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for file in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        for read in (read_yaml, read_json, read_npz):
            with pytest.raises(InputError, match=r"not a regular file|cannot be read"):
                read(file)


def test_text_of_nothing_but_frames(tmp_path):
    file = tmp_path / "S001C001P001R001A001.skeleton"
    file.write_bytes(b"4999999\n" + b"0\n" * 4_999_999)
    refuses(read_ntu, file, "number of frames does not fit")
    file.write_bytes(b"100\n" + b"0\n" * 100)
    assert read_ntu(file).frames.shape == (100, 25, 3, 2)
    file.write_bytes(b"18446744073709551617\n0\n")  # 2 ** 64 + 1
    refuses(read_ntu, file, "not a number where one is expected")


def test_a_list_of_one_long_line(tmp_path):
    (tmp_path / "split.txt").write_text("train " * 200_000)
    refuses(read_split, tmp_path / "split.txt", "no training and validation lists")


def test_numbers_in_names(tmp_path):
    file = tmp_path / f"a01_s{'9' * 40}_e00_v01.json"
    file.write_text(json.dumps({"skeletons": np.ones((2, 20, 3)).tolist(), "label": 1}))
    refuses(read_ucla, file, "the name holds no")


def test_a_link_to_nowhere_and_a_name_of_bytes_do_not_end_a_conversion(tmp_path):
    write_ntu(tmp_path / "raw", 4)
    (tmp_path / "raw" / "S001C001P001R009A001.skeleton").symlink_to(tmp_path / "nowhere")
    Path(os.fsdecode(bytes(tmp_path / "raw") + b"/\xff\xfe.skeleton")).write_text("x")
    Ntu((tmp_path / "raw",), tmp_path / "set", "subject=1", Preprocess(frames=10), Conversion(workers=1)).run()
    report = (tmp_path / "set" / "report.csv").read_text()
    assert "R009A001.skeleton does not exist" in report and "\\udcff\\udcfe" in report


def test_limits_hold_in_a_process_with_little_memory(tmp_path):
    """A deflated archive of zeros, claimed small and large, under an address-space limit."""
    out = io.BytesIO()
    np.savez_compressed(out, x=np.zeros(200_000_000, np.uint8))
    (tmp_path / "x.npz").write_bytes(out.getvalue())
    code = f"""
import resource
from pathlib import Path
from hiclr_fast.files.archives import read_npz
now = int(open('/proc/self/statm').read().split()[0]) * {resource.getpagesize()}
resource.setrlimit(resource.RLIMIT_AS, (now + {HONEST}, now + {HONEST}))
try:
    read_npz(Path({str(tmp_path / "x.npz")!r}))
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "that claim to unpack to 200000" in done.stdout, done.stderr


@pytest.mark.parametrize("text", [b'{"a": ["x", "\\ud800"]}', b'{"\\udfff": 1}'])
def test_half_a_character_is_no_text(text):
    with pytest.raises(InputError, match="half a character"):
        parse_json(text, "here")
    assert parse_json(b'["\\ud83d\\ude00"]', "here") == ["\U0001f600"]
