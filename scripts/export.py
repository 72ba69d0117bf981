"""Writes an encoder for use elsewhere: the same as `hiclr export`."""

from hiclr_fast.cli.export import main
from hiclr_fast.errors import run_script

if __name__ == "__main__":
    run_script(main)
