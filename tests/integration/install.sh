#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shows that `make install` gives a C and a C++ program all it needs, shared and static, that the static
# library leaves the program its own names, that systemd understands the units, and that `make uninstall` leaves nothing behind.
set -euo pipefail
dest=$(mktemp -d)
trap 'rm -rf "$dest"' EXIT
make --no-print-directory -s install DESTDIR="$dest" prefix=/usr/local
export PKG_CONFIG_PATH=$dest/usr/local/lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=$dest
pkg-config --exact-version=0.1.0 farpool
find "$dest" ! -type d -printf '%P\n' | sort
[ "$(readlink "$dest/usr/local/lib/libfarpool.so")" = libfarpool.so.0 ]
[ "$(readlink "$dest/usr/local/lib/libfarpool.so.0")" = libfarpool.so.0.1.0 ]

cat >"$dest/program.c" <<'PROGRAM'
#include <farpool.h>
#include <stdio.h>
#include <string.h>

/* Names that the library uses inside, too. */
int fp_error(int code);
int fp_error(int code)
{
    return code + 1;
}

int main(void)
{
    farpool_pool_options options;
    farpool_pool_options_init(&options);
    options.pool_bytes = 1 << 20;
    farpool_pool *pool;
    if (farpool_pool_open(&options, &pool)) {
        fprintf(stderr, "pool: %s\n", farpool_errmsg());
        return 1;
    }
    farpool_stats stats;
    farpool_stats_get(pool, &stats);
    if (stats.frames != 256 || stats.struct_size != sizeof stats)
        return 2;
    options.pool_bytes = 1;
    farpool_pool *refused;
    if (farpool_pool_open(&options, &refused) != FARPOOL_E_INVAL || !strlen(farpool_errmsg()))
        return 3;
    if (farpool_pool_close(pool))
        return 4;
    return fp_error(-1);
}
PROGRAM
cp "$dest/program.c" "$dest/program.cc"

build_and_run() { # name, compiler and flags...
    local name=$1
    shift
    # shellcheck disable=SC2046
    "$@" -Wall -Wextra -Werror -o "$dest/$name" $(pkg-config --cflags farpool) $source $libs
    LD_LIBRARY_PATH=$dest/usr/local/lib "$dest/$name"
    echo "$name: works"
}
for linking in shared static; do
    if [ "$linking" = shared ]; then
        libs=$(pkg-config --libs farpool)
    else # of ours only: not every library has a static version
        libs="$dest/usr/local/lib/libfarpool.a $(pkg-config --static --libs farpool |
            tr ' ' '\n' | grep -v -e '-lfarpool' | tr '\n' ' ')"
    fi
    source=$dest/program.c
    build_and_run "c-$linking" gcc -std=gnu11
    source=$dest/program.cc
    if command -v g++ >/dev/null; then
        build_and_run "c++-$linking" g++ -std=c++17
    fi
    if command -v clang >/dev/null; then
        source=$dest/program.c
        build_and_run "clang-$linking" clang -std=gnu99
    fi
done
objdump -p "$dest/c-shared" | grep 'NEEDED *libfarpool.so.0$' >/dev/null
if objdump -p "$dest/c-static" | grep 'NEEDED *libfarpool' >/dev/null; then
    echo "the static program needs the shared library"
    exit 1
fi

"$dest/usr/local/bin/farpool-memnode" --help >/dev/null
"$dest/usr/local/bin/farpool-storagenode" --help >/dev/null
"$dest/usr/local/bin/farpoolctl" --help >/dev/null
[ -s "$dest/usr/local/share/man/man1/farpoolctl.1" ]
[ -s "$dest/usr/local/share/man/man8/farpool-memnode.8" ]
[ -s "$dest/usr/local/share/bash-completion/completions/farpoolctl" ]

# The units: they start what is there, and systemd has nothing to say about them.
units=$dest/usr/local/lib/systemd/system
for name in coordinator memnode storagenode; do
    unit=$units/farpool-$name.service
    grep -q "^ExecStart=/usr/local/bin/farpool-$name --config /etc/farpool/$name.conf\$" "$unit"
    grep -q '^Type=notify$' "$unit"
    sed -i "s|/usr/local|$dest/usr/local|" "$unit" # for the check: it wants to see the program
done
if grep -rq '@[a-z]*dir@' "$dest/usr/local/lib/systemd"; then
    echo "a path is missing in a unit"
    exit 1
fi
if command -v systemd-analyze >/dev/null; then
    said=$(systemd-analyze verify --man=no "$units"/*.service 2>&1 | grep -F farpool || true)
    if [ -n "$said" ]; then
        echo "systemd-analyze verify: $said"
        exit 1
    fi
    echo "systemd-analyze: verified"
else
    echo "systemd-analyze: not installed, the units were not checked"
fi
make --no-print-directory -s uninstall DESTDIR="$dest" prefix=/usr/local
left=$(find "$dest/usr" ! -type d)
if [ -n "$left" ]; then
    echo "uninstall left: $left"
    exit 1
fi
