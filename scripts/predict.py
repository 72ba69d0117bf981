"""Names the actions in recordings: the same as `hiclr predict`."""

from hiclr_fast.cli.predict import main
from hiclr_fast.errors import run_script

if __name__ == "__main__":
    run_script(main)
