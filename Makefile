# The one entry for everything. `make help` lists what there is.

CARGO ?= cargo
CC ?= cc
PYTHON ?= python3
BUILD := build
LIBRARY := target/release
EXAMPLES := $(patsubst examples-c/%.c,%,$(wildcard examples-c/*.c))
WARNINGS := -std=c99 -pedantic -Wall -Wextra -Werror

.PHONY: help demo test tools tools-test library command header examples errors-table check-format lint test-rust test-c \
	test-loops test-python test-docs test-torture torture test-fuzz fuzz valgrind sanitize sanitize-address sanitize-thread soak \
	soak-faults bench bench-quick faults faults-quick clean

help:
	@echo 'make demo      build the library and run the echo server of examples-c'
	@echo 'make test      format, lint, and every quick test (.ci/run calls it)'
	@echo 'make library   $(LIBRARY)/liboyez.so and liboyez.a'
	@echo 'make command   the command oyez, in $(BUILD)/oyez'
	@echo 'make examples  the programs of examples-c, in $(BUILD)/examples'
	@echo 'make header    write include/oyez.h again after a change of src/capi'
	@echo 'make errors-table  write docs/errors.md again after a change of what errors say (as root)'
	@echo 'make bench     measure against servers by hand and six libraries, and write BENCHMARKS.md; forty minutes'
	@echo 'make bench-quick  some of it, in two minutes; bench/run.py --help tells how to choose'
	@echo 'make faults    what faults do to oyez and to its peers, and write FAULTS.md; a quarter of an hour, best as root'
	@echo 'make faults-quick  the same with fewer times, in three minutes; bench/faults/run.py --help tells how to choose'
	@echo 'make valgrind  the C tests of arguments and connections under valgrind'
	@echo 'make sanitize  the C tests under the address and the thread sanitizer, then make valgrind'
	@echo 'make torture   every errno of every system call, every allocation that fails, and the rest of tests/torture; 10 minutes'
	@echo 'make fuzz      arbitrary inputs for FUZZ_SECONDS (60) a target; what reaches something new joins fuzz/corpus'
	@echo 'make soak      a day of short connections for each way of serving, in minutes; nothing may grow or be lost'
	@echo 'make soak-faults  half an hour of faults at random; nothing may grow, and nobody is lost who was not refused'

# What is missing is named with the Debian package that has it.
tools:
	@command -v $(CARGO) >/dev/null || { echo 'cargo is missing: install Rust 1.91 or newer with rustup' >&2; exit 1; }
	@command -v $(CC) >/dev/null || { echo 'a C compiler is missing: install the package gcc' >&2; exit 1; }
	@command -v $(PYTHON) >/dev/null || { echo 'python3 is missing: install the package python3' >&2; exit 1; }

library: tools
	$(CARGO) build --release

# In a folder of its own: with other features cargo would make the library again each time.
command: tools
	$(CARGO) build --release --features command --bin oyez --target-dir target/command
	@mkdir -p $(BUILD)
	@cp target/command/release/oyez $(BUILD)/oyez

examples: library
	@mkdir -p $(BUILD)/examples
	@for name in $(EXAMPLES); do \
	    $(CC) $(WARNINGS) -O2 -Iinclude examples-c/$$name.c -o $(BUILD)/examples/$$name \
	        -L$(LIBRARY) -loyez -Wl,-rpath,'$$ORIGIN/../../$(LIBRARY)' || exit 1; \
	done

demo: examples
	@exec $(BUILD)/examples/echo

header: tools
	OYEZ_WRITE_HEADER=1 $(CARGO) test --quiet --test header

errors-table: library
	CC='$(CC)' $(PYTHON) docs/errors/generate.py --library $(LIBRARY)

# The header is compiled as C++ too.
tools-test: tools
	@command -v g++ >/dev/null || { echo 'a C++ compiler is missing: install the package g++' >&2; exit 1; }

test: tools-test check-format lint test-rust test-c test-torture test-loops test-python test-docs test-fuzz

check-format: tools
	$(CARGO) fmt --check

lint: tools
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) clippy --features command --bin oyez -- -D warnings

test-rust: tools
	$(CARGO) test

test-c: library
	tests/c/run.sh $(BUILD)/c $(LIBRARY)

test-python: examples command
	OYEZ_LIBRARY=$(CURDIR)/$(LIBRARY)/liboyez.so OYEZ_EXAMPLES=$(CURDIR)/$(BUILD)/examples \
	    OYEZ_COMMAND=$(CURDIR)/$(BUILD)/oyez tests/python/run.sh

# Event servers inside libuv and libevent; one that is not installed is skipped (libuv1-dev, libevent-dev).
test-loops: library
	tests/loops/run.sh $(BUILD)/loops $(LIBRARY)

# What docs/errors.md shows is what is said now.
test-docs: library
	CC='$(CC)' $(PYTHON) docs/errors/generate.py --check --library $(LIBRARY)

# A part of it; TORTURE_SEED says which.
test-torture: library
	CC='$(CC)' PYTHON='$(PYTHON)' tests/torture/run.sh $(BUILD)/torture $(LIBRARY) quick

torture: library
	CC='$(CC)' PYTHON='$(PYTHON)' tests/torture/run.sh $(BUILD)/torture $(LIBRARY)

# Each target over its corpus, and then for some seconds. What a machine lacks is said, and counts as skipped.
test-fuzz: tools
	CARGO='$(CARGO)' fuzz/run.sh $(BUILD)/test-fuzz quick

fuzz: tools
	CARGO='$(CARGO)' fuzz/run.sh $(BUILD)/fuzz long

valgrind: library
	@test -x $(BUILD)/c/test_arguments.shared || tests/c/run.sh $(BUILD)/c $(LIBRARY)
	tests/c/valgrind.sh $(BUILD)/c $(LIBRARY)

# All of it by make -k sanitize. What a machine lacks is said, and counts as skipped.
sanitize: sanitize-address sanitize-thread valgrind

sanitize-address sanitize-thread: sanitize-%: tools
	CC='$(CC)' CARGO='$(CARGO)' tests/sanitize/run.sh $(BUILD)/sanitize/$* $*

soak: library
	CC='$(CC)' tests/soak/run.sh $(BUILD)/soak $(LIBRARY)

soak-faults: library
	ENTRIES=faults CC='$(CC)' tests/soak/run.sh $(BUILD)/soak $(LIBRARY)

bench: library
	CC='$(CC)' $(PYTHON) bench/run.py --library $(LIBRARY) --build $(BUILD)/bench

bench-quick: library
	CC='$(CC)' $(PYTHON) bench/run.py --quick --library $(LIBRARY) --build $(BUILD)/bench

faults: library
	CC='$(CC)' $(PYTHON) bench/faults/run.py --library $(LIBRARY) --build $(BUILD)/faults

faults-quick: library
	CC='$(CC)' $(PYTHON) bench/faults/run.py --quick --library $(LIBRARY) --build $(BUILD)/faults

clean:
	$(CARGO) clean
	rm -rf $(BUILD)
