#!/bin/sh
# All that wants a GPU, in ten minutes: are the figures right, does the loop run, how fast is it.
#
#     sh benchmarks/gpu_session.sh        # figures are shown as they come; also under $OUT, where it is set
#
# A part that fails or takes too long does not stop the next. Exit code 1 where any failed. PYTHON: which Python.
cd "$(dirname "$0")/.." || exit 1
export PYTHONPATH="$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false
out=${OUT:-$(mktemp -d)}
end=$(($(date +%s) + ${SECONDS_IN_ALL:-570}))
failed=0

part() { # seconds at most, then the arguments of benchmarks.gpu
    left=$((end - $(date +%s)))
    most=$(($1 < left ? $1 : left))
    shift
    [ $most -lt 15 ] && echo "== $*: no time left" && return
    echo "== $* (at most $most s; $left s left)"
    # Ends by itself before it is ended; what it has shown by then is kept.
    timeout $most "${PYTHON:-python3}" -m benchmarks.gpu "$@" --seconds $((most - 10)) --json "$out/gpu.jsonl" 2>&1
    code=$?
    [ $code -eq 124 ] && echo "== $1: out of time"
    [ $code -ne 0 ] && failed=1
}

{
    nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2>/dev/null
    "${PYTHON:-python3}" -c 'import sys, torch, transformers, numpy, numba; print("Python", sys.version.split()[0], "torch",
        torch.__version__, "transformers", transformers.__version__, "numpy", numpy.__version__, "numba", numba.__version__)'
    part 120 check "$@"
    part 110 loop "$@"
    part 110 engines --sizes embedded 125M 1B "$@"
    part 90 training --sizes embedded 125M 1B "$@"
    part 150 engines --sizes 7B 3B --rows 1 32 128 512 "$@"
    part 90 training --sizes 3B --pairs 16 "$@"
    echo "== done; failed: $failed"
    exit $failed
} | tee "$out/gpu.txt"
grep -q '^== done; failed: 0' "$out/gpu.txt"
