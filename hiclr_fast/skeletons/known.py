"""The layouts that are built in, and any other from a JSON file.

To add one, add one `Layout(...)` to `LAYOUTS`: names, parents, centre and mirror pairs say everything else.
"""

from pathlib import Path

from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import read_whole
from hiclr_fast.files.json_files import parse_json
from hiclr_fast.skeletons.layout import Layout, difference

LARGEST = 1 << 20  # bytes of a layout file

_KINECT20 = (
    "HipCenter Spine ShoulderCenter Head ShoulderLeft ElbowLeft WristLeft HandLeft ShoulderRight ElbowRight WristRight "
    "HandRight HipLeft KneeLeft AnkleLeft FootLeft HipRight KneeRight AnkleRight FootRight"
)
_NTU25 = (
    "SpineBase SpineMid Neck Head ShoulderLeft ElbowLeft WristLeft HandLeft ShoulderRight ElbowRight WristRight "
    "HandRight HipLeft KneeLeft AnkleLeft FootLeft HipRight KneeRight AnkleRight FootRight SpineShoulder HandTipLeft "
    "ThumbLeft HandTipRight ThumbRight"
)
_COCO17 = (
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist "
    "left_hip right_hip left_knee right_knee left_ankle right_ankle"
)
_OPENPOSE18 = (
    "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist right_hip right_knee right_ankle "
    "left_hip left_knee left_ankle right_eye left_eye right_ear left_ear"
)
_OPENPOSE25 = (
    "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist mid_hip right_hip right_knee "
    "right_ankle left_hip left_knee left_ankle right_eye left_eye right_ear left_ear left_big_toe left_small_toe left_heel "
    "right_big_toe right_small_toe right_heel"
)
_MEDIAPIPE33 = (
    "nose left_eye_inner left_eye left_eye_outer right_eye_inner right_eye right_eye_outer left_ear right_ear mouth_left "
    "mouth_right left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist left_pinky right_pinky left_index "
    "right_index left_thumb right_thumb left_hip right_hip left_knee right_knee left_ankle right_ankle left_heel right_heel "
    "left_foot_index right_foot_index"
)
_H36M17 = (
    "pelvis right_hip right_knee right_ankle left_hip left_knee left_ankle spine thorax neck head left_shoulder left_elbow "
    "left_wrist right_shoulder right_elbow right_wrist"
)

LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            name="ntu25",
            joint_names=tuple(_NTU25.split()),
            parents=(1, 20, 20, 2, 20, 4, 5, 6, 20, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18, 20, 22, 7, 24, 11),
            center=20,
            shoulders=(8, 4),
            left=(4, 5, 6, 7, 12, 13, 14, 15, 21, 22),
            right=(8, 9, 10, 11, 16, 17, 18, 19, 23, 24),
            parts=(
                ("torso", (0, 1, 2, 3, 20)),
                ("left arm", (4, 5, 6, 7, 21, 22)),
                ("right arm", (8, 9, 10, 11, 23, 24)),
                ("left leg", (12, 13, 14, 15)),
                ("right leg", (16, 17, 18, 19)),
            ),
        ),
        Layout(
            name="kinect20",
            joint_names=tuple(_KINECT20.split()),
            parents=(1, 2, 2, 2, 2, 4, 5, 6, 2, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18),
            center=2,
            shoulders=(8, 4),
            left=(4, 5, 6, 7, 12, 13, 14, 15),
            right=(8, 9, 10, 11, 16, 17, 18, 19),
            parts=(
                ("torso", (0, 1, 2, 3)),
                ("left arm", (4, 5, 6, 7)),
                ("right arm", (8, 9, 10, 11)),
                ("left leg", (12, 13, 14, 15)),
                ("right leg", (16, 17, 18, 19)),
            ),
        ),
        Layout(  # keypoints of COCO; bones of pyskl's graph, rooted at the nose
            name="coco17",
            joint_names=tuple(_COCO17.split()),
            parents=(0, 0, 0, 1, 2, 0, 0, 5, 6, 7, 8, 5, 6, 11, 12, 13, 14),
            center=0,
            shoulders=(6, 5),
            left=(1, 3, 5, 7, 9, 11, 13, 15),
            right=(2, 4, 6, 8, 10, 12, 14, 16),
            parts=(
                ("head", (0, 1, 2, 3, 4)),
                ("left arm", (5, 7, 9)),
                ("right arm", (6, 8, 10)),
                ("left leg", (11, 13, 15)),
                ("right leg", (12, 14, 16)),
            ),
        ),
        Layout(  # OpenPose's COCO model; bones of ST-GCN's graph, in which the hips hang off the shoulders
            name="openpose18",
            joint_names=tuple(_OPENPOSE18.split()),
            parents=(1, 1, 1, 2, 3, 1, 5, 6, 2, 8, 9, 5, 11, 12, 0, 0, 14, 15),
            center=1,
            shoulders=(2, 5),
            left=(5, 6, 7, 11, 12, 13, 15, 17),
            right=(2, 3, 4, 8, 9, 10, 14, 16),
            parts=(
                ("torso", (0, 1, 14, 15, 16, 17)),
                ("left arm", (5, 6, 7)),
                ("right arm", (2, 3, 4)),
                ("left leg", (11, 12, 13)),
                ("right leg", (8, 9, 10)),
            ),
        ),
        Layout(  # OpenPose's BODY_25 and its pairs
            name="openpose25",
            joint_names=tuple(_OPENPOSE25.split()),
            parents=(1, 1, 1, 2, 3, 1, 5, 6, 1, 8, 9, 10, 8, 12, 13, 0, 0, 15, 16, 14, 19, 14, 11, 22, 11),
            center=1,
            shoulders=(2, 5),
            left=(5, 6, 7, 12, 13, 14, 16, 18, 19, 20, 21),
            right=(2, 3, 4, 9, 10, 11, 15, 17, 22, 23, 24),
            parts=(
                ("torso", (0, 1, 8, 15, 16, 17, 18)),
                ("left arm", (5, 6, 7)),
                ("right arm", (2, 3, 4)),
                ("left leg", (12, 13, 14, 19, 20, 21)),
                ("right leg", (9, 10, 11, 22, 23, 24)),
            ),
        ),
        Layout(  # MediaPipe Pose; its connections have circles and leave the head alone: a tree of them, rooted at the nose
            name="mediapipe33",
            joint_names=tuple(_MEDIAPIPE33.split()),
            parents=(
                *(0, 0, 1, 2, 0, 4, 5, 3, 6, 0, 0, 0, 0, 11, 12, 13, 14, 15, 16, 15, 16, 15, 16),
                *(11, 12, 23, 24, 25, 26, 27, 28, 27, 28),
            ),
            center=0,
            shoulders=(12, 11),
            left=(1, 2, 3, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31),
            right=(4, 5, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32),
            parts=(
                ("head", tuple(range(11))),
                ("left arm", (11, 13, 15, 17, 19, 21)),
                ("right arm", (12, 14, 16, 18, 20, 22)),
                ("left leg", (23, 25, 27, 29, 31)),
                ("right leg", (24, 26, 28, 30, 32)),
            ),
        ),
        Layout(  # the 17 joints of Human3.6M that pose lifting uses
            name="h36m17",
            joint_names=tuple(_H36M17.split()),
            parents=(0, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15),
            center=0,
            shoulders=(14, 11),
            left=(4, 5, 6, 11, 12, 13),
            right=(1, 2, 3, 14, 15, 16),
            parts=(
                ("torso", (0, 7, 8, 9, 10)),
                ("left arm", (11, 12, 13)),
                ("right arm", (14, 15, 16)),
                ("left leg", (4, 5, 6)),
                ("right leg", (1, 2, 3)),
            ),
        ),
    )
}


def get_layout(name: str | Path) -> Layout:
    """The built-in layout of that name, or the one in that .json file; `InputError` lists the built-in ones."""
    if str(name) in LAYOUTS:
        return LAYOUTS[str(name)]
    if Path(name).suffix == ".json":
        return read_layout(Path(name))
    raise InputError(f"unknown joint layout {str(name)!r}: expected one of {', '.join(LAYOUTS)}, or a .json file of your own")


def read_layout(path: Path) -> Layout:
    """A layout from a JSON file: an object with the fields of `Layout`, see `Layout.from_dict`; its name is the file's unless
    it has one."""
    values = parse_json(read_whole(path, LARGEST), str(path))
    return own_name(Layout.from_dict(values, str(path), Path(path).stem), str(path))


def unlike(name: str, layout: Layout) -> str:
    """Why the layout is not the one called so, in words to go behind its name; empty where it is. Of a name that is not built in
    and no .json file only the name is known."""
    if name in LAYOUTS or Path(name).suffix == ".json":
        how = difference(get_layout(name), layout)
        return f" ({how})" if how else ""
    return "" if name == layout.name else " (another name)"


def own_name(layout: Layout, where: str) -> Layout:
    """The layout; InputError when it is called like a built-in one and is another skeleton."""
    builtin = LAYOUTS.get(layout.name)
    if builtin and (how := difference(layout, builtin)):
        raise InputError(f"{where}: {layout.name} is a built-in layout with another skeleton ({how}); choose another name")
    return layout
