#!/usr/bin/env bash
# What needs a CUDA device: tests, then benchmarks, part by part, so that a part that is cut off costs only itself.
#   scripts/gpu_check.sh [graph kernels augment contrast step protocols]     (default: all of them)
# Each part leaves $OUT/PART.log, and benchmarks $OUT/PART.json (default of OUT: the current folder). LIMIT: seconds a part
# may take. Needs pytest and pytest-benchmark; numba and tyro for protocols only, which skips without the NW-UCLA recordings in
# $HICLR_SHARED/data. The files are named one by one: a package that only another file imports is not missed.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-$PWD}
export PYTHONPATH="$PWD:$PWD/kernels:${PYTHONPATH:-}" PYTHONUNBUFFERED=1
status=0
run() {
  name=$1; shift
  timeout "${LIMIT:-900}" python3 -m pytest "$@" 2>&1 | tee "$OUT/$name.log" || status=1
}
for part in "${@:-graph kernels augment contrast step protocols}"; do
  for name in $part; do
    case $name in
      graph) run graph -m gpu tests/test_graph.py tests/test_data_loader.py ;;
      kernels) run kernels -k "triton or cuda" tests/test_kernel_augment.py tests/test_kernel_contrast.py tests/test_kernel_contrast_steps.py ;;
      augment | contrast | step | protocols)
        run "$name" "bench/test_$name.py" --benchmark-only -m gpu --benchmark-json="$OUT/$name.json" ;;
      *) echo "unknown part $name: graph, kernels, augment, contrast, step, protocols" >&2; status=2 ;;
    esac
  done
done
exit $status
