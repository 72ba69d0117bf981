"""Recordings without labels, in whatever `hiclr prepare` reads, as the rows of a network: one by one, in a memory that does not
grow with their number.

| given | what is a clip |
|---|---|
| .skeleton (NTU RGB+D) | the file |
| .json (NW-UCLA) | the file |
| .txt (PKU-MMD) | the file, whole |
| .pkl (pyskl) | an annotation |
| .npz of `hiclr prepare sequences` | a sequence |
| .npz of plain arrays, .npy | an array (F, V, 3[, M]), or each row of an array (N, 3, T, V, M) |
| a packed set | a sample of any split |
| a folder | whatever of these lies below it |
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from hiclr_fast.data.contract import Contract
from hiclr_fast.data.formats import ntu, pku, ucla
from hiclr_fast.data.formats.bodies import denoised, first_two
from hiclr_fast.data.formats.parse_numbers import PAD
from hiclr_fast.data.formats.recording import Recording, read_padded, repaired
from hiclr_fast.data.formats.sequences import find_layout
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.data.packed.rows_on_disk import Rows
from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import read_npz
from hiclr_fast.files.pickles import load_plain_pickle
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

    def _repaired(self, read: Callable[[], np.ndarray], name: str) -> Clip:
        """A recording of a file format: as `hiclr prepare` does, single frames that are no numbers are interpolated."""

        def row() -> np.ndarray:
            frames, _ = repaired(Recording(name, read(), 0))
            return self.contract.row(frames, name)

        return Clip(name, row)

    def _skeleton(self, path: Path) -> Iterator[Clip]:
        self._check(get_layout("ntu25"), path)
        select = first_two if self.bodies == "first" else denoised
        yield self._repaired(lambda: select(ntu.parse_skeleton(read_padded(path, PAD), str(path))), path.stem)

    def _ucla(self, path: Path) -> Iterator[Clip]:
        self._check(get_layout("kinect20"), path)
        yield self._repaired(lambda: ucla.read_frames(path), path.stem)

    def _pku(self, path: Path) -> Iterator[Clip]:
        self._check(get_layout("ntu25"), path)
        yield self._repaired(lambda: pku.read_frames(path), path.stem)

    def _pyskl(self, path: Path) -> Iterator[Clip]:
        content = load_plain_pickle(path)
        found = content.get("annotations") if isinstance(content, dict) else content
        if not isinstance(found, (list, tuple)):
            raise InputError(f"{path}: expected a dict with `annotations`, or a list of them, as pyskl writes it")
        self._check(self.layout, path)
        for i, one in enumerate(found):
            name = one.get("frame_dir") if isinstance(one, dict) else None
            points = one.get("keypoint") if isinstance(one, dict) else None
            if not isinstance(points, np.ndarray) or points.dtype.kind != "f" or points.ndim != 4:
                raise InputError(f"{path} annotation {i}: expected a dict with keypoint (bodies, frames, joints, 3)")
            x = points[: self.contract.shape[3]].transpose(1, 2, 3, 0).astype(np.float32)
            yield self._repaired(lambda x=x: x, str(name or f"{path.stem}_{i}"))

    def _packed(self, path: Path) -> Iterator[Clip]:
        data = open_packed(path)
        self._check(data.layout, path)
        theirs = Contract.of(data, self.contract.stream)
        if (theirs.shape, theirs.how) != (self.contract.shape, self.contract.how):
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
            for name, x in arrays.items():
                yield from self._array(x, f"{path.stem}_{name}" if len(arrays) > 1 else path.stem)
            return
        self._check(find_layout(arrays, str(path)), path)
        offsets, frames = arrays["offsets"], arrays.get("frames")
        rising = offsets.ndim == 1 and offsets.dtype.kind in "iu" and len(offsets) > 1 and not (np.diff(offsets) <= 0).any()
        if frames is None or not rising or offsets[0] != 0 or offsets[-1] != len(frames):
            raise InputError(f"{path}: offsets must rise from 0 to the number of `frames`, without empty sequences")
        names = arrays.get("name", np.array([f"{i:06d}" for i in range(len(offsets) - 1)]))
        if names.shape != (len(offsets) - 1,):
            raise InputError(f"{path}: name {names.shape}, expected ({len(offsets) - 1},), one a sequence")
        for name, a, b in zip(names.astype(str).tolist(), offsets[:-1], offsets[1:], strict=True):
            yield Clip(name, self._reader([frames[a:b]], name))

    def _npy(self, path: Path) -> Iterator[Clip]:
        yield from self._array(np.asarray(Rows([path])), path.stem)

    def _array(self, x: np.ndarray, name: str) -> Iterator[Clip]:
        self._check(self.layout, Path(name))
        if x.ndim != 5:
            yield Clip(name, self._reader([x], name))
            return
        samples = Samples(x, self.contract, self.layout)
        for i in range(len(samples)):
            yield Clip(f"{name}_{i}", lambda i=i: samples.rows(i, i + 1)[0])

    def _reader(self, x: Any, name: str) -> Callable[[], np.ndarray]:
        def read() -> np.ndarray:
            return Samples(x, self.contract, self.layout, where=name).rows(0, 1)[0]

        return read
