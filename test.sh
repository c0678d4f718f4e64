#!/bin/bash
# test.sh - installs what is missing, builds, runs every test. The last line is "N passed, N failed".
cd "$(dirname "$0")" || exit 1
mkdir -p build
if ! tools/install.sh || ! make -j"$(nproc)" moec tests >build/make.log 2>&1; then
    tail -n 30 build/make.log
    echo "0 passed, 1 failed"
    exit 1
fi
exec tools/run-tests.sh
