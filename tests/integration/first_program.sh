#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shows that the README's first program, as printed there, builds against an installed farpool and runs
# against a memory node.
set -euo pipefail
dest=$(mktemp -d)
node=
cleanup() {
    [ -z "$node" ] || kill "$node" 2>/dev/null || true
    rm -rf "$dest"
}
trap cleanup EXIT

awk '/^<!-- first.c -->$/ {wanted = 1; next}
     wanted && /^```c$/ {inside = 1; next}
     inside && /^```$/ {exit}
     inside' README.md >"$dest/first.c"
[ -s "$dest/first.c" ]
make --no-print-directory -s install DESTDIR="$dest" prefix=/usr/local
export PKG_CONFIG_PATH=$dest/usr/local/lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=$dest
export LD_LIBRARY_PATH=$dest/usr/local/lib
# shellcheck disable=SC2046
gcc -Wall -Wextra -Werror "$dest/first.c" -o "$dest/first" $(pkg-config --cflags --libs farpool)

# The node says on a descriptor when it serves, so nobody has to guess how long that takes.
mkfifo "$dest/ready"
"$dest/usr/local/bin/farpool-memnode" --listen "shm://$dest/node.sock" --memory 256m \
    --ready-fd 7 7>"$dest/ready" &
node=$!
read -r -t 30 serving <"$dest/ready"
echo "$serving"

for run in 1 2; do # the second time shows that the first gave everything back
    out=$(timeout 60 "$dest/first" "shm://$dest/node.sock")
    echo "run $run: $out"
    [[ $out =~ ^"the record of number 42 (500 bytes); pages evicted: "([0-9]+)", faulted: "([0-9]+)$ ]]
    [ "${BASH_REMATCH[1]}" -gt 4000 ] && [ "${BASH_REMATCH[2]}" -gt 0 ]
done

if "$dest/first" "shm://$dest/nobody.sock" 2>"$dest/errors"; then
    echo "connecting to nobody succeeded"
    exit 1
fi
cat "$dest/errors"
grep -q nobody.sock "$dest/errors"
kill -TERM "$node"
wait "$node"
node=
