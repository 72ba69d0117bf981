"""Writes docs/commands.md: the help of every program, as the programs print it."""

import contextlib
import io
import os
import re
import sys
from importlib import import_module
from pathlib import Path

FILE = Path(__file__).parent.parent / "docs" / "commands.md"
WIDTH = 110
HEAD = "# All commands and flags\n\nWritten by `python scripts/commands_doc.py`; a test compares it with the programs.\n"


def help_of(command: str, *rest: str) -> str:
    """What `hiclr COMMAND ... --help` prints, without its boxes."""
    before, out = sys.argv, io.StringIO()
    sys.argv = [f"hiclr {command}", *rest, "--help"]
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            import_module(f"hiclr_fast.cli.{command}").main()
    finally:
        sys.argv = before
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    lines = [re.sub(r"^│ ?|\s*│$|^[╭╰]─+|─+[╮╯]$|^\s*[-─]{5,}$", "", line).rstrip() for line in plain.splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def document() -> str:
    """The whole file."""
    os.environ["COLUMNS"] = str(WIDTH)
    from hiclr_fast.cli import COMMANDS

    parts = [HEAD]
    for command, what in COMMANDS.items():
        module = import_module(f"hiclr_fast.cli.{command}")
        parts.append(f"\n## hiclr {command}\n\n{what[0].upper() + what[1:]}.\n")
        for name in ("", *getattr(module, "COMMANDS", ())):
            words = (name,) if name else ()
            parts.append(f"\n```text\n{help_of(command, *words)}\n```\n")
    return "".join(parts)


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(document())
