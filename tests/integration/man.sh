#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shows that each program has a manual page, that it is well-formed and names every option of the program's --help, and
# that bash completes what farpoolctl can be told.
set -uo pipefail
build=${FARPOOL_BUILD:-$PWD/build}
make --no-print-directory -s man BUILD="$build" || exit 1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fails=0
fail() {
    echo "FAILED: $*"
    fails=$((fails + 1))
}

# ---- manual pages ------------------------------------------------------------------------------------

for page in "$build"/man/*.[18]; do
    program=${page##*/}
    program=${program%.*}
    "$build/$program" --help >"$work/help" || fail "$program --help"
    grep -q '@' "$page" && fail "$page: something was not filled in: $(grep @ "$page")"
    # As they stand in the help, be it in the middle of a line.
    grep -oE -- '--[a-z][a-z-]+' "$work/help" | sort -u | while read -r option; do
        grep -qF -- "${option//-/\\-}" "$page" || echo "$option"
    done >"$work/missing"
    [ -s "$work/missing" ] && fail "$page does not name: $(paste -sd" " "$work/missing")"
    if command -v man >/dev/null; then
        MANWIDTH=80 man --warnings -E UTF-8 -l "$page" >"$work/text" 2>"$work/warnings" || fail "man $page"
        [ -s "$work/warnings" ] && fail "$page: $(cat "$work/warnings")"
        grep -q '^SEE ALSO' "$work/text" || fail "$page has no text"
    fi
done
for program in farpoolctl farpool farpool-coordinator farpool-memnode farpool-storagenode; do
    [ ! -e "$build/$program" ] || [ -e "$build/man/$program.1" ] || [ -e "$build/man/$program.8" ] ||
        fail "$program has no manual page"
done

# ---- completion --------------------------------------------------------------------------------------

mkdir "$work/bin"
cat >"$work/bin/farpoolctl" <<SCRIPT
#!/usr/bin/env bash
echo "\$*" >>"$work/asked"
case "\$*" in
*'node list') printf 'NAME ROLE\nm1 memory\nm2 memory\nc1 compute\n' ;;
*'partition list') printf 'ID NAME\n 7 orders\n 8 other\n' ;;
*) exec "$build/farpoolctl" "\$@" ;;
esac
SCRIPT
chmod +x "$work/bin/farpoolctl"
PATH=$work/bin:$PATH
# shellcheck disable=SC1091
. scripts/completion/farpoolctl

completes() { # LINE WORD...: these, in whatever order, are all that may stand at the end of the line
    COMP_LINE=$1 COMP_POINT=${#1} COMPREPLY=()
    shift
    _farpoolctl
    [ "$(printf '%s\n' "${COMPREPLY[@]}" | sort)" = "$(printf '%s\n' "$@" | sort)" ] ||
        fail "'$COMP_LINE' is completed to '${COMPREPLY[*]}', not '$*'"
}
completes 'farpoolctl st' status
completes 'farpoolctl no' node
completes 'farpoolctl node ' list drain undrain remove
completes 'farpoolctl partition re' read-only read-write
completes 'farpoolctl node drain m' m1 m2
completes 'farpoolctl --coordinators tcp://a:1,tcp://b:2 node drain c' c1
grep -q '^--coordinators tcp://a:1,tcp://b:2 --timeout 500 node list$' "$work/asked" || fail 'another cluster was asked'
completes 'farpoolctl partition move o' orders other
completes 'farpoolctl partition move orders ' ''
completes 'farpoolctl partition move orders --to ' c1
completes 'farpoolctl partition move orders --t' --to --timeout
completes 'farpoolctl route or' orders
completes 'farpoolctl partition create x --when-lost ' wait storage
completes 'farpoolctl -o ' table json
completes 'farpoolctl -o json failover --from' --from-storage
completes 'farpoolctl partition create ' ''
[ "$fails" = 0 ]
