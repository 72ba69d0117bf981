"""From raw text to batches: parsing, preparing and loading, each beside the plain way.

Loader variants give batches (x (B, 3, 50, 25, 2), ids) that were checked against the rows before they are timed. A round begins
with AHEAD batches that are not timed: more than any variant prefetches, so that all of them run at their steady rate and the
workers of the variant before have come to rest.
"""

import itertools
import os
import shutil
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import write_ntu
from official_data import Feeder, read_xyz
from race import Entrant

from hiclr_fast.data.convert import Conversion
from hiclr_fast.data.formats.ntu import read_ntu
from hiclr_fast.data.loading.loader import ResidentLoader, StreamLoader
from hiclr_fast.data.packed.dataset import Split, open_packed
from hiclr_fast.data.packed.rows_on_disk import Rows
from hiclr_fast.data.prepare import Ntu
from hiclr_fast.data.preprocess import Preprocess, preprocess
from hiclr_fast.skeletons import LAYOUTS

SHARED = Path(os.environ.get("HICLR_SHARED", Path(__file__).parent.parent.parent / "shared"))
SHAPE = (3, 50, 25, 2)
AHEAD = 8
CPU, NTU = torch.device("cpu"), LAYOUTS["ntu25"]


@pytest.fixture(scope="session")
def texts(tmp_path_factory, tiny) -> list[Path]:
    """The real .skeleton files; tiny: six short ones of the same format."""
    if tiny:
        return sorted(write_ntu(tmp_path_factory.mktemp("texts") / "raw"))
    archive = SHARED / "data" / "irds_skeleton.tar.gz"
    if not archive.exists():
        pytest.skip("real recordings irds_skeleton.tar.gz: HICLR_SHARED is absent")
    folder = tmp_path_factory.mktemp("irds")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return sorted(folder.rglob("*.skeleton"))


@pytest.mark.parametrize("variant", ["official_style", "numba"])
def test_parse(race, texts, variant):
    megabytes = sum(file.stat().st_size for file in texts) / 1e6

    def build(variant: str) -> Entrant:
        one = read_xyz(texts[0])
        want = one.transpose(1, 2, 0, 3).astype(np.float32)
        np.testing.assert_array_equal(read_ntu(texts[0]).frames[..., : one.shape[3]], want)
        read = read_xyz if variant == "official_style" else read_ntu
        return Entrant(lambda: [read(file) for file in texts], info={"megabytes": megabytes})

    race(build, items=len(texts), op="parse", device="cpu", dtype="text", shape=f"{len(texts)} skeleton files")


@pytest.mark.parametrize("variant", ["official_style", "prepare"])
def test_prepare(race, texts, tmp_path, tiny, variant):
    """Text to a dataset on disk. official_style: the plain reader, the same preprocessing, np.save; prepare: prepare.py ntu, with
    checksums and the atomic rename."""

    def plain():
        x = [preprocess(read_xyz(file).transpose(1, 2, 0, 3), NTU, Preprocess()) for file in texts]
        np.save(tmp_path / "plain.npy", np.stack(x))

    def ours():
        rule = "subject=1" if tiny else "subject=1,2"
        Ntu((texts[0].parent,), tmp_path / "set", rule, Preprocess(), Conversion(strict=True)).run()

    def remove():
        shutil.rmtree(tmp_path / "set", ignore_errors=True)

    def build(variant: str) -> Entrant:
        if variant == "official_style":
            return Entrant(plain)
        ours()
        assert sum(map(len, open_packed(tmp_path / "set").splits.values())) == len(texts)
        return Entrant(ours, before=remove)

    race(build, items=len(texts), op="prepare", device="cpu", dtype="float32", shape=f"{len(texts)} skeleton files")


@pytest.fixture(scope="session")
def split(tmp_path_factory, tiny) -> Split:
    """On disk to the last byte: what is still to be written would be written while something is timed."""
    file, samples = tmp_path_factory.mktemp("loader") / "train.npy", 64 if tiny else 8192
    x = np.random.default_rng(0).standard_normal((samples, *SHAPE), dtype=np.float32)
    np.save(file, x)
    os.sync()
    label = np.arange(samples) % 60
    return Split(Rows([file]), label, label.astype(str), label, label)


