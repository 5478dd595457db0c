#!/usr/bin/env bash
# Runs some of the C tests under valgrind: tests/c/valgrind.sh BUILD_DIR LIB_DIR
#
# BUILD_DIR is one that run.sh has filled. An invalid access, a use of undefined memory or a lost block fails the test
# it happened in, because each test is a process whose exit code valgrind then sets.
set -u

if [ $# -ne 2 ]; then
    echo "usage: $0 BUILD_DIR LIB_DIR" >&2
    exit 2
fi
if ! command -v valgrind >/dev/null; then
    echo "skipped valgrind: it is not installed (package valgrind)"
    exit 0
fi
build=$(cd "$1" && pwd) || exit 1
library=$(cd "$2" && pwd) || exit 1
tests=(test_arguments test_addresses test_errors test_connection)
failed=0

for name in "${tests[@]}"; do
    if [ ! -x "$build/$name.shared" ]; then
        echo "FAILED $name: not built; run tests/c/run.sh first"
        failed=1
        continue
    fi
    echo "== $name under valgrind"
    LD_LIBRARY_PATH=$library CHECK_SLOWLY=10 valgrind --quiet --leak-check=full \
        --errors-for-leak-kinds=definite --error-exitcode=99 --child-silent-after-fork=no \
        --log-file="$build/$name.valgrind.%p" "$build/$name.shared"
    if [ $? -ne 0 ]; then
        failed=1
        # Which system calls valgrind does not know is of no interest.
        cat "$build/$name".valgrind.* 2>/dev/null | grep '^==' | head -n 60
    fi
    rm -f "$build/$name".valgrind.*
done
exit $failed
