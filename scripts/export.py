"""Writes an encoder for use elsewhere: the same as `hiclr export`."""

from hiclr_fast.cli import script

if __name__ == "__main__":
    script("export")
