"""YAML that a person wrote: settings as mappings of plain values.

Limits: a regular file of at most LARGEST bytes, nested at most DEEPEST times, without anchors and aliases (a few lines of them
stand for gigabytes) and without tags; a key stands once. Numbers are those of YAML 1.2 and JSON: `1e-2` is one, `010`
and `1:30` are text, as are dates.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import UNREADABLE, read_whole

LARGEST, DEEPEST, DIGITS = 1 << 16, 20, 18
SAID = 160  # characters of what the parser says
_NUMBERS = (
    ("tag:yaml.org,2002:int", rf"[-+]?(0|[1-9][0-9]{{0,{DIGITS - 1}}})", "-+0123456789"),
    ("tag:yaml.org,2002:float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("tag:yaml.org,2002:float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
)
_KEPT = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:bool")


class _Loader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise yaml.YAMLError(f"anchors and aliases are not read, line {event.start_mark.line + 1}")
        if getattr(event, "tag", None) is not None:
            raise yaml.YAMLError(f"tags are not read, line {event.start_mark.line + 1}")
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.YAMLError(f"nested more than {DEEPEST} times, line {event.start_mark.line + 1}")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        seen = set()
        for key, (at, _) in zip(keys, node.value, strict=True):
            if not isinstance(key, (str, int, float, type(None))) or key in seen:
                what = f"{str(key)[:40]} stands twice" if isinstance(key, str) else f"{type(key).__name__} is no name, or twice"
                raise yaml.YAMLError(f"the key {what}, line {at.start_mark.line + 1}")
            seen.add(key)
        return dict(zip(keys, (self.construct_object(value, deep=True) for _, value in node.value), strict=True))


class _Dumper(yaml.SafeDumper):
    """Quotes the text that our loader, or one of YAML 1.1, would take for something else."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag in _KEPT]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern, _first in _NUMBERS:
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), list(_first))


def read_yaml(path: Path) -> Any:
    """The plain values in a YAML file; InputError on anything beyond the limits of this module."""
    text = read_whole(Path(path), LARGEST)
    try:
        return yaml.load(text.decode(), _Loader)
    except (yaml.YAMLError, *UNREADABLE) as error:
        raise InputError(f"{path}: not readable YAML ({' '.join(str(error).split())[:SAID]}); correct the file") from None


def dump_yaml(values: dict[str, Any]) -> str:
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)
