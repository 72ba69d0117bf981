#!/usr/bin/env bash
# Everything that needs a CUDA device: tests, then benchmarks. Results go to $OUT (default: the current folder).
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-$PWD}
export PYTHONPATH="$PWD:$PWD/kernels:${PYTHONPATH:-}" PYTHONUNBUFFERED=1
status=0
python3 -m pytest -m gpu tests 2>&1 | tee "$OUT/tests.log" || status=1
python3 -m pytest bench/ --benchmark-only -m gpu --benchmark-json="$OUT/bench.json" 2>&1 | tee "$OUT/bench.log" || status=1
exit $status
