"""Makes packed datasets from raw recordings, and checks them."""

from typing import Annotated

import tyro

from hiclr_fast.data.own import Check, Layout, OwnClips, Sequences, Synthetic
from hiclr_fast.data.prepare import Ntu, Official, Pku, Pyskl, Ucla

COMMANDS = {
    "ntu": Ntu,
    "pku": Pku,
    "ucla": Ucla,
    "pyskl": Pyskl,
    "official": Official,
    "clips": OwnClips,
    "sequences": Sequences,
    "synthetic": Synthetic,
    "layout": Layout,
    "check": Check,
}


def main() -> int | None:
    choice = None
    for name, command in COMMANDS.items():
        one = Annotated[command, tyro.conf.subcommand(name)]
        choice = one if choice is None else choice | one
    return tyro.cli(choice, description=__doc__).run()
