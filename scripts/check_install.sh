#!/usr/bin/env bash
# Installs a copy of the project into an empty environment outside of any checkout, as a user would, and runs there what the README
# shows: `hiclr --help`, a short run, its classifier, and every Python snippet.
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd)
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
mkdir "$room/source"
tar -C "$project" --exclude='./.*' --exclude=./runs --exclude=./data --exclude=./build --exclude='*.egg-info' -cf - . | tar -C "$room/source" -xf -
"${PYTHON:-python3}" -m venv "$room/env"
install=("$room/env/bin/python" -m pip install -q --disable-pip-version-check)
"${install[@]}" "$(grep '^torch==' "$project/constraints.txt")"
"${install[@]}" -c "$project/constraints.txt" "$room/source"
rm -rf "$room/source"
cd "$room"
unset PYTHONPATH
env/bin/hiclr --help
env/bin/hiclr pretrain --epochs 1 --warmup-epochs 0 --hidden-channels 2 --hidden-dim 16 --feature-dim 8 --out runs/ucla
env/bin/hiclr evaluate linear --run runs/ucla --epochs 2
env/bin/python - "$project/README.md" <<'PYTHON'
import pathlib, re, sys
import numpy as np
import hiclr_fast

installed = pathlib.Path(hiclr_fast.__file__).parent
assert pathlib.Path(sys.prefix) in installed.parents and (installed / "py.typed").is_file(), installed
assert not [name for name in ("tests", "bench", "scripts") if (installed.parent / name).exists()]
clips = [np.random.default_rng(n).normal(0, 0.3, (20 + n, 25, 3)).astype(np.float32) for n in range(4)]
snippets = re.findall(r"```python\n(.*?)```", pathlib.Path(sys.argv[1]).read_text(), flags=re.S)
given = {"clips": clips}
for snippet in snippets:
    exec(snippet, given)
assert len(snippets) == 2 and given["features"].shape[0] == 4 and given["probabilities"].shape[0] == len(given["names"]) == 4
print("the README's snippets run in", installed.parent)
PYTHON
