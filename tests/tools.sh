#!/usr/bin/env bash
# Installs what the build, the demo, the tests or the bench call besides Cargo, from Debian's packages, and says so.
# Usage: tools.sh build|demo|test|bench|order|profile|fuzz
set -euo pipefail

build=(cc:gcc)
demo=("${build[@]}" ip:iproute2 iptables:iptables tcpdump:tcpdump setpriv:util-linux)
tests=("${demo[@]}" curl:curl openssl:openssl h2load:nghttp2-client wrk:wrk promtool:prometheus python3:python3
  sslscan:sslscan testssl:testssl.sh faketime:faketime dnsmasq:dnsmasq-base nft:nftables)
bench=("${build[@]}" ip:iproute2 iptables:iptables setpriv:util-linux wrk:wrk h2load:nghttp2-client iperf3:iperf3
  haproxy:haproxy python3:python3)

case "${1:-}" in
  build) wanted=("${build[@]}") ;;
  demo) wanted=("${demo[@]}") ;;
  test) wanted=("${tests[@]}") ;;
  bench | profile) wanted=("${bench[@]}") ;;
  fuzz) wanted=("${build[@]}" c++:g++) ;;
  order) wanted=("${demo[@]}" valgrind:valgrind nm:binutils) ;;
  *) echo "usage: $0 build|demo|test|bench|order|profile|fuzz" >&2; exit 64 ;;
esac

missing=()
for pair in "${wanted[@]}"; do
  command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
# A compiler without the C library's headers links nothing.
compiles() { echo 'int main(void) { return 0; }' | cc -include stdio.h -x c -o /dev/null - 2>/dev/null; }
compiles || missing+=(gcc libc6-dev)
# venv is a package of its own.
if [[ "$1" =~ ^(test|bench|profile)$ ]] && command -v python3 >/dev/null && ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
  missing+=(python3-venv)
fi
[[ " ${missing[*]} " == *" python3 "* ]] && missing+=(python3-venv)

if [ ${#missing[@]} -gt 0 ]; then
  echo "== installing packages: ${missing[*]}"
  if [ "$(id -u)" != 0 ]; then
    echo "not root: install them yourself (apt-get install ${missing[*]})" >&2
    exit 1
  fi
  # Some of the packages bring services (prometheus does); none shall start because of us.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
command -v cargo >/dev/null || { echo "no Rust toolchain: https://rustup.rs has one" >&2; exit 1; }
# The compiler's own tool reads the counters of the programs that it made.
if [ "$1" = profile ] && [ ! -x "$(rustc --print target-libdir)/../bin/llvm-profdata" ]; then
  echo "== installing the toolchain's llvm-tools"
  rustup component add llvm-tools
fi
