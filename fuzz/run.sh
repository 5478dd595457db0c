#!/usr/bin/env bash
# Builds the targets of fuzz/src/bin and runs them: fuzz/run.sh BUILD_DIR quick|long|minimise [TARGET...]
#
#   quick     over the corpus, then for some seconds each; compiled in little time, without a sanitizer
#   long      for FUZZ_SECONDS (60) each, with the address sanitizer; inputs that reach something new go into the corpus
#   minimise  leaves in the corpus what is needed to reach every place of the code that it reaches
#
# The compiler is the stable one: that it counts what is reached are options of its own, as cargo-fuzz passes them, and
# for the sanitizer its unstable options are allowed. libFuzzer is compiled by the C++ compiler. A finding is a file in
# BUILD_DIR/findings and a failure. What a machine lacks is said, and counts as skipped. $CARGO, $JOBS (2), $SANITIZER
# (address or none).
set -u

if [ $# -lt 2 ] || [[ $2 != quick && $2 != long && $2 != minimise ]]; then
    echo "usage: $0 BUILD_DIR quick|long|minimise [TARGET...]" >&2
    exit 2
fi
mode=$2
mkdir -p "$1" || exit 1
build=$(cd "$1" && pwd)
shift 2
cd "$(dirname "$0")/.." || exit 1
root=$PWD
corpus=$root/fuzz/corpus
cargo=${CARGO:-cargo}
jobs=${JOBS:-2}
host=$(rustc -vV | sed -n 's/^host: //p')
if [ $# -gt 0 ]; then
    targets=("$@")
else
    targets=(fuzz/src/bin/*.rs)
    targets=("${targets[@]##*/}")
    targets=("${targets[@]%.rs}")
fi
if [ "$mode" = quick ]; then
    profile=quick seconds=${FUZZ_SECONDS:-4} sanitizer=${SANITIZER:-none}
else
    profile=release seconds=${FUZZ_SECONDS:-60} sanitizer=${SANITIZER:-address}
fi

skip() {
    echo "skipped: $*"
    echo "fuzz: 0 passed, 0 failed, ${#targets[@]} skipped"
    exit 0
}

flags="--cfg fuzzing -Cpasses=sancov-module"
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    flags+=" -Cllvm-args=-sanitizer-coverage-$option"
done
if [ "$sanitizer" != none ]; then
    flags+=" -Zsanitizer=$sanitizer -Cforce-frame-pointers=yes"
    export RUSTC_BOOTSTRAP=1
fi
folder=target/fuzz/$sanitizer
programs=$root/$folder/$host/$profile
export CARGO_PROFILE_RELEASE_DEBUG=1

build() { # arguments of cargo build
    RUSTFLAGS=$flags "$cargo" build --quiet --locked --manifest-path fuzz/Cargo.toml --profile "$profile" \
        --target "$host" --target-dir "$folder" -j "$jobs" "$@"
}

# What is missing here is no failure of oyez; what does not compile of it is one.
check_tools() {
    command -v "${CXX:-g++}" >/dev/null || skip "libFuzzer needs a C++ compiler: install the package g++"
    "$cargo" fetch --quiet --locked --manifest-path fuzz/Cargo.toml --target "$host" 2>"$build/fetch.out" ||
        skip "the crates of fuzz/Cargo.lock cannot be had here: $(tail -n 1 "$build/fetch.out")"
    echo 'pub fn probe() {}' >"$build/probe.rs"
    rustc $flags --crate-type lib --emit obj -o "$build/probe.o" "$build/probe.rs" 2>"$build/probe.out" ||
        skip "this Rust toolchain cannot count what is reached, or has no $sanitizer sanitizer: $(head -n 1 "$build/probe.out")"
    build -p libfuzzer-sys 2>"$build/libfuzzer.out" ||
        skip "libFuzzer cannot be compiled here: $(grep -m 1 error "$build/libfuzzer.out")"
}

# A target's own folder to work in, which is empty.
enter() { # target
    rm -rf "${build:?}/$1"
    mkdir -p "$build/$1/new" "$build/findings" "$corpus/$1" && cd "$build/$1"
}

# Names of functions are not asked for, as a process that tells them would be one that a target did not start.
run_libfuzzer() { # target, options and corpora...
    local target=$1 dictionary=$root/fuzz/dictionaries/$1
    shift
    [ -e "$dictionary" ] && set -- "-dict=$dictionary" "$@"
    timeout -s KILL $((seconds * 2 + 240)) "$programs/$target" -artifact_prefix="$build/findings/$target-" \
        -timeout=25 -max_len=600 -len_control=30 -print_funcs=0 -detect_leaks=0 -print_final_stats=1 "$@" >"$build/$target/out" 2>&1
}

# What libFuzzer reports, without what the target printed by oyez_perror().
show() { # target
    echo "FAILED $1"
    grep -av -e '^perror: ' -e '^  hint: ' "$build/$1/out" |
        grep -a -m 1 -A 30 -e panicked -e 'ERROR:' -e '^SUMMARY' -e 'error while' || tail -n 20 "$build/$1/out"
    local found
    found=$(sed -n 's/.*Test unit written to //p' "$build/$1/out" | tail -n 1)
    [ -n "$found" ] && echo "the input is $found; again: $programs/$1 $found"
}

run_target() { # target
    enter "$1" || return 1
    if ! run_libfuzzer "$1" -max_total_time="$seconds" "$build/$1/new" "$corpus/$1"; then
        show "$1"
        return 1
    fi
    grep -aE '^#[0-9]+.*cov: ' out | sed -n "1,/INITED/{/INITED/s/^/$1: /p}; \${s/^/$1: /p}"
    grep -aE 'average_exec_per_sec|number_of_executed' out | sed "s/^/$1: /"
    [ "$mode" = quick ] || run_libfuzzer "$1" -merge=1 -use_counters=0 "$corpus/$1" "$build/$1/new" || { show "$1"; return 1; }
}

minimise() { # target
    enter "$1" || return 1
    run_libfuzzer "$1" -set_cover_merge=1 -use_counters=0 "$build/$1/new" "$corpus/$1" || { show "$1"; return 1; }
    rm -rf "${corpus:?}/$1"
    cp -r "$build/$1/new" "$corpus/$1"
    echo "$1: $(ls "$corpus/$1" | wc -l) inputs, $(cat "$corpus/$1"/* | wc -c) bytes"
}

one() { # target
    if [ "$mode" = minimise ]; then minimise "$1"; else run_target "$1"; fi
    echo $? >"$build/$1/code"
}

check_tools
bins=()
for target in "${targets[@]}"; do
    bins+=(--bin "$target")
    mkdir -p "$build/$target"
    echo 1 >"$build/$target/code"
done
if ! build "${bins[@]}"; then
    echo "fuzz: 0 passed, ${#targets[@]} failed, 0 skipped"
    exit 1
fi
for target in "${targets[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    (one "$target") &
done
wait
passed=0
for target in "${targets[@]}"; do
    [ "$(cat "$build/$target/code")" = 0 ] && passed=$((passed + 1))
done
echo "fuzz: $passed passed, $((${#targets[@]} - passed)) failed, 0 skipped"
[ "$passed" -eq ${#targets[@]} ]
