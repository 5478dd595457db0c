#!/usr/bin/env bash
# A day's worth of short connections for each way of serving: tests/soak/run.sh BUILD_DIR LIB_DIR
#
# soak.c, and for the entry "faults" faults.c, with the helpers of tests/c, linked with liboyez.so of LIB_DIR; the program goes to BUILD_DIR. Event servers
# run once for each backend, which OYEZ_BACKEND chooses; if that is set already, they alone run, with it.
# "faults" is not among the entries that run where none is named: it takes $SOAK_SECONDS (1800).
# $SOAK_CONNECTIONS is how many connections each other entry gets (86400), $ENTRIES names some of the entries below, and $CC
# chooses the compiler.
# The last line is "soak tests: N passed, N failed, N skipped"; the exit code is 1 on any failure.
set -u

if [ $# -ne 2 ]; then
    echo "usage: $0 BUILD_DIR LIB_DIR" >&2
    exit 2
fi
mkdir -p "$1" || exit 1
build=$(cd "$1" && pwd)
library=$(cd "$2" && pwd) || exit 1
cd "$(dirname "$0")" || exit 1
cc=${CC:-gcc}
flags=(-std=c99 -pedantic -Wall -Wextra -Werror -O1 -g -pthread -I../../include -I../c)
helpers=(../c/{check,watch,expect,clients,serving}.c)
entries=${ENTRIES:-threads sequential processes by_hand events-epoll events-io_uring}
if [ -n "${OYEZ_BACKEND:-}" ] && [ -z "${ENTRIES:-}" ]; then
    entries="events-$OYEZ_BACKEND"
fi
passed=0
failed=0
skipped=0

run() { # entry
    local backend=""
    echo "== $1"
    if [[ $1 == *-* ]]; then
        backend=${1#*-}
    fi
    if [ "$1" = faults ]; then
        "$build/faults" | tee "$build/soak.out"
    else
        env ${backend:+OYEZ_BACKEND=$backend} "$build/soak" "${1%%-*}" | tee "$build/soak.out"
    fi
    case $(tail -n 1 "$build/soak.out") in
    "1 passed, 0 failed, 0 skipped") passed=$((passed + 1)) ;;
    "0 passed, 0 failed, 1 skipped") skipped=$((skipped + 1)) ;; # it has said why
    *) failed=$((failed + 1)) ;;
    esac
}

for program in soak faults; do
    if ! "$cc" "${flags[@]}" $program.c "${helpers[@]}" -o "$build/$program" -L"$library" -loyez -Wl,-rpath,"$library"; then
        echo "soak tests: 0 passed, 1 failed, 0 skipped"
        exit 1
    fi
done
for entry in $entries; do
    run "$entry"
done
echo "soak tests: $passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ $((passed + skipped)) -gt 0 ]
