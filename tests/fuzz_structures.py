"""Hostile files that are well formed on the outside: one field, dtype, shape, stride or member is not what it should be."""

import copy
import io
import json
import math
import pickle
import random
import struct
import zipfile
from typing import Any

import numpy as np
import torch
import yaml

# --- values where another stands

PLAIN = (
    *(None, True, -1, 0, 7, 10**9, 2**31, 2**63, 2**64 + 1, -(2**63) - 1, 10**400, 0.5, math.nan, math.inf, 1e308),
    *("", "a", "nan", "../x", "a" * 5000, "\0", "\ud800", "\U0001f600", [], {}, [0], [[[[]]]], [None] * 3, {"a": 1}, ["a", None]),
)


def deep(levels: int) -> list:
    found: list = []
    for _ in range(levels):
        found = [found]
    return found


def replaced(tree: Any, rng: random.Random, values: tuple = PLAIN) -> Any:
    """A copy of nested dicts and lists in which one value, of any depth, is another, is gone, or has another key."""
    tree = copy.deepcopy(tree)
    holder, places = tree, []
    while isinstance(holder, (dict, list)) and holder and (not places or rng.random() < 0.8):
        key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
        places.append((holder, key))
        holder = holder[key]
    holder, key = places[-1]
    choice = rng.randrange(8)
    if choice == 0:
        del holder[key]
    elif choice == 1 and isinstance(holder, dict):
        holder[rng.choice((5, "zzz", "", "a" * 300))] = holder.pop(key)
    else:
        holder[key] = copy.deepcopy(rng.choice(values))
    return tree


def hostile_json(sound: bytes, rng: random.Random) -> bytes:
    if rng.randrange(10) == 0:
        return rng.choice((b"[" * 100000, b"[" + b"[]," * 9000 + b"[]]", b'{"a":1,"a":2}', b"\xff\xfe", b"NaN", b"\0" * 99))
    return json.dumps(replaced(json.loads(sound), rng), allow_nan=True).encode(errors="surrogatepass")


def hostile_yaml(sound: bytes, rng: random.Random) -> bytes:
    text = rng.choice(
        (
            *("epochs: &a [*a]\n", "epochs: 1\nepochs: 2\n", "a: &a [x,x]\nb: [*a,*a]\n", "seed: " + "9" * 5000, "<<: {a: 1}\n"),
            *("epochs: " + "[" * 3000, "seed: 0x" + "f" * 5000, "lr: !!float abc", "seed: 2001-13-45", "x: !!python/name:os"),
            *("- 1\n", "? [1]\n: 2\n", "a: 1\n---\nb: 2\n", "\t", "lr: !!binary '*'\n", "lr: 1:2:3\n", "%YAML 9.9\n---\na: 1\n"),
            *("\n".join(" " * i + "a:" for i in range(200)), "a" * 70000, "lr: 1e-2\n", "lr: 1e999\n", "seed: 010\n"),
        )
    )
    if rng.random() < 0.5:
        return text.encode()
    return yaml.dump(replaced(yaml.safe_load(sound), rng), allow_unicode=rng.random() < 0.5).encode(errors="surrogatepass")


# --- pickles: opcodes that no pickler writes, where a value stands

HERE = "@@HERE@@"


def text_of(s: str) -> bytes:
    return b"\x8c" + bytes([len(s)]) + s.encode()


def name_of(module: str, name: str) -> bytes:
    return text_of(module) + text_of(name) + b"\x93"


