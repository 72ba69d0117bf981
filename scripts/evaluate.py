"""Evaluates a pretrained encoder: the same as `hiclr evaluate`."""

from hiclr_fast.cli import script

if __name__ == "__main__":
    script("evaluate")
