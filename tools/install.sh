#!/bin/sh
# install.sh [ci] - installs the Debian packages that the build needs (ci: also those of the checks). Silent when
# all are there; without root or sudo it prints the one line to run and fails.
set -eu
build="gcc libc6-dev make libopenmpi-dev openmpi-bin libopenblas-dev libjansson-dev libpcre2-dev libutf8proc-dev
       libzstd-dev zlib1g-dev libxxhash-dev"
checks="clang clang-tidy clang-format libclang-rt-14-dev universal-ctags coinor-cbc"
wanted=$build
[ "${1-}" = ci ] && wanted="$build $checks"

if ! command -v dpkg-query >/dev/null; then
    # Not Debian: what counts is that the tools and headers are there; the build says what is not.
    command -v cc >/dev/null && command -v make >/dev/null && command -v mpicc >/dev/null && exit 0
    echo "this script knows Debian and its relatives only; install these or their likes:" $wanted >&2
    exit 1
fi
missing=
for package in $wanted; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

install() {
    echo "installing:$missing"
    $1 apt-get update -q >/dev/null 2>&1 || true # an old list may do
    $1 env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >/dev/null
}
if [ "$(id -u)" = 0 ]; then
    install ""
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    install "sudo -n"
elif command -v sudo >/dev/null && [ -t 0 ]; then
    install sudo
else
    echo "packages are missing; run this as root, then start again:" >&2
    echo "apt-get install -y --no-install-recommends$missing" >&2
    exit 1
fi
