"""Compares matrix.txt with the tests: no fault is missing, and each test that is named exists."""

import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROWS = {"A": 18, "B": 11, "C": 20, "D": 11, "E": 14, "F": 20, "G": 13, "H": 10, "I": 7, "J": 15, "K": 8}
LINE = re.compile(r"^([A-K]\d+)(?:-[A-K](\d+))? +([^|]+) \| (.+)$")
REASON = re.compile(r"^(pending|later|untested): .+")


def ids(first, last):
    letter, number = first[0], int(first[1:])
    return [f"{letter}{i}" for i in range(number, int(last or number) + 1)]


def is_there(file, case):
    path = HERE.parent / file
    if not path.exists():
        return False
    text = path.read_text()
    if path.suffix == ".py":
        return re.search(rf"def {case}\(", text) is not None
    if path.name.startswith("test_"):
        if "MODEL_CASES" in text:
            text += (path.parent / "models.h").read_text()
        return re.search(rf"CASES?(_WITHIN)?\((\d+, )?{case}\)", text) is not None
    return re.search(rf"^(static )?\w+ {case}\(", text, re.M) is not None


def check(text):
    """What is wrong with it, a line each, and how many rows there are of each kind."""
    found, wrong, kinds = set(), [], {"tested": 0, "pending": 0, "later": 0, "untested": 0}
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        match = LINE.match(line)
        if match is None:
            wrong.append(f"line {number} is no row: {line}")
            continue
        rows = ids(match[1], match[2])
        wrong += [f"{row} is there twice" for row in rows if row in found]
        found.update(rows)
        reason = REASON.match(match[4])
        kinds[reason[1] if reason else "tested"] += len(rows)
        for test in [] if reason else match[4].split(", "):
            if test.count(":") != 1 or not is_there(*test.split(":")):
                wrong.append(f"{match[1]}: there is no test {test}")
    wanted = {f"{letter}{i}" for letter, count in ROWS.items() for i in range(1, count + 1)}
    wrong += [f"{row} is missing" for row in sorted(wanted - found)]
    wrong += [f"{row} is no fault" for row in sorted(found - wanted)]
    return wrong, kinds


def main():
    text = (HERE / "matrix.txt").read_text()
    wrong, kinds = check(text)
    # It would notice: without a row, and with a test that is none.
    assert check(text.replace("A1  ", "#"))[0] and check(text.replace(":make_one", ":make_none"))[0]
    print("\n".join(wrong + [", ".join(f"{count} {kind}" for kind, count in kinds.items())]))
    return 1 if wrong else 0


sys.exit(main())
