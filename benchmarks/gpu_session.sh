#!/bin/sh
# All that wants a GPU, in ten minutes: are the figures right, does the loop run, how fast is it.
#
#     sh benchmarks/gpu_session.sh [PART ...] [--OPTION ...]    # parts: check, loop, engines, training; options: gpu.py's
#
# Figures are shown as they come, and kept under $OUT where it is set. A part that fails or takes too long does not stop
# the next. Exit code 1 where any failed. SECONDS_IN_ALL: when it ends; PYTHON: which Python.
cd "$(dirname "$0")/.." || exit 1
export PYTHONPATH="$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false
out=${OUT:-$(mktemp -d)}
end=$(($(date +%s) + ${SECONDS_IN_ALL:-570}))
failed=0
wanted=
while [ $# -gt 0 ] && [ "${1#--}" = "$1" ]; do
    case $1 in
    check | loop | engines | training) ;;
    *) echo "no part '$1'; parts: check, loop, engines, training" >&2 && exit 2 ;;
    esac
    wanted="$wanted $1"
    shift
done

part() { # seconds at most, then the arguments of benchmarks.gpu
    case "${wanted:-$2} " in *"$2 "*) ;; *) return ;; esac
    left=$((end - $(date +%s)))
    most=$(($1 < left ? $1 : left))
    shift
    [ $most -lt 30 ] && echo "== $*: no time left" && return
    echo "== $* (at most $most s; $left s left)"
    # It begins nothing new near its end, and is ended then; what it has shown is kept.
    timeout $most "${PYTHON:-python3}" -m benchmarks.gpu "$@" --seconds $((most - 20)) --json "$out/gpu.jsonl" 2>&1
    code=$?
    [ $code -eq 124 ] && echo "== $1: out of time"
    [ $code -ne 0 ] && failed=1
}

{
    nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2>/dev/null
    part 120 check "$@"
    part 110 loop "$@"
    part 220 engines --sizes embedded 125M 1B 3B 7B "$@"
    part 150 training --sizes embedded 125M 1B 3B "$@"
    echo "== done; failed: $failed"
    exit $failed
} | tee "$out/gpu.txt"
grep -q '^== done; failed: 0' "$out/gpu.txt"
