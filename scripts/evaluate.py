"""Evaluates a pretrained encoder: the same as `hiclr evaluate`."""

from hiclr_fast.cli.evaluate import main
from hiclr_fast.errors import run_script

if __name__ == "__main__":
    run_script(main)
