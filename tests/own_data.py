"""Data of one's own, made from skeletons in space: poses in images as a detector gives them, clips with a table, a small run."""

import csv
import pickle
from pathlib import Path

import numpy as np
from helpers import tiny

from hiclr_fast.data.packed.dataset import Packed, open_packed
from hiclr_fast.pretraining.loop import train
from hiclr_fast.pretraining.start import finish, start
from hiclr_fast.skeletons import LAYOUTS

WIDTH, HEIGHT, FOCAL = 1920, 1080, 1000.0  # pixels
COCO, NTU = LAYOUTS["coco17"], LAYOUTS["ntu25"]
# which joint of Kinect v2 stands for a keypoint: of the face it is the head; left_wrist: WristLeft
FROM_NTU = ["Head"] * 5 + [f"{joint}{side}".title() for side, joint in (n.split("_") for n in COCO.joint_names[5:])]
FROM_NTU = [next(v for v, name in enumerate(NTU.joint_names) if name.lower() == wanted.lower()) for wanted in FROM_NTU]
FACE = np.array([(0, 0), (-0.03, 0.03), (0.03, 0.03), (-0.07, 0), (0.07, 0)])  # metres from the head, x and y


def coco_in_space(frames: np.ndarray) -> np.ndarray:
    """(F, 17, 3) metres of (F, 25, 3)."""
    x = frames[:, FROM_NTU].astype(np.float64)
    x[:, :5, :2] += FACE
    return x


def photographed(x: np.ndarray, yaw: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(keypoints (F, 17, 2) float16 pixels, y down; scores (F, 17) float16) of (F, 17, 3) metres, by a camera that stands `yaw`
    radians beside the first one and looks at the body. One joint in 20 is lost (low score, anywhere), a few frames are empty."""
    middle = x.mean(axis=(0, 1))
    c, s = np.cos(yaw), np.sin(yaw)
    away = x - middle
    x = away @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T + middle
    depth = np.maximum(x[..., 2], 0.5)
    points = np.stack([WIDTH / 2 + FOCAL * x[..., 0] / depth, HEIGHT / 2 - FOCAL * x[..., 1] / depth], axis=-1)
    points += rng.normal(0, 2.0, points.shape)
    score = rng.uniform(0.6, 1.0, points.shape[:2])
    lost = rng.random(score.shape) < 0.05
    points[lost] = rng.uniform(0, HEIGHT, (lost.sum(), 2))
    score[lost] = rng.uniform(0, 0.2, lost.sum())
    empty = rng.choice(np.arange(1, len(x) - 1), max(1, len(x) // 30), replace=False) if len(x) > 4 else []
    points[empty], score[empty] = 0, 0
    return points.astype(np.float16), score.astype(np.float16)


def write_coco(file: Path, arrays: dict[str, np.ndarray], every: int = 1, views=(-0.4, 0.4)) -> Path:
    """A pickle as pyskl distributes poses by HRNet: `every` k-th sequence of NTU joints seen by cameras at these yaws."""
    annotations, split, rng = [], {"xsub_train": [], "xsub_val": []}, np.random.default_rng(0)
    for i in range(0, len(arrays["label"]), every):
        frames = arrays["frames"][arrays["offsets"][i] : arrays["offsets"][i + 1]]
        x, subject = coco_in_space(frames if frames.ndim == 3 else frames[..., 0]), int(arrays["subject"][i])
        for camera, yaw in enumerate(views, 1):
            points, score = photographed(x, yaw, rng)
            name = f"S001C{camera:03d}P{subject:03d}R{i + 1:03d}A{int(arrays['label'][i]) + 1:03d}"
            one = {"frame_dir": name, "label": int(arrays["label"][i]), "total_frames": len(points)}
            one |= {"img_shape": (HEIGHT, WIDTH), "original_shape": (HEIGHT, WIDTH)}
            annotations.append(one | {"keypoint": points[None], "keypoint_score": score[None]})
            split["xsub_val" if subject % 3 == 0 else "xsub_train"].append(name)
    file.write_bytes(pickle.dumps({"split": split, "annotations": annotations}))
    return file


def write_clips(folder: Path, arrays: dict[str, np.ndarray], every: int = 1, factor: float = 1.0) -> tuple[Path, Path]:
    """(folder of .npy clips, CSV of their labels and subjects): `every` k-th sequence, coordinates times `factor`."""
    (folder / "clips").mkdir(parents=True)
    with open(folder / "labels.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["name", "label", "subject"])
        for i in range(0, len(arrays["label"]), every):
            frames = arrays["frames"][arrays["offsets"][i] : arrays["offsets"][i + 1]] * factor
            np.save(folder / "clips" / f"clip{i:04d}.npy", frames.astype(np.float32))
            subject = ("ann", "ben", "cem")[int(arrays["subject"][i]) % 3]
            table.writerow([f"clip{i:04d}", f"gesture {arrays['label'][i]}", subject])
    return folder / "clips", folder / "labels.csv"


def pretrain_a_little(data: Path, out: Path, **settings) -> Packed:
    """A finished run of an epoch or two on a packed set, in `out`; the set."""
    packed = open_packed(data)
    trainer = start(tiny(data=data, **settings), packed, out)
    assert train(trainer, out)
    finish(trainer, out)
    return packed
