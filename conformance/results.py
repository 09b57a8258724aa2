"""Selects tests, and reads what a run of them said."""

import collections
import dataclasses
import re
import sys


@dataclasses.dataclass
class Outcome:
    """How the tests of a list ended, each with what it said where it did not pass."""

    name: str
    passed: list
    failed: dict
    skipped: dict
    not_run: list

    def total(self):
        return len(self.passed) + len(self.failed) + len(self.skipped) + len(self.not_run)

    def add(self, other):
        """Takes what another part of the list came to."""
        self.passed += other.passed
        self.failed |= other.failed
        self.skipped |= other.skipped
        self.not_run += other.not_run

    def line(self):
        rest = f", {len(self.not_run)} not run" if self.not_run else ""
        return f"{self.name}: {len(self.passed)} passed, {len(self.failed)} failed, {len(self.skipped)} skipped{rest} of {self.total()}"


def bare(test):
    """A test's name without its attributes."""
    return test.split("[", 1)[0]


def select(listed, chosen, only, here):
    """The ids of a list's tests, of all that there are; names that no test has any more are told."""
    tests = sorted(line.strip() for line in listed if "." in line)
    if "names" in chosen:
        lines = (here / chosen["names"]).read_text().splitlines()
        wanted = {bare(line.strip()) for line in lines if line.strip() and not line.startswith("#")}
        for name in sorted(wanted - {bare(test) for test in tests}):
            print(f"not in this version of the suite: {name}", file=sys.stderr)
        tests = [test for test in tests if bare(test) in wanted]
    else:
        tests = [test for test in tests if re.search(chosen["select"], test)]
    return [test for test in tests if not only or re.search(only, test)]


def read(name, selected, work):
    """The outcome of a run from its subunit stream, be it cut short; writes failed.txt and skipped.txt beside it."""
    status, said = _stream(work / "run.subunit")
    outcome = Outcome(name, [], {}, {}, [])
    for test in selected:
        source = test
        if test not in status:
            # What a class says when it is set up holds for those of its tests that have no word of their own.
            source = f"setUpClass ({bare(test).rsplit('.', 1)[0]})"
        text = "".join(said.get(source, [])).strip()
        match status.get(source):
            case "success" | "xfail":
                outcome.passed.append(test)
            case "skip":
                outcome.skipped[test] = text.splitlines()[-1] if text else ""
            case None:
                outcome.not_run.append(test)
            case _:
                outcome.failed[test] = text
    for end in sorted(test for test, word in status.items() if test.startswith("tearDownClass") and word == "fail"):
        print(f"{name}: did not clean up: {end}", file=sys.stderr)
        outcome.failed[end] = "".join(said.get(end, []))
    (work / "failed.txt").write_text("".join(f"== {test}\n{text}\n\n" for test, text in outcome.failed.items()))
    (work / "skipped.txt").write_text("".join(f"{test}: {text}\n" for test, text in outcome.skipped.items()))
    return outcome


def _stream(path):
    import subunit
    import testtools

    status, said = {}, collections.defaultdict(list)

    class Collector(testtools.StreamResult):
        def status(self, test_id=None, test_status=None, file_name=None, file_bytes=None, **_):
            if test_id is None:
                return
            if test_status not in (None, "inprogress", "exists"):
                status[test_id] = test_status
            if file_bytes and file_name in ("traceback", "reason"):
                said[test_id].append(bytes(file_bytes).decode("utf-8", "replace"))

    with open(path, "rb") as stream:
        try:
            subunit.ByteStreamToStreamResult(stream, non_subunit_name="stdout").run(Collector())
        except Exception as error:  # whatever a stream that was cut raises
            print(f"the stream of results ends early: {error}", file=sys.stderr)
    return status, said
