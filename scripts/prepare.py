"""Makes packed datasets from raw recordings, and checks them: the same as `hiclr prepare`."""

from hiclr_fast.cli import script

if __name__ == "__main__":
    script("prepare")
