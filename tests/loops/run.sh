#!/usr/bin/env bash
# Tests an event server inside the loops of libuv and of libevent: tests/loops/run.sh BUILD_DIR LIB_DIR
#
# Each program is cases.c with the file of its loop, and the helpers of tests/c. Programs go to BUILD_DIR; liboyez.so is
# taken from LIB_DIR. A loop whose package is not installed is skipped, and counted so. $CC chooses the compiler.
# The last line is "loop tests: N passed, N failed, N skipped"; the exit code is 1 on any failure.
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
passed=0
failed=0
skipped=0

# Whether a program can be made with the loop's header and library.
is_installed() { # header library
    printf '#include <%s>\nint main(void) { return 0; }\n' "$1" >"$build/probe.c"
    "$cc" "$build/probe.c" -o "$build/probe" "$2" 2>/dev/null
}

run() { # loop header library package
    local line
    echo "== $1"
    if ! is_installed "$2" "$3"; then
        echo "skipped: install the package $4"
        skipped=$((skipped + 1))
        return
    fi
    if ! "$cc" "${flags[@]}" cases.c "$1.c" "${helpers[@]}" -o "$build/$1" \
        -L"$library" -loyez -Wl,-rpath,"$library" "$3"; then
        echo "FAILED compile $1"
        failed=$((failed + 1))
        return
    fi
    "$build/$1" >"$build/$1.out" 2>&1
    cat "$build/$1.out"
    line=$(tail -n 1 "$build/$1.out")
    if [[ $line =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed,\ ([0-9]+)\ skipped$ ]]; then
        passed=$((passed + BASH_REMATCH[1]))
        failed=$((failed + BASH_REMATCH[2]))
        skipped=$((skipped + BASH_REMATCH[3]))
    else
        echo "FAILED $1: no closing line"
        failed=$((failed + 1))
    fi
}

run libuv uv.h -luv libuv1-dev
run libevent event2/event.h -levent_core libevent-dev
echo "loop tests: $passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
