"""``python3 dev.py mutants [analysis|policy|checkpoints|statements ...]``: break the code, one place at a time, and see
whether a test fails. Ends with 1 when a mutant survives that ``accepted.toml`` does not list (``docs/mutants.md``).
"""

import argparse
import contextlib
import fnmatch
import json
import queue
import sys
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from tools.mutation.database import clean, throwaway
from tools.mutation.mutants import Mutant, mutants_of
from tools.mutation.runner import ROOT, BaselineFailed, Tests, Tree, files_of, tree
from tools.mutation.targets import TARGETS, Target

ACCEPTED = Path(__file__).with_name("accepted.toml")
REPORTS = ROOT / "reports" / "mutants"
COLUMNS = ("mutants", "killed", "timed out", "accepted", "survived", "unreached")
Key = tuple[str, str, str]


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev.py mutants", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"one of {', '.join(TARGETS)}; all by default")
    parser.add_argument(
        "--only", metavar="GLOB", help="only files or functions that match, as '*damage.py' or '_agree'"
    )
    parser.add_argument("--again", action="store_true", help="only the survivors that the last run reported")
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    parser.add_argument("--jobs", type=int, default=1, help="copies of the tree that work side by side")
    chosen = parser.parse_args()
    unknown = set(chosen.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}: there are {', '.join(TARGETS)}")
    accepted = read_accepted()
    table: dict[str, Counter[str]] = {}
    met: set[Key] = set()
    alive: list[Mutant] = []
    for name in chosen.targets or TARGETS:
        target = TARGETS[name]
        wanted = select(target, chosen.only, survivors(name) if chosen.again else None)
        if chosen.list:
            print(*(describe(mutant) for mutant in wanted), sep="\n")
            continue
        try:
            found = run(name, target, wanted, chosen.jobs, set(accepted))
        except BaselineFailed as error:
            print(f"the tests of {name} fail without any mutant:\n{error}", file=sys.stderr)
            return 2
        met |= {mutant.key for mutant in wanted}
        table[name] = Counter(outcome for _, outcome in found)
        alive += [mutant for mutant, outcome in found if outcome in ("survived", "unreached")]
    if chosen.list:
        return 0
    show(table, alive)
    if not (chosen.only or chosen.again or chosen.targets):
        for key in sorted(set(accepted) - met):
            print(f"accepted.toml lists a mutant that there is no more: {key}")
    return 1 if alive else 0


def read_accepted() -> dict[Key, str]:
    """Mutants that may live -> why."""
    listed = tomllib.loads(ACCEPTED.read_text(encoding="utf-8")).get("accepted", [])
    return {(m["in"], m["was"], m["becomes"]): group["why"] for group in listed for m in group["mutants"]}


def survivors(name: str) -> set[Key]:
    report = REPORTS / f"{name}.jsonl"
    found = [json.loads(line) for line in report.read_text().splitlines()] if report.is_file() else []
    return {(m["where"], m["was"], m["becomes"]) for m in found if m["outcome"] in ("survived", "unreached")}


def select(target: Target, only: str | None, keys: set[Key] | None) -> list[Mutant]:
    found = []
    for file in files_of(target.sources, target.not_sources):
        for mutant in mutants_of(ROOT, file):
            named = only is None or any(fnmatch.fnmatch(name, only) for name in (mutant.file, mutant.where))
            if named and (keys is None or mutant.key in keys):
                found.append(mutant)
    return found


def describe(mutant: Mutant) -> str:
    return f"{mutant.file}:{mutant.line} {mutant.where} ({mutant.operator})\n  - {mutant.was}\n  + {mutant.becomes}"


def run(name: str, target: Target, wanted: list[Mutant], jobs: int, accepted: set[Key]) -> list[tuple[Mutant, str]]:
    """Outcomes of all mutants, which go into the report as they come."""
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(throwaway()) if target.database else None
        environment = {"TESTS_POSTGRES": url} if url else {}
        trees = [stack.enter_context(tree(environment)) for _ in range(max(1, min(jobs, len(wanted))))]
        tests = trees[0].baseline(target)
        print(
            f"{name}: {len(wanted)} mutants, {len(tests.seconds)} tests, {time.monotonic() - started:.0f} s to begin",
            flush=True,
        )
        REPORTS.mkdir(parents=True, exist_ok=True)
        found = []
        with (REPORTS / f"{name}.jsonl").open("w") as report:
            for mutant, outcome in outcomes(trees, wanted, tests, url):
                if outcome in ("survived", "unreached") and mutant.key in accepted:
                    outcome = "accepted"
                found.append((mutant, outcome))
                line = {key: value for key, value in asdict(mutant).items() if key != "text"} | {"outcome": outcome}
                report.write(json.dumps(line) + "\n")
                report.flush()
                if outcome in ("survived", "unreached"):
                    print(f"{outcome}: {describe(mutant)}", flush=True)
    print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    return found


def outcomes(trees: list[Tree], wanted: list[Mutant], tests: Tests, url: str | None) -> Iterator[tuple[Mutant, str]]:
    """As they come, from all trees."""
    waiting: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[Mutant, str] | BaseException] = queue.SimpleQueue()
    for mutant in wanted:
        waiting.put(mutant)

    def work(of: Tree) -> None:
        try:
            while True:
                mutant = waiting.get_nowait()
                done.put((mutant, of.outcome(mutant, tests)))
                if url and len(trees) == 1:
                    clean(url)
        except queue.Empty:
            pass
        except BaseException as error:  # noqa: BLE001  handed to the main thread, which raises it
            done.put(error)

    for one in trees:
        threading.Thread(target=work, args=(one,), daemon=True).start()
    for _ in wanted:
        found = done.get()
        if isinstance(found, BaseException):
            raise found
        yield found


def show(table: dict[str, Counter[str]], alive: list[Mutant]) -> None:
    print("\n" + "".join(f"{column:>14}" for column in ("", *COLUMNS)))
    for name, count in table.items():
        numbers = [count.total(), *(count[column] for column in COLUMNS[1:])]
        print(f"{name:>14}" + "".join(f"{number:>14}" for number in numbers))
    if alive:
        print("\nNot listed in accepted.toml; kill them with a test, or list them there with the reason:")
    for mutant in alive:
        parts = {"in": mutant.where, "was": mutant.was, "becomes": mutant.becomes}
        said = ", ".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in parts.items())
        print(f"  {{ {said} }},")


if __name__ == "__main__":
    sys.exit(main())
