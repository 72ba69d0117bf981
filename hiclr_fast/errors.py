"""The one exception for bad input: a sentence that says what, where, what was expected and how to fix it."""

import sys
from collections.abc import Callable


class InputError(ValueError):
    """Something the user gave is wrong. The message is the whole story; scripts print it without a traceback."""


def run_script(main: Callable[[], int | None]) -> None:
    """Runs a script's main; an `InputError` becomes one line on stderr and exit code 2."""
    try:
        sys.exit(main() or 0)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
