"""Reading and feeding skeletons the way the field does: plain Python text reading, a map-style Dataset in a DataLoader."""

from pathlib import Path

import numpy as np
import torch

BODY = (
    *("bodyID", "clipedEdges", "handLeftConfidence", "handLeftState", "handRightConfidence", "handRightState"),
    *("isResticted", "leanX", "leanY", "trackingState"),
)
JOINT = (
    *("x", "y", "z", "depthX", "depthY", "colorX", "colorY"),
    *("orientationW", "orientationX", "orientationY", "orientationZ", "trackingState"),
)


def read_skeleton(path: Path) -> dict:
    """Nested dicts of every field of every joint, one line at a time."""
    with open(path) as file:
        sequence = {"frames": []}
        for _ in range(int(file.readline())):
            frame = {"bodies": []}
            for _ in range(int(file.readline())):
                body = {key: float(value) for key, value in zip(BODY, file.readline().split(), strict=False)}
                body["joints"] = []
                for _ in range(int(file.readline())):
                    joint = {key: float(value) for key, value in zip(JOINT, file.readline().split(), strict=False)}
                    body["joints"].append(joint)
                frame["bodies"].append(body)
            sequence["frames"].append(frame)
    return sequence


def read_xyz(path: Path, bodies: int = 2, joints: int = 25) -> np.ndarray:
    """(3, F, V, M) metres."""
    sequence = read_skeleton(path)
    data = np.zeros((3, len(sequence["frames"]), joints, bodies))
    for t, frame in enumerate(sequence["frames"]):
        for m, body in enumerate(frame["bodies"]):
            for v, joint in enumerate(body["joints"]):
                if m < bodies and v < joints:
                    data[:, t, v, m] = [joint["x"], joint["y"], joint["z"]]
    return data


class Feeder(torch.utils.data.Dataset):
    """One sample at a time from a memory-mapped .npy."""

    def __init__(self, path: Path, label: np.ndarray):
        self.x, self.label = np.load(path, mmap_mode="r"), label

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int):
        return np.array(self.x[i]), self.label[i], i
