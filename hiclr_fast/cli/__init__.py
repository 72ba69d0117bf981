"""The programs: `hiclr COMMAND ...`, and one thin script each in scripts/."""

import sys
from importlib import import_module

from hiclr_fast.errors import run_script

COMMANDS = {  # in the order of the flow
    "prepare": "makes packed datasets from raw recordings, and checks them",
    "pretrain": "pretrains an encoder without labels",
    "tune": "chooses pretraining settings without the test set",
    "evaluate": "runs the protocols on a pretrained encoder",
    "report": "draws views, and the report of a run",
    "predict": "names the actions in recordings",
    "embed": "writes the features of recordings",
    "export": "writes an encoder or a classifier for use elsewhere",
    "reproduce": "pretrains, evaluates and fuses until the paper's table is there",
}


def usage() -> str:
    lines = [f"  {name:10} {what}" for name, what in COMMANDS.items()]
    return "\n".join(["usage: hiclr COMMAND ...   (hiclr COMMAND --help tells its options)", "", *lines])


def dispatch() -> int | None:
    from hiclr_fast.cli.arguments import nearest  # takes a while to import: signals are heeded by now

    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0
    name, *rest = words
    nearest(name, COMMANDS, "hiclr")
    sys.argv = [f"hiclr {name}", *rest]
    return import_module(f"hiclr_fast.cli.{name}").main()


def main() -> None:
    run_script(dispatch)


def script(command: str) -> None:
    """What a script of that name does. What fails while it is imported is said as well."""
    run_script(lambda: import_module(f"hiclr_fast.cli.{command}").main())
