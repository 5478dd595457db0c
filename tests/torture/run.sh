#!/usr/bin/env bash
# Fault injection: tests/torture/run.sh BUILD_DIR LIB_DIR [quick]
#
# The programs of this folder with the helpers of tests/c, linked with liboyez.so of LIB_DIR; they and what they say go
# to BUILD_DIR. "quick" runs a part of the cells: those that $TORTURE_SEED chooses (1). $JOBS programs at a time (2);
# those that mostly wait run more at once. $CC chooses the compiler. First check_matrix.py looks whether each fault of
# matrix.txt has its test.
# What fails is shown, what is skipped is counted by its reason. One cell is repeated by its name:
# BUILD_DIR/torture_calls threads/serve/accept4/EMFILE/ever, with TORTURE_SEED as it was, and with TORTURE_TRACE=1 to see
# where the call came from.
# The last line is "torture: N passed, N failed, N skipped"; the exit code is 1 on any failure, or if nothing ran.
set -u

if [ $# -lt 2 ] || [ $# -gt 3 ] || [ "${3:-quick}" != quick ]; then
    echo "usage: $0 BUILD_DIR LIB_DIR [quick]" >&2
    exit 2
fi
mkdir -p "$1" || exit 1
build=$(cd "$1" && pwd)
library=$(cd "$2" && pwd) || exit 1
quick=${3:-}
cd "$(dirname "$0")" || exit 1
cc=${CC:-gcc}
jobs=${JOBS:-2}
export TORTURE_SEED=${TORTURE_SEED:-1}
flags=(-std=c99 -pedantic -Wall -Wextra -Werror -O1 -g -pthread -I../../include -I../c)
passed=0
failed=0
skipped=0

problem() {
    echo "FAILED $*"
    failed=$((failed + 1))
}

compile() {
    local name helpers=(../c/{check,watch,expect,clients,storm}.c inject.c scene.c expected.c)
    local objects=() file
    rm -f "$build"/*.o "$build"/torture_*
    for file in "${helpers[@]}"; do
        name=$build/$(basename "$file" .c).o
        "$cc" "${flags[@]}" -c "$file" -o "$name" || problem "compile $file"
        objects+=("$name")
    done
    for file in torture_*.c; do
        name=$build/${file%.c}
        "$cc" "${flags[@]}" "$file" "${objects[@]}" -rdynamic -L"$library" -loyez -Wl,-rpath,"$library" -ldl -o "$name" ||
            problem "compile $file"
    done
}

# The parts of a program, so many at a time.
run() { # name parts share
    local part
    for ((part = 0; part < $2; part++)); do
        TORTURE_PART=$part/$2 TORTURE_SHARE=$3 timeout -s KILL 3600 "$build/$1" >"$build/$1.$part.out" 2>&1 &
    done
    wait
    for ((part = 0; part < $2; part++)); do
        report "$build/$1.$part.out"
    done
}

report() { # file
    local line
    line=$(tail -n 1 "$1")
    grep -A 12 '^FAILED' "$1" | grep -v '^ok \|^skipped \|^--\|passed, '
    grep '^    .* clients, \|^    .* flood of ' "$1"
    if [[ $line =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed,\ ([0-9]+)\ skipped$ ]]; then
        passed=$((passed + BASH_REMATCH[1]))
        failed=$((failed + BASH_REMATCH[2]))
        skipped=$((skipped + BASH_REMATCH[3]))
    else
        problem "$1: no closing line"
    fi
}

echo "== matrix"
"${PYTHON:-python3}" check_matrix.py || problem "the matrix"
compile
[ "$failed" -eq 0 ] || { echo "torture: $passed passed, $failed failed, $skipped skipped"; exit 1; }
echo "== seed $TORTURE_SEED (TORTURE_SEED)"
share() { # quick's
    if [ -n "$quick" ]; then echo "$1"; else echo 1; fi
}
run torture_peers 1 1
run torture_reentry 1 1
run torture_calls "$jobs" "$(share 100)"
run torture_nth "$jobs" "$(share 20)"
run torture_persist 8 "$(share 30)"
cat "$build"/*.out | sed -n 's/^skipped [^:]*: /skipped: /p' | sort | uniq -c
echo "torture: $passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
