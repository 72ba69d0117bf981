"""Parametric 25-joint actors: a dataset that needs no download, for tests, the first run and smoke checks.

An action is a set of joint rotations that swing in time. What must not matter varies: limb lengths per subject, speed,
start phase, amplitude, idle posture and sway of every limb, sequence length, camera yaw and pitch, sensor noise. The
variations are wide, so that nearest neighbours in raw coordinates do poorly. Not a benchmark of anything real.
"""

import itertools
from pathlib import Path

import numpy as np
from tqdm import tqdm

from hiclr_fast.data.formats.sequences import pack_sequences
from hiclr_fast.data.preprocess import Preprocess
from hiclr_fast.skeletons import LAYOUTS

NTU = LAYOUTS["ntu25"]
_INDEX = {name: i for i, name in enumerate(NTU.joint_names)}

# Rest pose in metres relative to the parent, x to the person's right, y up, z away from the camera.
_REST = {
    "SpineShoulder": (0, 0, 0), "SpineMid": (0, -0.28, 0), "SpineBase": (0, -0.24, 0), "Neck": (0, 0.08, 0),
    "Head": (0, 0.15, -0.02), "Shoulder": (0.17, -0.03, 0), "Elbow": (0.05, -0.27, 0), "Wrist": (0.02, -0.24, -0.02),
    "Hand": (0.01, -0.08, 0), "HandTip": (0, -0.07, 0), "Thumb": (-0.03, -0.04, -0.03), "Hip": (0.09, -0.06, 0),
    "Knee": (0.02, -0.40, 0), "Ankle": (0, -0.38, 0.02), "Foot": (0.01, -0.06, -0.12),
}  # fmt: skip

# action: (joint, axis, offset, amplitude, cycles, phase): radians, cycles a sequence at speed 1, phase in turns.
# A joint's rotation moves everything beyond it.
ACTIONS: dict[str, tuple[tuple[str, str, float, float, float, float], ...]] = {
    "wave right": (("ShoulderRight", "z", 2.4, 0.2, 2, 0), ("ElbowRight", "z", 0.3, 0.7, 4, 0)),
    "wave left": (("ShoulderLeft", "z", -2.4, 0.2, 2, 0), ("ElbowLeft", "z", -0.3, 0.7, 4, 0)),
    "raise arms": (("ShoulderRight", "z", 1.2, 1.1, 1, 0), ("ShoulderLeft", "z", -1.2, -1.1, 1, 0)),
    "punch right": (("ShoulderRight", "x", 0.8, 0.7, 3, 0), ("ElbowRight", "x", 0.9, -0.9, 3, 0)),
    "clap": (("ShoulderRight", "x", 1.3, 0.1, 3, 0), ("ShoulderLeft", "x", 1.3, 0.1, 3, 0),
             ("ShoulderRight", "y", -0.3, 0.5, 3, 0), ("ShoulderLeft", "y", 0.3, -0.5, 3, 0)),
    "kick right": (("HipRight", "x", 0.5, 0.7, 2, 0), ("KneeRight", "x", -0.5, 0.5, 2, 0.25)),
    "kick left": (("HipLeft", "x", 0.5, 0.7, 2, 0), ("KneeLeft", "x", -0.5, 0.5, 2, 0.25)),
    "squat": (("HipRight", "x", 0.6, 0.6, 2, 0), ("HipLeft", "x", 0.6, 0.6, 2, 0),
              ("KneeRight", "x", -1.0, -1.0, 2, 0), ("KneeLeft", "x", -1.0, -1.0, 2, 0)),
    "march": (("HipRight", "x", 0.4, 0.5, 3, 0), ("HipLeft", "x", 0.4, 0.5, 3, 0.5),
              ("KneeRight", "x", -0.5, -0.5, 3, 0), ("KneeLeft", "x", -0.5, -0.5, 3, 0.5),
              ("ShoulderRight", "x", 0, 0.4, 3, 0.5), ("ShoulderLeft", "x", 0, 0.4, 3, 0)),
    "bow": (("SpineMid", "x", -0.6, -0.6, 1, 0),),
    "drink": (("ShoulderRight", "x", 0.5, 0.2, 1, 0), ("ElbowRight", "x", 1.3, 0.8, 1, 0)),
    "rub hands": (("ShoulderRight", "x", 0.4, 0.05, 6, 0), ("ShoulderLeft", "x", 0.4, 0.05, 6, 0.5),
                  ("ElbowRight", "x", 1.2, 0.3, 6, 0), ("ElbowLeft", "x", 1.2, 0.3, 6, 0.5)),
}  # fmt: skip
IDLE = ("ShoulderRight", "ShoulderLeft", "ElbowRight", "ElbowLeft", "HipRight", "HipLeft", "KneeRight", "KneeLeft", "Neck")
# Two-person actions: what each of the two does, one metre apart and face to face.
PAIRS = {
    "shake hands": ("drink", "drink"),
    "fight": ("punch right", "kick right"),
}


def _offsets(scale: np.ndarray) -> np.ndarray:
    """(25, 3) rest offsets from the parent; scale: (25,) limb lengths relative to the average."""
    offsets = np.zeros((NTU.num_joints, 3))
    for name, i in _INDEX.items():
        side = -1 if name.endswith("Left") else 1
        kind = name.removesuffix("Left").removesuffix("Right")
        offsets[i] = np.array(_REST[kind if kind in _REST else name]) * (side, 1, 1) * scale[i]
    return offsets


