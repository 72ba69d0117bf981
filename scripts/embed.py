"""Writes the features of recordings: the same as `hiclr embed`."""

from hiclr_fast.cli.embed import main
from hiclr_fast.errors import run_script

if __name__ == "__main__":
    run_script(main)
