"""Makes packed datasets from raw recordings, and checks them."""

from hiclr_fast.cli.arguments import choose
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
    return choose(COMMANDS, __doc__).run()
