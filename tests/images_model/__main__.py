"""`python -m tests.images_model`; with --deep larger cases too: half an hour, some gigabytes. With -v counterexamples."""

import gc
import sys

from tests.images_model.cases import CASES, DEEP, DEEP_WEAKENINGS, WEAKENINGS, Weakening
from tests.images_model.check import Found, check
from tests.images_model.state import Case


def main(*, deep: bool, verbose: bool) -> int:
    gc.disable()  # nothing of a search is garbage before it ends
    print("As it is: nothing may be wrong.")
    broken = [case for case in (*CASES, *(DEEP if deep else ())) if _holds(case).wrong]
    print("A rule left out: something must be wrong.")
    weakenings = (*WEAKENINGS, *(DEEP_WEAKENINGS if deep else ()))
    missed = [one for one in weakenings if not _caught(one, verbose=verbose).wrong]
    print(f"{len(broken)} cases are wrong; {len(weakenings) - len(missed)} of {len(weakenings)} weakenings are caught")
    return 1 if broken or missed else 0


def _holds(case: Case) -> Found:
    found = check(case)
    print(f"  {case.name:54} {_size(found)}  {found.wrong or 'holds'}", flush=True)
    for step in found.trace:
        print(f"      {step}")
    return found


def _caught(weakening: Weakening, *, verbose: bool) -> Found:
    found = weakening.check()
    kind = "versioned" if weakening.case.versioned else "unversioned"
    print(f"  {weakening.name:54} {kind:11} {_size(found)}  {found.wrong or 'NOT CAUGHT'}", flush=True)
    for step in found.trace if verbose else ():
        print(f"      {step}")
    return found


def _size(found: Found) -> str:
    return f"{found.states:9,} states {found.steps:10,} steps {found.seconds:6.1f} s"


if __name__ == "__main__":
    sys.exit(main(deep="--deep" in sys.argv[1:], verbose="-v" in sys.argv[1:]))
