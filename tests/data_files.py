"""Raw recordings in the exact formats of the datasets, made or unpacked for tests."""

import json
import pickle
import tarfile

import numpy as np

IRDS_TRAIN = "subject=1,2"


def irds_files(real_data, tmp_path):
    """The 188 real .skeleton files, unpacked below tmp_path/raw."""
    with tarfile.open(real_data("irds_skeleton.tar.gz")) as archive:
        archive.extractall(tmp_path / "raw", filter="data")
    return sorted((tmp_path / "raw").rglob("*.skeleton"))


def skeleton_text(x: np.ndarray) -> str:
    """NTU RGB+D text of (F, 25, 3, M) metres."""
    lines = [str(len(x))]
    for frame in x:
        lines.append(str(frame.shape[2]))
        for body in range(frame.shape[2]):
            lines += [f"{72057594037931101 + body} 0 1 1 1 1 0 0.01 -0.23 2", "25"]
            lines += [f"{a:.7g} {b:.7g} {c:.7g} 250.1 190.2 900.3 500.4 0.1 0.2 0.3 0.4 2" for a, b, c in frame[..., body]]
    return "\n".join(lines) + "\n"


def walk(frames: int, joints: int, bodies: int, seed: int) -> np.ndarray:
    """(F, V, 3, M) float32 random walk, two metres from the camera."""
    rng = np.random.default_rng(seed)
    pose = rng.normal(0, 0.3, (1, joints, 3, bodies)) + np.array([0, 0, 2.0])[:, None]
    return (pose + rng.normal(0, 0.01, (frames, joints, 3, bodies)).cumsum(0)).astype(np.float32).round(6)


def write_ntu(folder, count: int = 6, frames: int = 12):
    """`count` files of two actions, subjects 1 (training) and 3, cameras 1 to 3."""
    folder.mkdir(parents=True)
    out = []
    for i in range(count):
        name = f"S001C{i % 3 + 1:03d}P{(1, 3)[i % 2]:03d}R{i + 1:03d}A{(1, 51)[i // 2 % 2]:03d}"
        out.append(folder / f"{name}.skeleton")
        out[-1].write_text(skeleton_text(walk(frames + i, 25, 1 + i % 2, i)))
    return out


def write_pku(folder, videos: int = 4):
    """skeleton/, label/ and cross-subject.txt as PKU-MMD has them."""
    (folder / "skeleton").mkdir(parents=True)
    (folder / "label").mkdir()
    names = [f"{i + 2:04d}-{'LMR'[i % 3]}" for i in range(videos)]
    for i, name in enumerate(names):
        x = walk(90, 25, 2, i)
        x[:, :, :, 1] *= i % 2
        rows = x.transpose(0, 3, 1, 2).reshape(90, 150)
        text = "\n".join(" ".join(f"{v:.6f}" for v in row) for row in rows)
        (folder / "skeleton" / f"{name}.txt").write_text(text + "\n")
        (folder / "label" / f"{name}.txt").write_text(f"{i % 3 + 1},5,35,2\n42,80,50,1\n")
    half = videos // 2
    lists = [", ".join(part) for part in (names[:half], names[half:])]
    split = folder / "cross-subject.txt"
    split.write_text(f"Training videos:\n{lists[0]}, \nValidataion videos:\n{lists[1]}\n")
    return folder / "skeleton", folder / "label", split


def write_ucla(folder, count: int = 6):
    folder.mkdir(parents=True)
    for i in range(count):
        name = f"a{(1, 12)[i % 2]:02d}_s{i % 3 + 1:02d}_e00_v{i % 3 + 1:02d}"
        x = walk(10 + i, 20, 1, i)[..., 0].astype(float)
        content = {"file_name": name, "skeletons": x.tolist(), "label": (1, 10)[i % 2]}
        (folder / f"{name}.json").write_text(json.dumps(content))
    return sorted(folder.glob("*.json"))


def write_pyskl(file, count: int = 6, dims: int = 3):
    """An annotation pickle with float16 keypoints (M, T, V, C), as pyskl distributes."""
    names = [f"S001C{i % 3 + 1:03d}P{(1, 3)[i % 2]:03d}R{i + 1:03d}A{i % 2 + 1:03d}" for i in range(count)]
    annotations = []
    for i, name in enumerate(names):
        x = walk(12 + i, 25, 1 + i % 2, i).transpose(3, 0, 1, 2)[..., :dims].astype(np.float16)
        annotations.append({"frame_dir": name, "label": i % 2, "total_frames": x.shape[1], "keypoint": x})
    split = {"xsub_train": names[::2], "xsub_val": names[1::2]}
    file.write_bytes(pickle.dumps({"split": split, "annotations": annotations}))
    return file
