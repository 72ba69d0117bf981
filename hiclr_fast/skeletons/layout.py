"""A skeleton as data: joints, bones, mirror pairs, body parts. Checked where it is made, whatever it came from."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from typing import Any

from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import is_text

Parts = tuple[tuple[str, tuple[int, ...]], ...]
MOST_JOINTS = 1000  # graphs and checks grow with the square of it


@dataclass(frozen=True)
class Layout:
    """A skeleton: V joints, 0-based. InputError when it is not a tree or its pairs and parts do not fit it.

    parents: parent of each joint, the root is its own parent (bones point from the parent).
    center: joint that coordinates are relative to, also the centre of the spatial partition.
    shoulders: (right, left) joints that span the line which preprocessing turns onto the x axis; twice the same joint: none.
    left, right: mirror pairs, entry k of one is the mirror of entry k of the other.
    parts: (name, joints) of the torso and the limbs, every joint in one of them; none given: derived from the tree.
    """

    name: str
    joint_names: tuple[str, ...]
    parents: tuple[int, ...]
    center: int
    shoulders: tuple[int, int]
    left: tuple[int, ...]
    right: tuple[int, ...]
    parts: Parts = ()

    def __post_init__(self):
        check(self)
        for name in ("joint_names", "parents", "shoulders", "left", "right"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        parts = tuple((str(name), tuple(joints)) for name, joints in self.parts)
        object.__setattr__(self, "parts", parts or derived_parts(self))

    @property
    def num_joints(self) -> int:
        return len(self.parents)

    @property
    def bones(self) -> tuple[tuple[int, int], ...]:
        """Undirected graph edges (child, parent), without self links."""
        return tuple((v, p) for v, p in enumerate(self.parents) if v != p)

    @property
    def mirror(self) -> tuple[int, ...]:
        """index (V,) such that `x[..., mirror, :]` swaps left and right joints (coordinates are not mirrored)."""
        index = list(range(self.num_joints))
        for l, r in zip(self.left, self.right, strict=True):
            index[l], index[r] = r, l
        return tuple(index)

    @property
    def has_shoulders(self) -> bool:
        return self.shoulders[0] != self.shoulders[1]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON holds them; `from_dict` gives the layout back."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, values: Any, where: str, name: str | None = None) -> "Layout":
        """What `as_dict` gave, or what a person wrote: only `parents` has to be there, and joints may be named instead of
        numbered. name: of a layout that has none. InputError, naming `where`, on anything that is no skeleton."""
        known = [field.name for field in fields(cls)]
        if not isinstance(values, Mapping) or not isinstance(values.get("parents"), Sequence):
            raise InputError(f"{where}: no layout; expected an object with `parents`, a list with one joint for each joint")
        names = values.get("joint_names") or ()
        if not isinstance(names, Sequence) or max(len(values["parents"]), len(names)) > MOST_JOINTS:
            raise InputError(f"{where}: {len(values['parents'])} joints, names {str(names)[:40]}; expected at most {MOST_JOINTS}")
        for key in values:
            if key not in known:
                near = get_close_matches(str(key), known, n=1, cutoff=0)[0]
                raise InputError(f"{where}: unknown key {str(key)[:40]!r}; the nearest valid one is {near!r}")
        named = [str(n) for n in values.get("joint_names") or [f"joint{i}" for i in range(len(values["parents"]))]]

        def joint(value: Any) -> Any:
            if isinstance(value, str) and value not in named:
                raise InputError(f"{where}: {value[:40]!r} is none of the joints {', '.join(named)[:200]}")
            return named.index(value) if isinstance(value, str) else value

        try:
            parents = [joint(p) for p in values["parents"]]
            roots = [v for v, p in enumerate(parents) if v == p]
            center = joint(values.get("center", roots[0] if roots else 0))
            pairs = {side: [joint(j) for j in values.get(side, ())] for side in ("left", "right")}
            parts = values.get("parts", ())
            parts = parts.items() if isinstance(parts, Mapping) else parts
            parts = tuple((part, tuple(joint(j) for j in joints)) for part, joints in parts)
            shoulders = [joint(j) for j in values.get("shoulders") or (center, center)]
            called = str(values.get("name") or name or derived_name(parents, center, pairs))
            return cls(called, tuple(named), tuple(parents), center, tuple(shoulders), **pairs, parts=parts)
        except (TypeError, ValueError) as error:
            raise InputError(f"{where}: {error}" if isinstance(error, InputError) else f"{where}: no layout ({error})") from None


def derived_name(parents: Sequence[int], center: int, pairs: Mapping[str, Sequence[int]]) -> str:
    """A name for a skeleton that has none: equal skeletons get equal names."""
    digest = hashlib.sha256(json.dumps([list(parents), center, sorted(pairs.items())]).encode()).hexdigest()
    return f"skeleton{len(parents)}_{digest[:6]}"


def depths(parents: Sequence[int]) -> list[int]:
    """Bones between each joint and the root; InputError where the parents do not form one tree."""
    roots = [v for v, p in enumerate(parents) if v == p]
    if len(roots) != 1:
        which = f"joints {', '.join(map(str, roots))} are" if roots else "no joint is"
        raise InputError(f"{which} their own parent; expected exactly one root, so that all bones form one tree")
    found = []
    for v in range(len(parents)):
        depth, joint = 0, v
        while joint != roots[0]:
            depth, joint = depth + 1, parents[joint]
            if depth > len(parents):
                raise InputError(f"the parents of joint {v} run in a circle; expected a tree that leads to the root")
        found.append(depth)
    return found


def check(layout: Layout) -> None:
    """InputError on whatever is no skeleton; see `Layout`."""
    where, v = f"layout {str(layout.name)[:80]!r}", len(layout.parents)
    if not layout.name or not 2 <= v <= MOST_JOINTS or len(layout.joint_names) != v:
        have = f"{len(layout.joint_names)} joint names, {v} parents"
        raise InputError(f"{where}: {have}; expected a name, and as many of each, 2 to {MOST_JOINTS}")
    wrong = [n for n in (layout.name, *layout.joint_names, *(name for name, _ in layout.parts)) if not is_text(str(n))]
    if wrong:
        raise InputError(f"{where}: {str(wrong[0])[:80]!r} holds halves of characters; choose another name")
    twice = [n for i, n in enumerate(layout.joint_names) if n in layout.joint_names[:i]]
    if twice:
        raise InputError(f"{where}: two joints are called {twice[0]!r}; joint names have to differ")
    lists = {"parents": layout.parents, "center": (layout.center,), "shoulders": layout.shoulders}
    lists |= {"left": layout.left, "right": layout.right, **{f"part {name}": joints for name, joints in layout.parts}}
    for what, joints in lists.items():
        for j in joints:
            if isinstance(j, bool) or not isinstance(j, int) or not 0 <= j < v:
                raise InputError(f"{where}: {what} names the joint {str(j)[:40]}, expected whole numbers from 0 to {v - 1}")
    if len(layout.shoulders) != 2:
        raise InputError(f"{where}: {len(layout.shoulders)} shoulders; expected two joints, right and left")
    try:
        depth = depths(layout.parents)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if len(layout.left) != len(layout.right):
        raise InputError(f"{where}: {len(layout.left)} left and {len(layout.right)} right joints; each needs its mirror partner")
    paired = [*layout.left, *layout.right]
    if len(set(paired)) < len(paired):
        again = layout.joint_names[next(j for i, j in enumerate(paired) if j in paired[:i])]
        raise InputError(f"{where}: {again} is in the mirror lists twice; a joint is left or right, once")
    for l, r in zip(layout.left, layout.right, strict=True):
        if depth[l] != depth[r]:
            a, b = (f"{layout.joint_names[j]} ({depth[j]} bones from the root)" for j in (l, r))
            raise InputError(f"{where}: {a} is no mirror image of {b}; give both sides the same bones")
    _check_parts(layout, where)


def _check_parts(layout: Layout, where: str) -> None:
    names = [name for name, _ in layout.parts]
    joints = sorted(j for _, members in layout.parts for j in members)
    if layout.parts and (len(set(names)) < len(names) or joints != list(range(len(layout.parents)))):
        called = ", ".join(map(str, names))[:200]
        raise InputError(f"{where}: the parts {called} are not a division of the joints; expected every joint in one part")


def derived_parts(layout: Layout) -> Parts:
    """The torso and the limbs that hang off it, each called after its first joint.

    Torso: the joints without a mirror partner; without mirror pairs, the joints between two branchings. Limbs: what hangs
    together among the left, the right, or the remaining joints.
    """
    neighbours = {v: {w for bone in layout.bones if v in bone for w in bone if w != v} for v in range(layout.num_joints)}
    if layout.left:
        groups = [set(layout.left), set(layout.right)]
    else:
        tree, loose = dict(neighbours), True
        branching = {v for v, near in neighbours.items() if len(near) > 2} or {layout.center}
        while loose:  # ends fall off until only branchings are ends
            loose = {v for v, near in tree.items() if len(near & set(tree)) < 2 and v not in branching}
            tree = {v: near for v, near in tree.items() if v not in loose}
        groups = [set(range(layout.num_joints)) - set(tree)]
    torso = tuple(v for v in range(layout.num_joints) if not any(v in group for group in groups))
    depth, found = depths(layout.parents), [("torso", torso)] * bool(torso)
    for group in groups:
        while group:
            limb, new = set(), {min(group)}
            while new:
                limb |= new
                new = {w for v in new for w in neighbours[v] & group} - limb
            group -= limb
            found.append((layout.joint_names[min(limb, key=lambda v: (depth[v], v))], tuple(sorted(limb))))
    return tuple(found)


def difference(a: Layout, b: Layout) -> str:
    """What makes two layouts different skeletons, in a few words; empty where parents, centre and mirror pairs are the same,
    whatever they and their joints are called."""
    if a.num_joints != b.num_joints:
        return f"{a.num_joints} joints against {b.num_joints}"
    for what in ("parents", "mirror"):
        for v, (p, q) in enumerate(zip(getattr(a, what), getattr(b, what), strict=True)):
            if p != q:
                word = {"parents": "the parent", "mirror": "the mirror partner"}[what]
                return f"{word} of joint {v} ({a.joint_names[v]}) is {p} against {q}"
    return "" if a.center == b.center else f"the centre is joint {a.center} against {b.center}"


def same_skeleton(a: Layout, b: Layout) -> bool:
    return not difference(a, b)
