#!/usr/bin/env bash
# The C tests with every program and the library instrumented: tests/sanitize/run.sh BUILD_DIR address|thread
#
# Rust brings the sanitizers' runtimes with it; the C compiler's objects are linked with those, so that there is one
# runtime in the process. The library is built in a folder of its own, by the stable compiler with its unstable options
# allowed; its standard library is not instrumented, for which see std_sync.c. First selftest.c shows that faults are
# reported, in C and in Rust. A report in any process, also one that a test forked, is a file in BUILD_DIR and a
# failure. $CC, $CARGO, and what tests/c/run.sh reads: $JOBS (1 here), $TESTS.
set -u

if [ $# -ne 2 ] || [[ $2 != address && $2 != thread ]]; then
    echo "usage: $0 BUILD_DIR address|thread" >&2
    exit 2
fi
sanitizer=$2
mkdir -p "$1" || exit 1
build=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.." || exit 1
cc=${CC:-gcc}
cargo=${CARGO:-cargo}
short=${sanitizer:0:1}san
host=$(rustc -vV | sed -n 's/^host: //p')
runtimes=("$(rustc --print sysroot)/lib/rustlib/$host/lib/"librustc*_rt."$short.a")
library=target/sanitize/$sanitizer/$host/release

skip() {
    echo "skipped: $*"
    echo "$sanitizer sanitizer: 0 passed, 0 failed, 1 skipped"
    exit 0
}

# All of it is there and works together.
check_tools() {
    [ -e "${runtimes[0]}" ] || skip "this Rust toolchain has no runtime of the $sanitizer sanitizer for $host"
    echo 'int main(void) { return 0; }' >"$build/probe.c"
    "$cc" "${compile[@]}" -c "$build/probe.c" -o "$build/probe.o" 2>/dev/null ||
        skip "$cc cannot instrument for the $sanitizer sanitizer"
    "$cc" "$build/probe.o" "${runtime[@]}" -o "$build/probe" && "$build/probe" ||
        skip "$cc and this Rust toolchain do not agree on the $sanitizer sanitizer, or it cannot run here"
}

build_library() {
    local flags="-Zsanitizer=$sanitizer -Cforce-frame-pointers=yes"
    if [ "$sanitizer" = thread ]; then
        flags+=" -Cunsafe-allow-abi-mismatch=sanitizer"
    else
        flags+=" -Cdebug-assertions=yes"
    fi
    RUSTC_BOOTSTRAP=1 RUSTFLAGS=$flags CARGO_PROFILE_RELEASE_DEBUG=1 "$cargo" build --quiet --release --lib \
        --target "$host" --target-dir "target/sanitize/$sanitizer"
}

# The mangled name of a function of std that the library calls: the only one that ends so.
std_name() { # what its name ends in
    nm "$library/liboyez.a" 2>/dev/null | grep -oE "^ +U _R.*$1\$" | grep -o '_R.*' | sort -u
}

# Compiles a file of this folder, not instrumented, and adds it to what is linked.
add() { # name [options]
    "$cc" -std=c99 -Wall -Wextra -Werror -O2 -g -fexceptions "${@:2}" -c "tests/sanitize/$1.c" -o "$build/$1.o" &&
        link=("$build/$1.o" "${link[@]}")
}

# The same with std_sync.c, which is compiled for this Rust's names.
add_std_sync() {
    local pair name names=()
    local wrapped=(-Wl,--wrap=__tsan_atomic64_fetch_sub -Wl,--wrap=__tsan_atomic_thread_fence -Wl,--wrap=connect)
    for pair in LOCK=5mutex5futex.*14lock_contended WAIT=7condvar5futex.*4wait \
        WAIT_TIMEOUT=7condvar5futex.*12wait_timeout ONCE=4once5futex.*4call; do
        name=$(std_name "${pair#*=}")
        if [ "$(wc -w <<<"$name")" -ne 1 ]; then
            echo "FAILED std_sync.c: its ${pair%%=*} is not in this Rust's standard library: \"$name\""
            return 1
        fi
        names+=("-DREAL_${pair%%=*}=\"__real_$name\"" "-DWRAP_${pair%%=*}=\"__wrap_$name\"")
        wrapped+=("-Wl,--wrap=$name")
    done
    add std_sync "${names[@]}" && link=("${wrapped[@]}" "${link[@]}")
}

# Faults must be reported, each by the words that belong to it; and what is no fault must not.
selftest() {
    local fault faults program=$build/selftest
    "$cc" -std=c99 -pedantic -Wall -Wextra -Werror "${compile[@]}" -pthread -Iinclude -c tests/sanitize/selftest.c \
        -o "$program.o" || return 1
    "$cc" -pthread "$program.o" "${link[@]}" "$library/liboyez.a" -lpthread -ldl -lm -o "$program" || return 1
    faults=$("$program" list "$sanitizer") && [ -n "$faults" ] || return 1
    for fault in $faults; do
        "$program" "$fault" >"$program.out" 2>&1
        if [ $? -eq 0 ] || ! grep -q "Sanitizer: ${fault%.*}" "$program.out"; then
            echo "FAILED selftest: $fault is not reported"
            cat "$program.out"
            return 1
        fi
    done
    if ! "$program" none >"$program.out" 2>&1 || [ -s "$program.out" ]; then
        echo "FAILED selftest: something is reported where nothing is wrong"
        head -n 60 "$program.out"
        return 1
    fi
    echo "selftest: each fault is reported:" $faults
}

# What was reported how often, and one whole report.
show_reports() {
    local reports
    mapfile -t reports < <(grep -lE '^SUMMARY|fatal error|CHECK failed' "$build"/reports/* 2>/dev/null)
    [ ${#reports[@]} -gt 0 ] || return 0
    echo "FAILED: ${#reports[@]} processes made reports, in $build/reports:"
    grep -hE '^SUMMARY|fatal error|CHECK failed' "${reports[@]}" | sort | uniq -c | sort -rn
    head -n 70 "${reports[0]}"
    return 1
}

compile=("-fsanitize=$sanitizer" -fno-omit-frame-pointer -O1 -g)
runtime=(-Wl,--export-dynamic -Wl,--whole-archive "${runtimes[0]}" -Wl,--no-whole-archive)
runtime+=(-lpthread -ldl -lm -lrt -lresolv)
link=("${runtime[@]}")
forms="shared static"
unable=""
rm -rf "$build/reports"
check_tools
build_library || exit 1
if [ "$sanitizer" = thread ]; then
    # The runtime itself has no more memory in the first. It does not know that sigaction(2) orders what was written
    # before it and the handler, which the second sees: plain words of src/sys/signal.rs.
    unable="the_address_space whichever_thread_serves"
    forms=static # std is led through std_sync.c where the program is linked
    add_std_sync || exit 1
    add one_thread || exit 1
    link=(-Wl,--wrap=fork "${link[@]}")
else
    unable=processes_by_other_numbers # its process can have no child, by which leaks are looked for
    add leaks || exit 1
fi
# Handlers that crash on purpose crash as ever. Tests fork with threads running.
common=handle_segv=0:handle_sigbus=0:handle_sigfpe=0:handle_abort=0:allocator_may_return_null=1
export ASAN_OPTIONS=$common:detect_stack_use_after_return=1:leak_check_at_exit=0
export TSAN_OPTIONS=$common:die_after_fork=0:second_deadlock_stack=1
if ! selftest; then
    echo "FAILED selftest of the $sanitizer sanitizer"
    exit 1
fi

# One at a time, since tests measure times. They write reports as other users too.
mkdir -p "$build/reports" && chmod 1777 "$build/reports"
ASAN_OPTIONS+=:log_path=$build/reports/of
TSAN_OPTIONS+=:log_path=$build/reports/of
export CHECK_SKIP=$unable CHECK_SLOWLY=${CHECK_SLOWLY:-5}
run_tests() { # output, settings...
    env JOBS="${JOBS:-1}" FORMS="$forms" CFLAGS="${compile[*]}" LDFLAGS="${link[*]}" "${@:2}" \
        tests/c/run.sh "$build/tests" "$library" >"$1" 2>&1 || code=1
    cat "$1"
}

code=0
run_tests "$build/tests.out"
if [ "$forms" = static ] && [ -z "${TESTS:-}${OYEZ_BACKEND:-}" ]; then
    # Above, their event servers had epoll.
    names=(tests/c/test_events*.c)
    names=("${names[@]#tests/c/}")
    run_tests "$build/tests_by_ring.out" OYEZ_BACKEND=io_uring TESTS="${names[*]%.c}"
fi
show_reports || code=1
echo "$sanitizer sanitizer: $(tail -qn 1 "$build"/tests*.out | paste -sd ';')"
exit $code
