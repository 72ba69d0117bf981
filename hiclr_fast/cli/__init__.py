"""The programs: `hiclr COMMAND ...`, and one thin script each in scripts/."""

import difflib
import sys
from importlib import import_module

from hiclr_fast.errors import InputError, run_script

COMMANDS = {  # in the order of the flow
    "prepare": "makes packed datasets from raw recordings, and checks them",
    "pretrain": "pretrains an encoder without labels",
    "tune": "chooses pretraining settings without the test set",
    "evaluate": "runs the protocols on a pretrained encoder",
    "report": "draws views, and the report of a run",
    "export": "writes an encoder for use elsewhere",
    "reproduce": "pretrains, evaluates and fuses until the paper's table is there",
}


def usage() -> str:
    lines = [f"  {name:10} {what}" for name, what in COMMANDS.items()]
    return "\n".join(["usage: hiclr COMMAND ...   (hiclr COMMAND --help tells its options)", "", *lines])


def dispatch() -> int | None:
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0
    name, *rest = words
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0)[0]
        raise InputError(f"hiclr has no command {name!r}; the nearest is {close!r} (one of {', '.join(COMMANDS)})")
    sys.argv = [f"hiclr {name}", *rest]
    return import_module(f"hiclr_fast.cli.{name}").main()


def main() -> None:
    run_script(dispatch)