def _rotation(axis: str, angle: np.ndarray) -> np.ndarray:
    """(F, 3, 3) rotations about x, y or z. angle: (F,)."""
    i = "xyz".index(axis)
    a, b = (i + 1) % 3, (i + 2) % 3
    r = np.zeros((len(angle), 3, 3))
    r[:, i, i] = 1
    r[:, a, a] = r[:, b, b] = np.cos(angle)
    r[:, b, a], r[:, a, b] = np.sin(angle), -np.sin(angle)
    return r


def _tree_order() -> list[int]:
    order = [i for i, p in enumerate(NTU.parents) if p == i]
    for joint in order:
        order += [c for c, p in enumerate(NTU.parents) if p == joint and c != joint]
    return order


def perform(action: str, offsets: np.ndarray, frames: int, rng: np.random.Generator) -> np.ndarray:
    """(frames, 25, 3) of one actor doing the action once, with its own speed, start phase and amplitude."""
    speed, start, size = rng.uniform(0.7, 1.4), rng.uniform(), rng.uniform(0.75, 1.25)
    t = np.arange(frames) / frames
    local = np.tile(np.eye(3), (NTU.num_joints, frames, 1, 1))
    for joint in IDLE:
        for axis in "xyz":
            sway = np.sin(2 * np.pi * (t * rng.uniform(0.3, 1.5) + rng.uniform()))
            angle = rng.normal(0, 0.35) + rng.normal(0, 0.15) * sway
            local[_INDEX[joint]] = local[_INDEX[joint]] @ _rotation(axis, angle)
    for joint, axis, offset, amplitude, cycles, phase in ACTIONS[action]:
        angle = offset + rng.normal(0, 0.25) + size * amplitude * np.sin(2 * np.pi * (cycles * speed * t + phase + start))
        local[_INDEX[joint]] = local[_INDEX[joint]] @ _rotation(axis, angle)
    position, turned = np.zeros((NTU.num_joints, frames, 3)), local.copy()
    for joint in _tree_order()[1:]:
        parent = NTU.parents[joint]
        position[joint] = position[parent] + np.einsum("fij,j->fi", turned[parent], offsets[joint])
        turned[joint] = turned[parent] @ local[joint]
    return position.transpose(1, 0, 2)


def synthetic_sequences(*, subjects: int, repeats: int, views: int, two_person: bool, seed: int) -> dict[str, np.ndarray]:
    """Arrays of the sequences format: every class x subject x view x repeat, 30 to 119 frames, 5 mm sensor noise."""
    rng = np.random.default_rng(seed)
    classes = [*ACTIONS, *(PAIRS if two_person else ())]
    scales = np.exp(rng.normal(0, 0.1, (subjects, 1)) + rng.normal(0, 0.05, (subjects, NTU.num_joints)))
    bodies = 2 if two_person else 1
    rows = list(itertools.product(range(subjects), range(len(classes)), range(views), range(repeats)))
    frames = []
    for s, c, v, _ in tqdm(rows, desc="synthetic actors", unit="seq"):
        length = int(rng.integers(30, 120))
        x = np.zeros((length, NTU.num_joints, 3, bodies))
        acts = PAIRS.get(classes[c], (classes[c],))
        for body, action in enumerate(acts):
            partner = (s + body) % subjects
            x[..., body] = perform(action, _offsets(scales[partner]), length, rng)
            if body:  # face to face, one metre away
                x[..., body] = x[..., body] * (-1, 1, -1) + (0, 0, -1)
        yaw = 2 * np.pi * v / (2 * views) - np.pi / 4 + rng.normal(0, 0.25)
        camera = _rotation("y", np.array([yaw]))[0] @ _rotation("x", np.array([rng.normal(0, 0.1)]))[0]
        there = np.einsum("ij,fvjm->fvim", camera, x[..., : len(acts)])
        x[..., : len(acts)] = there + np.array([[0], [0], [3]]) + rng.normal(0, 0.005, there.shape)
        frames.append(x.astype(np.float32))
    s, c, v, _ = np.array(rows).T
    return {
        "frames": np.concatenate(frames),
        "offsets": np.cumsum([0, *map(len, frames)]),
        "label": c,
        "subject": s + 1,
        "view": v + 1,
        "name": np.array([f"C{b + 1:03d}P{a + 1:03d}R{d + 1:03d}A{e + 1:03d}" for a, e, b, d in rows]),
        "class_names": np.array(classes),
        "layout": np.array("ntu25"),
    }


def pack_synthetic(
    out: Path,
    how: Preprocess,
    *,
    subjects: int = 12,
    repeats: int = 3,
    views: int = 2,
    two_person: bool = False,
    seed: int = 0,
) -> None:
    """Every third subject is validation, the rest train."""
    arrays = synthetic_sequences(subjects=subjects, repeats=repeats, views=views, two_person=two_person, seed=seed)
    source = f"synthetic(subjects={subjects}, repeats={repeats}, views={views}, two_person={two_person}, seed={seed})"
    pack_sequences(arrays, out, how, train=lambda a: a["subject"] % 3 != 0, source=source)
