#!/bin/sh
# Runs the Python tests: all, or those named ("run.sh test_serve.Threads").
#
#   PYTHON         the interpreter, 3.9 or later (python3)
#   OYEZ_LIBRARY   the library (target/release/liboyez.so)
#   OYEZ_EXAMPLES  the folder with the examples' executables (build/examples)
#   OYEZ_COMMAND   the command oyez; without it its tests are skipped

# The folder is changed below, so what is named from here is named from the root.
case ${OYEZ_LIBRARY:-/} in /*) ;; *) OYEZ_LIBRARY=$PWD/$OYEZ_LIBRARY ;; esac
case ${OYEZ_EXAMPLES:-/} in /*) ;; *) OYEZ_EXAMPLES=$PWD/$OYEZ_EXAMPLES ;; esac
case ${OYEZ_COMMAND:-/} in /*) ;; *) OYEZ_COMMAND=$PWD/$OYEZ_COMMAND ;; esac
PYTHONDONTWRITEBYTECODE=1
export OYEZ_LIBRARY OYEZ_EXAMPLES OYEZ_COMMAND PYTHONDONTWRITEBYTECODE
cd "$(dirname "$0")" || exit 1

"${PYTHON:-python3}" -W error::ResourceWarning runner.py "$@"
status=$?
case $status in
0) exit 0 ;;
3) exit 1 ;; # failures, which the runner has counted
esac
echo "python tests: 0 passed, 1 failed, 0 skipped (the run ended early, with status $status)"
exit 1
