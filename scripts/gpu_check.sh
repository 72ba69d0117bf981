#!/usr/bin/env bash
# What needs a CUDA device, in the order in which the answers matter, part by part, so that one cut off costs only itself:
#   graph       one CUDA graph equals the eager step; feeds on a GPU
#   probes      late readers of a batch, jobs with NCCL in their graph, deadlines
#   kernels     every kernel against its reference, on the device
#   ledger      what was counted against what is measured, phase by phase
#   step128 step1024 step_largest    the training step; the largest batch that the memory holds
#   augment contrast protocols       the rest; protocols skips without the NW-UCLA recordings in $HICLR_SHARED/data
#   scripts/gpu_check.sh [PART ...]     (default: all of them, in this order)
# $OUT (default: the current folder) gets log.txt, summary.txt, and results/OP.jsonl: lines as bench/results/OP.jsonl has them.
# LIMIT: seconds that a part may take. Needs pytest and pytest-benchmark; pytest-xdist speeds the kernels up.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-$PWD}
export PYTHONPATH="$PWD:$PWD/kernels:${PYTHONPATH:-}" PYTHONUNBUFFERED=1
parts=("$@")
[ $# -gt 0 ] || parts=(graph probes kernels ledger step128 step1024 step_largest augment contrast protocols)
mkdir -p "$OUT/results"
status=0

run() {
  local name=$1 began=$SECONDS code
  shift
  echo "=== $name" | tee -a "$OUT/log.txt"
  timeout "${LIMIT:-480}" python3 -m pytest -q -p no:cacheprovider "$@" 2>&1 | tee -a "$OUT/log.txt"
  code=${PIPESTATUS[0]}
  [ "$code" -eq 0 ] || status=1
  echo "$name: $([ "$code" -eq 124 ] && echo "cut off" || echo "exit $code") after $((SECONDS - began)) s" | tee -a "$OUT/summary.txt"
}

bench() {
  local name=$1 file=$2
  shift 2
  run "$name" "bench/test_$file.py" --benchmark-only -m gpu --record "$OUT/results" "$@"
}

for part in "${parts[@]}"; do
  case $part in
    graph) run graph -m gpu tests/test_graph.py tests/test_data_loader.py ;;
    probes) run probes -m gpu tests/test_gpu_probes.py ;;
    kernels) run kernels $(python3 -c "import xdist" 2>/dev/null && echo -n 8) -k "not compile" tests/test_kernel_*.py ;;
    ledger) run ledger -m gpu bench/test_ledger.py --record "$OUT/results" ;;
    step128) bench step128 step -k "128 and not 1024" ;;
    step1024) bench step1024 step -k "1024" ;;
    step_largest) bench step_largest step -k "largest or 4096" ;;
    augment | contrast | protocols) bench "$part" "$part" ;;
    *) echo "unknown part $part: graph, probes, kernels, ledger, step128, step1024, step_largest, augment, contrast, protocols" >&2
       status=2 ;;
  esac
done
exit $status
