"""Chooses pretraining settings without the test set: the same as `hiclr tune`."""

from hiclr_fast.cli.tune import main
from hiclr_fast.errors import run_script

if __name__ == "__main__":
    run_script(main)
