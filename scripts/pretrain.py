"""Pretrains HiCLR: the same as `hiclr pretrain`."""

from hiclr_fast.cli import script

if __name__ == "__main__":
    script("pretrain")
