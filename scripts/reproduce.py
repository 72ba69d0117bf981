"""From a packed dataset to the paper's table: the same as `hiclr reproduce`."""

from hiclr_fast.cli import script

if __name__ == "__main__":
    script("reproduce")
