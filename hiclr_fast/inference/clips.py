"""Recordings without labels, in whatever `hiclr prepare` reads, as the rows of a network: one by one, in a memory that does not
grow with their number.

| given | what is a clip |
|---|---|
| .skeleton (NTU RGB+D) | the file |
| .json (NW-UCLA) | the file |
| .txt (PKU-MMD) | the file, whole |
| .pkl (pyskl) | an annotation |
| .npz of `hiclr prepare sequences` | a sequence |
| .npz and .npy of `hiclr prepare clips` | the file, (F, V, C) or (F, V, C, M) |
| .npy (N, 3, T, V, M) | a row |
| a packed set | a sample of any split |
| a folder | whatever of these lies below it |
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from hiclr_fast.data.contract import Contract
from hiclr_fast.data.convert import row_of
from hiclr_fast.data.formats import ntu, pku, ucla
from hiclr_fast.data.formats.clips import load_clip
from hiclr_fast.data.formats.pyskl import Annotations
from hiclr_fast.data.formats.recording import Recording
from hiclr_fast.data.formats.sequences import Sequences, check_sequences, find_layout
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.data.packed.rows_on_disk import Rows, npy_header
from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import read_npz
from hiclr_fast.inference.rows import Samples
from hiclr_fast.skeletons import Layout, get_layout

BodyChoice = Literal["first", "denoised"]


class Clip(NamedTuple):
    """name; read(): its row (3, T, V, M) float32, InputError where it does not fit or is damaged."""

    name: str
    read: Callable[[], np.ndarray]


class ClipReader:
    """Reads for one network. layout: of arrays, which do not say theirs; none: the network's. bodies: which two of a .skeleton
    file, as in `hiclr prepare ntu`; none: as the network's data were prepared."""

    def __init__(self, contract: Contract, layout: Layout | None = None, bodies: BodyChoice | None = None):
        self.contract, self.layout = contract, layout or contract.layout
        prepared = str(contract.facts.get("source", "")).split()  # `hiclr prepare ntu` writes: ntu SPLIT BODIES
        self.bodies = bodies or ("denoised" if prepared[:1] == ["ntu"] and prepared[-1] == "denoised" else "first")
        self.kinds = {
            ".skeleton": self._skeleton,
            ".json": self._ucla,
            ".txt": self._pku,
            ".pkl": self._pyskl,
            ".npz": self._npz,
            ".npy": self._npy,
        }

    def clips(self, paths: Sequence[Path]) -> Iterator[Clip]:
        """Of all paths, in their order, a folder's files by name. InputError where a path holds none."""
        for path in map(Path, paths):
            if (path / "meta.json").is_file():
                yield from self._packed(path)
            elif path.is_dir():
                files = sorted((f for f in path.rglob("*") if f.suffix in self.kinds), key=lambda f: (f.name, str(f)))
                if not files:
                    raise InputError(f"{path}: no recording in it; expected files {', '.join(self.kinds)}, or a packed set")
                for file in files:
                    yield from self.kinds[file.suffix](file)
            elif path.suffix in self.kinds:
                yield from self.kinds[path.suffix](path)
            else:
                raise InputError(f"{path}: not a recording; expected {', '.join(self.kinds)}, a packed set or a folder of these")

    def _check(self, layout: Layout, where: Path) -> None:
        self.contract.check_layout(layout, str(where), "the network")

    def _clip(self, name: str, read: Callable[[], Recording]) -> Clip:
        """A clip of the recording that `read` gives: mended, filled and made into a row as `hiclr prepare` does."""

        def row() -> np.ndarray:
            recording = read()
            frames, score = self.contract.with_bodies(recording.frames, recording.score, recording.name)
            flat = self.contract.space.flat
            if frames.ndim != 4 or (frames.shape[2] == 2) != flat:
                expected = "(x, y) in an image" if flat else "(x, y, z)"
                raise InputError(f"{recording.name}: shape {frames.shape}, the network was trained on {expected}")
            return row_of(replace(recording, frames=frames, score=score), self.contract.layout, self.contract.how)[0]

        return Clip(name, row)

    def _skeleton(self, path: Path) -> Iterator[Clip]:
        self._check(get_layout("ntu25"), path)
        yield self._clip(path.stem, lambda: ntu.read_ntu(path, self.bodies, named=False))

    def _ucla(self, path: Path) -> Iterator[Clip]:
        self._check(get_layout("kinect20"), path)
        yield self._clip(path.stem, lambda: Recording(path.stem, ucla.read_frames(path)))

    def _pku(self, path: Path) -> Iterator[Clip]:
        self._check(get_layout("ntu25"), path)
        yield self._clip(path.stem, lambda: Recording(path.stem, pku.read_frames(path)))

    def _pyskl(self, path: Path) -> Iterator[Clip]:
        self._check(self.layout, path)
        found = Annotations(path, None, None)
        for i, one in enumerate(found.annotations):
            name = one.get("frame_dir") if isinstance(one, dict) else None
            yield self._clip(str(name or f"{path.stem}_{i}"), lambda i=i: found.read(i)[0])

    def _packed(self, path: Path) -> Iterator[Clip]:
        data = open_packed(path)
        self._check(data.layout, path)
        theirs = Contract.of(data, self.contract.stream)
        if (theirs.shape, theirs.how, theirs.space.third) != (self.contract.shape, self.contract.how, self.contract.space.third):
            raise InputError(
                f"{path} was prepared otherwise than the network's data: {theirs.shape} {theirs.how}, expected "
                f"{self.contract.shape} {self.contract.how}; give the recordings themselves, or prepare them alike"
            )
        for split in data.splits.values():
            for i, name in enumerate(split.name.tolist()):
                yield Clip(name, lambda split=split, i=i: split.x[i])

    def _npz(self, path: Path) -> Iterator[Clip]:
        arrays = read_npz(path)
        if "offsets" not in arrays:
            self._check(self.layout, path)
            yield self._clip(path.stem, partial(self._own, path))
            return
        layout = self.layout if not {"layout", "parents"} & set(arrays) else find_layout(arrays, str(path))
        self._check(layout, path)
        check_sequences(arrays, layout, str(path))
        found = Sequences(arrays)
        for i, name in enumerate(found.columns["name"].tolist()):
            yield self._clip(name, lambda i=i: found.read(i)[0])

    def _npy(self, path: Path) -> Iterator[Clip]:
        self._check(self.layout, path)
        if len(npy_header(path)[0]) != 5:
            yield self._clip(path.stem, partial(self._own, path))
            return
        samples = Samples(np.asarray(Rows([path])), self.contract, self.layout)
        for i in range(len(samples)):
            yield Clip(f"{path.stem}_{i}", lambda i=i: samples.rows(i, i + 1)[0])

    def _own(self, path: Path) -> Recording:
        """One array in a file; in an image three numbers are x, y and the score."""
        arrays, joints = load_clip(path), self.contract.layout.num_joints
        x, score, image = arrays["frames"], arrays.get("score"), arrays.get("image")
        if x.ndim != 4 or x.shape[1] != joints or x.shape[2] not in ((2, 3) if self.contract.space.flat else (3,)):
            raise InputError(f"{path.stem}: shape {x.shape}, expected (frames, {joints} joints of {self.layout.name}, ..)")
        if self.contract.space.flat and x.shape[2] == 3:
            x, score = x[:, :, :2], x[:, :, 2]
        size = None if image is None or image.shape != (2,) else (float(image[0]), float(image[1]))
        score = None if score is None else score.astype(np.float32)
        return Recording(path.stem, x.astype(np.float32), score=score, image=size)
