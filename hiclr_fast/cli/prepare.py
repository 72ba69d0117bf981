"""Makes packed datasets from raw recordings, and checks them."""

from typing import Annotated

import tyro

from hiclr_fast.data.prepare import Check, Ntu, Official, Pku, Pyskl, Sequences, Synthetic, Ucla

COMMANDS = {
    "ntu": Ntu,
    "pku": Pku,
    "ucla": Ucla,
    "pyskl": Pyskl,
    "official": Official,
    "sequences": Sequences,
    "synthetic": Synthetic,
    "check": Check,
}


def main() -> int | None:
    choice = None
    for name, command in COMMANDS.items():
        one = Annotated[command, tyro.conf.subcommand(name)]
        choice = one if choice is None else choice | one
    return tyro.cli(choice, description=__doc__).run()
