"""A pickle -> plain values. Its opcodes are named and their arguments read by the standard library's `pickletools`, and followed
here: no global is ever imported, no object built, nothing called but the functions that the caller lists.

The standard unpicklers build what the file says and let it choose states, memo places and lengths; of the readers that do not,
none gives back values. Limits: what the values take, and PLACE bytes a step, are at most three times the pickle and SPARE bytes;
text is at most LONGEST bytes, a whole number has at most BITS bits, keys of a dict are text or numbers of 32 bits; values are
nested at most DEEPEST times and, written out without sharing, have no more parts than four times the pickle's bytes and FEW.
"""

import codecs
import pickletools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

LONGEST, BITS, SPARE, DEEPEST, FEW, PROTOCOL = 1 << 24, 128, 56 << 20, 50, 10000, 5
PLACE, ENTRY, VALUE = 9, 48, 160  # bytes of a step or reference, of half an entry of a dict, of a call beside what it makes
Call = Callable[..., Any]
Known = Mapping[tuple[str, str], Call | None]


class Refused(Exception):
    """What the pickle asks for is no plain value; a pickle that is broken raises one of `archives.UNREADABLE`."""


@dataclass(frozen=True)
class Name:
    """A global, inert: its name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Unfinished:
    """What stands for a value until its state comes."""

    def finish(self, state: Any) -> Any:
        """The value itself."""
        raise NotImplementedError


class Unpickling:
    """One pickle of a file from where it stands, which `load` reads up to its end.

    size: bytes of the file from here on. known: the globals that may be named, and what stands for a call of each (None: it may
    be named, not called). persistent: what stands for an object that the file keeps elsewhere.
    """

    def __init__(self, file: BinaryIO, size: int, known: Known, persistent: Call | None = None):
        self.file, self.known, self.persistent = file, known, persistent
        self.size, self.end, self.budget = size, file.tell() + size, 3 * size + SPARE
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each mark
        self.memo: list[Any] = []
        self.waiting: dict[int, list[int]] = {}  # id of an unfinished value -> its places in the memo

    def load(self) -> Any:
        read = self.file.read
        while code := read(1):
            if code not in _STEPS:
                known = pickletools.code2op.get(code.decode("latin1"))
                raise Refused(f"holds the opcode {known.name}" if known else "holds a byte that is no opcode")
            step, argument = _STEPS[code]
            self.spend(PLACE)
            if step is None:
                return self.spread(self.pop())
            step(self) if argument is None else step(self, argument(self.file))
        raise EOFError("no end")

    def spread(self, value: Any) -> Any:
        """`value`, if it stays small when it is written out; a few shared lists may stand for gigabytes, or hold themselves."""
        parts, todo = 4 * self.size + FEW, [(value, 0)]
        while todo:
            holder, depth = todo.pop()
            held = holder.values() if type(holder) is dict else holder if type(holder) in (list, tuple) else ()
            parts -= len(held)
            if parts < 0 or depth > DEEPEST:
                raise Refused("holds values that are nested or shared as in no data file")
            todo += [(part, depth + 1) for part in held if type(part) in (list, tuple, dict)]
        return value

    def spend(self, cost: int) -> None:
        self.budget -= cost
        if self.budget < 0:
            raise Refused("makes far more of its bytes than a data file does")

    def push_new(self, value: Any) -> None:
        if type(value) is int and value.bit_length() > BITS:
            raise Refused(f"holds a number of {value.bit_length()} bits")
        made = value.nbytes if isinstance(value, np.ndarray) else sys.getsizeof(value)  # also where it looks at another's bytes
        self.spend(0 if type(value) is int and value < 257 else made)
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            raise ValueError("it takes a value that is not there")
        return self.stack.pop()

    def marked(self) -> list[Any]:
        if not self.below:
            raise ValueError("it goes back to a mark that is not there")
        values, self.stack = self.stack, self.below.pop()
        return values

    def long(self, width: int, make: Call, most: int | None = None) -> None:
        """A length of `width` bytes and so many bytes: the length is a claim."""
        n, left = int.from_bytes(self.file.read(width), "little"), self.end - self.file.tell()
        self.claim(n, left if most is None else min(left, most))
        self.push_new(make(self.file.read(n)))

    def claim(self, n: int, most: int) -> None:
        if n > most:
            raise ValueError(f"it claims {n} where {most} is the most")

    def top(self, kind: type) -> Any:
        if not self.stack or type(self.stack[-1]) is not kind:
            raise Refused(f"puts something into what is no {kind.__name__}")
        return self.stack[-1]

    def mark(self) -> None:
        self.spend(sys.getsizeof([]))
        self.below.append(self.stack)
        self.stack = []

    def extend(self, values: list[Any]) -> None:
        self.spend(PLACE * len(values))
        self.top(list).extend(values)

    def fill(self, values: list[Any]) -> None:
        if len(values) % 2 or not all(type(key) is str or (type(key) is int and key.bit_length() < 32) for key in values[::2]):
            raise Refused("holds a dict with keys that are neither text nor numbers")
        self.spend(ENTRY * len(values))
        self.top(dict).update(zip(values[::2], values[1::2], strict=True))

    def make(self, new: list | dict) -> None:
        values = self.marked()
        self.push_new(new)
        (self.extend if type(new) is list else self.fill)(values)

    def put(self, place: int | None = None) -> None:
        value, place = self.pop(), len(self.memo) if place is None else place
        if not 0 <= place <= 2 * len(self.memo) + 16:  # honest ones count up, from 0 or 1
            raise ValueError("it keeps a value in a place that is far off")
        new = max(0, place + 1 - len(self.memo))
        self.spend(PLACE * new)
        self.memo.extend([_NOTHING] * new)
        self.memo[place] = value
        if isinstance(value, Unfinished):
            self.spend(PLACE)
            self.waiting.setdefault(id(value), []).append(place)
        self.stack.append(value)

    def get(self, place: int) -> None:
        if not 0 <= place < len(self.memo) or self.memo[place] is _NOTHING:
            raise ValueError("it asks for a value that it did not keep")
        self.stack.append(self.memo[place])

    def name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise Refused("names a global by what is no text")
        if (module, name) not in self.known:
            raise Refused(f"names the global {module[:60]}.{name[:60]}")
        self.spend(VALUE)
        self.stack.append(Name(module, name))

    def reduce(self) -> None:
        arguments, what = self.pop(), self.pop()
        call = self.known.get((what.module, what.name)) if isinstance(what, Name) else None
        if call is None or type(arguments) is not tuple:
            raise Refused(f"calls {what if isinstance(what, Name) else 'what is no function'}")
        self.spend(VALUE)
        self.push_new(call(*arguments))

    def build(self) -> None:
        state, what = self.pop(), self.pop()
        if isinstance(what, Unfinished):
            self.spend(VALUE)
            value = what.finish(state)
            for place in self.waiting.pop(id(what), ()):
                if self.memo[place] is what:
                    self.memo[place] = value
            self.push_new(value)
        elif type(what) is dict:  # attributes of an ordered dict, which nobody looks at
            self.stack.append(what)
        else:
            raise Refused("gives a state to what has none")

    def refer(self) -> None:
        if self.persistent is None:
            raise Refused("refers to an object outside of it")
        self.spend(VALUE)
        self.push_new(self.persistent(self.pop()))


def _text(file: BinaryIO) -> str:
    """The argument of STRING: text in quotes, of Python 2 and so in any bytes."""
    return codecs.escape_decode(pickletools.read_stringnl(file, decode=False))[0].decode("latin1")


_NOTHING = object()
_SHORT = "INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT UNICODE SHORT_BINUNICODE SHORT_BINBYTES SHORT_BINSTRING STRING"
_SINGLE = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NAMED: dict[str, Call | None] = {  # opcode -> what it does, with its argument where it has one
    "STOP": None,
    "PROTO": lambda u, number: u.claim(number, PROTOCOL),
    "FRAME": lambda u, n: u.claim(n, u.end - u.file.tell()),
    **{name: lambda u, value=value: u.stack.append(value) for name, value in _SINGLE.items()},
    "LONG4": lambda u: u.long(4, lambda data: int.from_bytes(data, "little", signed=True), most=255),
    "BINBYTES": lambda u: u.long(4, bytes),
    "BINBYTES8": lambda u: u.long(8, bytes),
    "BYTEARRAY8": lambda u: u.long(8, bytes),
    "BINSTRING": lambda u: u.long(4, lambda data: data.decode("latin1"), LONGEST),
    "BINUNICODE": lambda u: u.long(4, lambda data: str(data, "utf-8", "surrogatepass"), LONGEST),
    "BINUNICODE8": lambda u: u.long(8, lambda data: str(data, "utf-8", "surrogatepass"), LONGEST),
    "MARK": Unpickling.mark,
    "POP": lambda u: u.stack.pop() if u.stack else u.marked(),
    "POP_MARK": lambda u: u.marked(),
    "DUP": lambda u: u.stack.append((u.stack or [u.pop()])[-1]),
    "EMPTY_TUPLE": lambda u: u.stack.append(()),
    "EMPTY_LIST": lambda u: u.push_new([]),
    "EMPTY_DICT": lambda u: u.push_new({}),
    "LIST": lambda u: u.make([]),
    "DICT": lambda u: u.make({}),
    "TUPLE": lambda u: u.push_new(tuple(u.marked())),
    **{f"TUPLE{n}": lambda u, n=n: u.push_new(tuple([u.pop() for _ in range(n)][::-1])) for n in (1, 2, 3)},
    "APPEND": lambda u: u.extend([u.pop()]),
    "APPENDS": lambda u: u.extend(u.marked()),
    "SETITEM": lambda u: u.fill([u.pop(), u.pop()][::-1]),
    "SETITEMS": lambda u: u.fill(u.marked()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), Unpickling.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), Unpickling.get),
    "GLOBAL": lambda u, both: u.name(*both.split(" ", 1)),
    "STACK_GLOBAL": lambda u: u.name(*[u.pop(), u.pop()][::-1]),
    "REDUCE": Unpickling.reduce,
    "BUILD": Unpickling.build,
    "BINPERSID": Unpickling.refer,
    **dict.fromkeys(_SHORT.split(), Unpickling.push_new),
}
_OWN = {"STRING": _text, **dict.fromkeys(("LONG4 BINBYTES BINBYTES8 BYTEARRAY8 BINSTRING BINUNICODE BINUNICODE8").split())}
_STEPS: dict[bytes, tuple[Call | None, Call | None]] = {
    opcode.code.encode("latin1"): (_NAMED[opcode.name], _OWN.get(opcode.name, opcode.arg and opcode.arg.reader))
    for opcode in pickletools.opcodes
    if opcode.name in _NAMED
}
