#!/usr/bin/env bash
# Runs fuzz targets under libFuzzer, each for so many seconds, from its seeds and what earlier runs found worth keeping.
# Usage: fuzz/run.sh SECONDS [TARGET...]. A finding ends with its input in fuzz/artifacts, and status 1.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:?seconds per target}
shift
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(ls fuzz/seeds)

nightly=${NIGHTLY:-nightly}
build=$PWD/target/fuzz
echo "== building ${#targets[@]} targets with $nightly (the first time takes minutes)"
CARGO_TARGET_DIR=$build cargo "+$nightly" fuzz build --fuzz-dir fuzz >/dev/null
programs=$build/$(rustc -vV | sed -n 's/^host: //p')/release

found=0
for target in "${targets[@]}"; do
  mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target"
  log=$build/$target.log
  # Memory in MiB and seconds for one input; all that a sidecar may take for one is far less.
  if ASAN_OPTIONS=detect_odr_violation=0 "$programs/$target" "fuzz/corpus/$target" "fuzz/seeds/$target" \
    -artifact_prefix="fuzz/artifacts/$target/" -max_total_time="$seconds" -max_len=8192 -timeout=30 -rss_limit_mb=2048 \
    -detect_leaks=0 -print_final_stats=1 >"$log" 2>&1; then
    end=ok
  else
    end=FOUND found=1
  fi
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  edges=$(grep -o 'cov: [0-9]*' "$log" | tail -1)
  printf '%-14s %-6s %12s runs  %s\n' "$target" "$end" "${runs:-?}" "$edges"
  if [ "$end" = FOUND ]; then
    grep -m1 -A3 "panicked at\|ERROR: " "$log" || tail -5 "$log"
    echo "  again: $programs/$target $(ls -t "fuzz/artifacts/$target"/* | head -1)"
  fi
done
exit $found
