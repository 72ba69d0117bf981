"""Pictures of data and views, and the report of a run: the same as `hiclr report`."""

from hiclr_fast.cli.report import main
from hiclr_fast.errors import run_script

if __name__ == "__main__":
    run_script(main)