def int_of(n: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", n)


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def dtype_of(word: str, state: bytes = b"") -> bytes:
    return name_of("numpy", "dtype") + tuple_of(text_of(word), b"\x89", b"\x88") + b"R" + (state + b"b" if state else b"")


def snippets(rng: random.Random) -> bytes:
    """One value in opcodes: dtypes that lie, arrays of more than there is, calls, shared lists."""
    core = rng.choice(("numpy.core", "numpy._core"))
    field = b"}" + text_of("a") + tuple_of(dtype_of(rng.choice(("O8", "f8"))), int_of(rng.choice((0, 10**8)))) + b"s"
    sizes = int_of(8) + int_of(1) + int_of(rng.choice((0, 16)))
    records = tuple_of(int_of(3), text_of("|"), b"N", tuple_of(text_of("a")), field, sizes)
    lie = dtype_of("V8", records)
    word = rng.choice(("f4", "f8", "U4", "S3", "O8", "V8", "i8,i8", "M8", "(9,)f8", "f16", "U999999999", "b1", ">f4"))
    shape = tuple_of(*(int_of(rng.choice((0, 1, 2, 25, -2, 10**9, 2**62))) for _ in range(rng.randrange(5))))
    content = rng.choice((b"C\x40" + b"A" * 64, b"C\x00", b"](K\x01K\x02e", text_of("AAAA"), b"N"))
    dtype = rng.choice((lie, dtype_of(word)))
    array = name_of("numpy", "ndarray")
    twice = b"]\x94" + b"".join(b"0](h" + bytes([i]) + b"h" + bytes([i]) + b"e\x94" for i in range(40))
    return rng.choice(
        (
            name_of(f"{core}.multiarray", "scalar") + tuple_of(dtype, content) + b"R",
            name_of(f"{core}.numeric", "_frombuffer") + tuple_of(content, dtype, shape, text_of(rng.choice("CFA"))) + b"R",
            name_of(f"{core}.multiarray", "_reconstruct")
            + (tuple_of(array, tuple_of(int_of(0)), b"C\x01b") + b"R")
            + (tuple_of(int_of(1), shape, dtype, b"\x89", content) + b"b"),
            array + tuple_of(shape, dtype, content) + b"R",
            array + shape + b"\x81",
            name_of("os", "system") + tuple_of(text_of("true")) + b"R",
            name_of("builtins", "bytearray") + tuple_of(int_of(2**31)) + b"R",
            name_of("_codecs", "encode") + tuple_of(text_of("a"), text_of("rot13")) + b"R",
            twice,
            b")" + b"\x85" * 500,
            b"]\x94h\x00a",
            b"\x8e" + struct.pack("<Q", 2**40) + b"abc",
            b"}(](K\x01eK\x01u",
            dtype,
            dtype_of("f8", b"}"),
            b"K\x05Q",
        )
    )


def hostile_pickle(sound: bytes, rng: random.Random) -> bytes:
    tree = pickle.loads(sound)
    if isinstance(tree, tuple):
        tree = list(tree)
    if rng.random() < 0.5:
        return pickle.dumps(replaced(tree, rng, (*PLAIN, b"", b"x", deep(100), np.zeros((0, 10**6, 25, 3)), np.array("x"))))
    data = pickle.dumps(replaced(tree, rng, (HERE,)), protocol=4)
    return data.replace(b"\x8c\x08" + HERE.encode() + b"\x94", snippets(rng)).replace(b"\x8c\x08" + HERE.encode(), b"N")


# --- archives

def hostile_npz(sound: bytes, rng: random.Random) -> bytes:
    """Another dtype, shape, order or content of one array; or another way to store it."""
    arrays = {name: a for name, a in np.load(io.BytesIO(sound)).items()}
    name, choice, out = rng.choice(list(arrays)), rng.randrange(4), io.BytesIO()
    if choice == 0:
        word = rng.choice((">f4", "f2", "f16", "u8", "i1", "U3", "S3", "b1", "c8", "M8[s]", "V3"))
        arrays[name] = np.zeros(rng.choice((arrays[name].shape, (), (3,), (0, 10**6))), word)
    elif choice == 1:
        a = arrays[name]
        arrays[name] = rng.choice((np.atleast_1d(a)[:-1], a[None], a[..., None], a.astype(str), np.float32(np.nan), np.array([])))
    elif choice == 2:
        del arrays[name]
    np.savez(out, **arrays)
    if choice < 3:
        return out.getvalue()
    methods = (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED)
    members, method, out = zipfile.ZipFile(out), rng.choice(methods), io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for member in members.namelist():
            content = members.read(member)
            if member == f"{name}.npy":
                shape = rng.choice(("(-1, -1)", "(10000000000,)", "(True,)", "(2.0,)", "(9,) * 9", "[3]"))
                header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}".encode()
                content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(rng.choice((0, 8, 10**7)))
            archive.writestr(member, content)
    return out.getvalue()


# --- tensors

ONE = torch.zeros(1)
TENSORS = (
    *PLAIN,
    *(bytearray(5), deep(60), ONE.expand(1000, 1000), ONE.expand(10**6, 10**6), torch.zeros(7), torch.zeros(0, 3)),
    *(torch.zeros(10).as_strided((5,), (2,)), torch.zeros(9).as_strided((3, 3), (2, 1)), torch.zeros(3, dtype=torch.int8)),
    *(torch.zeros(2, dtype=torch.complex64), torch.zeros(2, 2).to_sparse(), torch.zeros(2, device="meta"), torch.zeros(2) > 1),
    *(torch.full((8,), math.nan), torch.tensor(10**6), np.float64(3), torch.Size([2, 3]), {1, 2}, 1j, torch.float16),
)


def hostile_torch(sound: bytes, rng: random.Random) -> bytes:
    """Another value in what torch.save wrote; or NaN, another sign, shape or stride in one of its tensors."""
    tree, out = torch.load(io.BytesIO(sound), weights_only=True), io.BytesIO()
    tree = {**tree, "model": dict(tree["model"])}
    if rng.random() < 0.5:
        tree = replaced(tree, rng, TENSORS)
    else:
        name = rng.choice(list(tree["model"]))
        t = tree["model"][name]
        wide = torch.zeros(t.numel() + 5)
        changed = (t[None], t.double(), -t, t * math.nan, t.half(), t.reshape(-1), torch.zeros(()).expand(t.shape))
        tree["model"][name] = rng.choice((*changed, wide[: t.numel()].view(t.shape)))
    torch.save(tree, out, _use_new_zipfile_serialization=rng.random() < 0.9)
    return out.getvalue()


def hostile_safetensors(sound: bytes, rng: random.Random) -> bytes:
    size = struct.unpack("<Q", sound[:8])[0]
    header = json.dumps(replaced(json.loads(sound[8 : 8 + size]), rng)).encode(errors="surrogatepass")
    return struct.pack("<Q", rng.choice((len(header), len(header), len(header) + 1, 2**63))) + header + sound[8 + size :]
