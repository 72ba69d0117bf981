"""Pretrains HiCLR: the same as `hiclr pretrain`."""

from hiclr_fast.cli.pretrain import main
from hiclr_fast.errors import run_script

if __name__ == "__main__":
    run_script(main)
