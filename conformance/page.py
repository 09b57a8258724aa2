"""The results that are kept in the repository: results.json, and docs/conformance.md made from it."""

import collections
import json
import re
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
KEPT = HERE / "results.json"
PAGE = HERE.parent / "docs/conformance.md"

HEAD = """# Conformance

The originals' own test suites, unmodified, against madang. Made by `make conformance`; `conformance/README.md` says how.

| list | what | passed | failed | skipped | of |
|---|---|---:|---:|---:|---:|
"""


def keep(outcome):
    """Writes down how a list ended."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    kept[outcome.name] = {
        "passed": len(outcome.passed),
        "failed": {_short(test): _last_line(text) for test, text in sorted(outcome.failed.items())},
        "skipped": {_short(test): text for test, text in sorted(outcome.skipped.items())},
        "not_run": [_short(test) for test in sorted(outcome.not_run)],
    }
    KEPT.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def write():
    """Makes the page anew from what is kept."""
    lists = tomllib.loads((HERE / "lists.toml").read_text())
    reasons = tomllib.loads((HERE / "reasons.toml").read_text())["reasons"]
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    text = HEAD
    for name in (name for name in lists if name in kept):
        one = kept[name]
        counts = [one["passed"], len(one["failed"]) + len(one["not_run"]), len(one["skipped"])]
        text += f"| `{name}` | {lists[name]['title']} | {' | '.join(map(str, counts))} | {sum(counts)} |\n"
    for name in (name for name in lists if name in kept):
        text += _details(name, kept[name], reasons)
    PAGE.write_text(text)


def _details(name, one, reasons):
    text = ""
    failed = {**one["failed"], **dict.fromkeys(one["not_run"], "not run within the time")}
    if failed:
        text += f"\n## {name}: what fails\n\n"
        for test, said in failed.items():
            text += f"- `{test}`: {_reason(test, reasons) or f'not explained yet; it says: {said}'}\n"
    if one["skipped"]:
        text += f"\n## {name}: what is skipped\n\n"
        by_reason = collections.defaultdict(list)
        for test, said in one["skipped"].items():
            by_reason[_reason(test, reasons) or said].append(test)
        for reason, tests in sorted(by_reason.items(), key=lambda pair: -len(pair[1])):
            text += f"- {len(tests)}: {reason}\n"
    return text


def _reason(test, reasons):
    """Why a test fails or is skipped, in our words, where we have found out."""
    return next((reason["why"] for reason in reasons if re.search(reason["tests"], test)), None)


def _short(test):
    return test.split("[", 1)[0]


def _last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
