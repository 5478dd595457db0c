#!/usr/bin/env bash
# Compiles and runs the C tests: tests/c/run.sh BUILD_DIR LIB_DIR
#
# Programs and their output go to BUILD_DIR; liboyez.so and liboyez.a are taken from LIB_DIR. Each test program is
# compiled as C99, C11 and C17, linked with the shared library and with the static one, and run in both forms, as many
# at a time as $JOBS says (2). $CC and $CXX choose the compilers; $CFLAGS and $LDFLAGS are added where the programs are
# compiled and linked, $FORMS may name one form alone, and $TESTS the tests to run instead of all.
# The shared form's event servers have the backend that oyez chooses by itself, io_uring where that can be had; the
# static form's have epoll. $OYEZ_BACKEND chooses one for both, and a test may choose one itself.
# The last line is "c tests: N passed, N failed, N skipped"; the exit code is 1 on any failure, or if nothing ran.
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
cxx=${CXX:-g++}
jobs=${JOBS:-2}
read -ra added_flags <<<"${CFLAGS:-}"
read -ra added_link <<<"${LDFLAGS:-}"
forms=${FORMS:-shared static}
include=../../include
warnings=(-pedantic -Wall -Wextra -Werror)
helpers=(check watch expect clients places faults serving backends models storm holding)
# Their static form adds nothing to the shared one but time.
shared_only=(test_dlopen test_events_backend test_events_input test_events_output test_events_refused
    test_events_shortage test_events_stop test_stop_load)
failed=0

problem() {
    echo "FAILED $*"
    failed=$((failed + 1))
}

# At most $jobs of them at a time.
take_turn() {
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do
        wait -n
    done
}

# The header alone, in every language it speaks; included twice, too.
check_header() {
    printf '#include "oyez.h"\n#include "oyez.h"\nint main(void) { return oyez_version() == 0; }\n' >"$build/header.c"
    cp "$build/header.c" "$build/header.cpp"
    local standard
    for standard in c99 c11 c17; do
        "$cc" -std=$standard "${warnings[@]}" -I"$include" -fsyntax-only "$build/header.c" || problem "header as $standard"
    done
    for standard in c++11 c++17 c++20; do
        "$cxx" -std=$standard "${warnings[@]}" -I"$include" -fsyntax-only "$build/header.cpp" ||
            problem "header as $standard"
    done
}

compile() { # name
    local standard
    for standard in c99 c11; do
        "$cc" -std=$standard "${warnings[@]}" -I"$include" -fsyntax-only "$1.c" || return 1
    done
    "$cc" -std=c17 "${warnings[@]}" -O1 -g -pthread "${added_flags[@]}" -I"$include" -c "$1.c" -o "$build/$1.o"
}

is_shared_only() { # name
    [[ " ${shared_only[*]} " == *" $1 "* ]]
}

wants() { # form
    [[ " $forms " == *" $1 "* ]]
}

link() { # name
    local objects=("$build/$1.o") name
    if [ "$1" = test_dlopen ]; then # loads the library itself
        "$cc" -pthread "${objects[@]}" "$build/check.o" "$build/watch.o" "${added_link[@]}" -ldl \
            -o "$build/$1.shared"
        return
    fi
    for name in "${helpers[@]}"; do
        objects+=("$build/$name.o")
    done
    objects+=("${added_link[@]}")
    if wants shared; then
        "$cc" -pthread "${objects[@]}" -L"$library" -loyez -Wl,-rpath,"$library" -o "$build/$1.shared" || return 1
    fi
    if wants static; then
        "$cc" -pthread "${objects[@]}" "$library/liboyez.a" -lpthread -ldl -lm -o "$build/$1.static"
    fi
}

compile_all() {
    local name
    rm -f "$build"/*.o "$build"/test_*
    for name in "${helpers[@]}" "${tests[@]}"; do
        take_turn
        compile "$name" &
    done
    wait
    for name in "${helpers[@]}" "${tests[@]}"; do
        [ -e "$build/$name.o" ] || problem "compile $name"
    done
    for name in "${tests[@]}"; do
        wants shared || ! is_shared_only "$name" || continue
        link "$name" || problem "link $name"
    done
}

# What event servers have: in the shared form "io_uring", or "epoll" and why.
find_backend() {
    if [ -n "${OYEZ_BACKEND:-}" ] || ! wants shared; then
        echo "${OYEZ_BACKEND:-epoll}"
        return
    fi
    cat >"$build/backend.c" <<'END'
#include "oyez.h"
#include <stdio.h>
int main(void)
{
    oyez_events events = OYEZ_EVENTS_INIT;
    oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;
    options.backend = OYEZ_BACKEND_IO_URING;
    if (oyez_server_new_events(&events, NULL, &options) > 0)
        puts("shared form io_uring, static form epoll");
    else
        printf("epoll (%s)\n", oyez_error_message(NULL));
    return 0;
}
END
    "$cc" "${warnings[@]}" -pthread -I"$include" "$build/backend.c" "${added_link[@]}" -L"$library" -loyez \
        -Wl,-rpath,"$library" -o "$build/backend" && "$build/backend"
}

run_all() {
    local name form
    local -A backends=([shared]=${OYEZ_BACKEND:-auto} [static]=${OYEZ_BACKEND:-epoll})
    for form in shared static; do
        wants $form || continue
        for name in "${tests[@]}"; do
            if [ $form = static ] && is_shared_only "$name"; then
                continue
            fi
            take_turn
            (
                OYEZ_BACKEND=${backends[$form]} OYEZ_LIBRARY="$library/liboyez.so" "$build/$name.$form" \
                    >"$build/$name.$form.out" 2>&1
                echo $? >"$build/$name.$form.code"
            ) &
            programs+=("$name.$form")
        done
    done
    wait
}

report() {
    local program line passed=0 skipped=0
    echo "event servers: $backend"
    for program in "${programs[@]}"; do
        echo "== $program"
        cat "$build/$program.out"
        line=$(tail -n 1 "$build/$program.out")
        if [[ $line =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed,\ ([0-9]+)\ skipped$ ]]; then
            passed=$((passed + BASH_REMATCH[1]))
            failed=$((failed + BASH_REMATCH[2]))
            skipped=$((skipped + BASH_REMATCH[3]))
        else
            problem "$program: no closing line, exit code $(cat "$build/$program.code" 2>/dev/null)"
        fi
    done
    echo "c tests: $passed passed, $failed failed, $skipped skipped"
    [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}

programs=()
# Those that take longest come first.
tests=(test_threads test_lifecycle test_accept test_descriptors test_stop test_processes)
for file in test_*.c; do
    [[ " ${tests[*]} " == *" ${file%.c} "* ]] || tests+=("${file%.c}")
done
if [ -n "${TESTS:-}" ]; then
    read -ra tests <<<"$TESTS"
fi
check_header
compile_all
backend=$(find_backend) || problem "compile the program that asks for the backend"
run_all
report
