"""Makes packed datasets from raw recordings, and checks them: the same as `hiclr prepare`."""

from hiclr_fast.cli.prepare import main
from hiclr_fast.errors import run_script

if __name__ == "__main__":
    run_script(main)