@pytest.fixture(scope="session")
def single_files(split, tmp_path_factory) -> list[str]:
    """A file a sample, as DALI's numpy reader wants them."""
    folder = tmp_path_factory.mktemp("files")
    for i in range(len(split)):
        np.save(folder / f"{i:05d}.npy", split.x[i])
    os.sync()
    return sorted(map(str, folder.iterdir()))


def data_loader(split: Split, batch: int):
    loader = torch.utils.data.DataLoader(
        Feeder(split.x.files[0], split.label), batch, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True
    )
    for _ in itertools.count():
        for x, _, ids in loader:
            yield x, ids


def stream(split: Split, batch: int, dali: bool):
    loader = StreamLoader(split, batch, 0, CPU, dali=dali)
    for epoch in itertools.count(1):
        for b in loader.epoch(epoch):
            yield b.x, b.ids


def resident(split: Split, batch: int):
    """A batch is an index; the rows are gathered here so that every variant ends with the same thing."""
    loader = ResidentLoader(split, batch, 0, CPU, dali=True)
    for epoch in itertools.count(1):
        for b in loader.epoch(epoch):
            yield b.x.index_select(0, b.index), b.ids


class Batches:
    """Random batches for DALI's own worker processes."""

    def __init__(self, rows: Rows, batch: int):
        self.rows, self.batch = rows, batch

    def __call__(self, info):
        ids = np.random.default_rng(info.iteration).permutation(len(self.rows))[: self.batch]
        return self.rows[ids], ids


def dali_workers(split: Split, batch: int):
    from nvidia.dali import fn, types
    from nvidia.dali.pipeline import Pipeline

    pipe = Pipeline(batch_size=batch, num_threads=1, device_id=None, py_num_workers=2, py_start_method="spawn")
    with pipe:
        source = Batches(split.x, batch)
        kinds = [types.FLOAT, types.INT64]
        pipe.set_outputs(*fn.external_source(source, num_outputs=2, parallel=True, batch_info=True, dtype=kinds))
    while True:
        yield tuple(torch.from_dlpack(out.as_tensor()) for out in pipe.run())


def dali_numpy_reader(split: Split, batch: int, files: list[str]):
    from nvidia.dali import fn
    from nvidia.dali.pipeline import Pipeline

    pipe = Pipeline(batch_size=batch, num_threads=2, device_id=None)
    with pipe:
        x = fn.readers.numpy(files=files, shuffle_after_epoch=True)
        pipe.set_outputs(x, fn.get_property(x, key="source_info"))
    while True:
        x, names = pipe.run()
        ids = [int(Path(names.at(i).tobytes().decode()).stem) for i in range(batch)]
        yield torch.from_numpy(x.as_array()), torch.tensor(ids)


VARIANTS = (
    *("official_style", "torch_stream", "dali_stream", "dali_resident"),
    *(pytest.param(variant, marks=pytest.mark.full) for variant in ("dali_workers", "dali_numpy_reader")),
)


@pytest.mark.parametrize("batch", [128, 1024])
@pytest.mark.parametrize("variant", VARIANTS)
def test_loader(race, tiny, split, request, variant, batch):
    batch, count = (4, 2) if tiny else (batch, 8192 // batch)

    def build(variant: str) -> Entrant:
        if variant.startswith("dali"):
            pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")
        batches = {
            "official_style": lambda: data_loader(split, batch),
            "torch_stream": lambda: stream(split, batch, False),
            "dali_stream": lambda: stream(split, batch, True),
            "dali_resident": lambda: resident(split, batch),
            "dali_workers": lambda: dali_workers(split, batch),
            "dali_numpy_reader": lambda: dali_numpy_reader(split, batch, request.getfixturevalue("single_files")),
        }[variant]()
        for x, ids in itertools.islice(batches, 3):
            np.testing.assert_array_equal(x.numpy(), split.x[ids.numpy()])

        def take(number: int) -> None:
            for _ in itertools.islice(batches, number):
                pass

        return Entrant(partial(take, count), before=partial(take, min(AHEAD, count)), close=batches.close)

    race(build, items=count * batch, op="loader", device="cpu", dtype="float32", shape=f"batch {batch}, 3x50x25x2")
