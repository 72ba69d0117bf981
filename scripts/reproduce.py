"""From a packed dataset to the paper's table: the same as `hiclr reproduce`."""

from hiclr_fast.cli.reproduce import main
from hiclr_fast.errors import run_script

if __name__ == "__main__":
    run_script(main)
