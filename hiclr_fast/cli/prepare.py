"""Makes packed datasets from raw recordings, and checks them."""

from hiclr_fast.cli.arguments import choose
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
    return choose(COMMANDS, __doc__).run()
