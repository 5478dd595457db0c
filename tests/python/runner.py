"""Runs the tests of this folder, all or those named, and ends with one line that counts them.

The status is 0, or 3 after failures and where nothing ran; any other means that the run did not get to its end.
"""

import os
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))


class Result(unittest.TextTestResult):
    """Counts tests: one with three failing parts is one that failed."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.bad = set()
        self.unable = {}
        self.began = set()

    def startTest(self, test):
        self.began.add(test.id())
        super().startTest(test)

    def _fails(self, test):
        # What fails in a class or a module has no test of its own; it is counted by its name.
        self.bad.add(test.id())

    def addError(self, test, err):
        self._fails(test)
        super().addError(test, err)

    def addFailure(self, test, err):
        self._fails(test)
        super().addFailure(test, err)

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self._fails(test)
        super().addSubTest(test, subtest, err)

    def addUnexpectedSuccess(self, test):
        self._fails(test)
        super().addUnexpectedSuccess(test)

    def addSkip(self, test, reason):
        # A part that is skipped skips the test, as far as the count goes.
        self.unable[getattr(test, "test_case", test).id()] = reason
        super().addSkip(test, reason)


def main():
    sys.path.insert(0, HERE)
    loader = unittest.TestLoader()
    names = sys.argv[1:]
    suite = loader.loadTestsFromNames(names) if names else loader.discover(HERE, top_level_dir=HERE)
    result = unittest.TextTestRunner(verbosity=2, resultclass=Result).run(suite)
    skipped = {name: reason for name, reason in result.unable.items() if name not in result.bad}
    passed = result.began - result.bad - set(skipped)
    for name, reason in sorted(skipped.items()):
        print(f"skipped {name}: {reason}")
    for name in sorted(result.bad):
        print(f"failed {name}")
    sys.stderr.flush()
    print(f"python tests: {len(passed)} passed, {len(result.bad)} failed, {len(skipped)} skipped", flush=True)
    return 3 if result.bad or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
