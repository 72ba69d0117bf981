"""The campaign in short: what takes processes, signals and limits. All of it, and longer: scripts/campaign.py."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "campaign.py"
SHORT = (
    *("two at once", "SIGTERM, SIGINT", "kill -9", "disk full", "settings"),
    *("numeric extremes", "result separation", "closed pipe", "clock backwards"),
)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures its children through /proc")
def test_nothing_is_wrong(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--cases", "1", "--out", str(tmp_path / "table"), "--only", *SHORT],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert f"| all | {len(SHORT)} |" in (tmp_path / "table.md").read_text()
