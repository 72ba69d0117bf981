"""Pictures of data and views, and the report of a run: the same as `hiclr report`."""

from hiclr_fast.cli import script

if __name__ == "__main__":
    script("report")
