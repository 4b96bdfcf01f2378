"""Which faults do the tests see? Small faults in the code, drawn by seed, each of which some test must notice.

    python tests/mutants.py --out results/mutants

A site is a node of a syntax tree: an operator, a constant, a condition or a statement that can be changed. As many are
drawn from each of five parts of the package. Each mutant meets the tests of `make test` and `make test-long` (and of
`make test-mpio`, where one part has its ring) that reach the changed statement, up to the first that fails; if none
does, the same tests in the whole matrix, that of `make test-full`.

Which tests reach a statement is found out first, in a run of them all under coverage. Mutants in what coverage does
not see, such as compiled code, meet the tests that reach anything in their module, or all if none does. Mutants in what
runs at import meet all: a test need not run a line of a module to look at its constants.

All of it happens in a clone of HEAD, one for each commit. The table is written after each mutant, and a second call
goes on from there.
A mutant that lives in the whole matrix needs a reason in `survivors.toml` beside the table; if it has none, or if only
the whole matrix has killed a mutant, the exit code is 1.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from coverage import Coverage, CoverageData

PARTS = {
    "transport": ("transport/*.py", "mpi/*.py"),
    "execution": ("executor/*.py", "executor/intranode/*.py", "schedule/program.py", "util/watchdog.py"),
    "plans and calls": ("collectives/*.py",),
    "checkpoint": ("checkpoint/*.py", "checkpoint/partner/*.py"),
    "train": ("train/*.py",),
}
LIMIT = 1800  # seconds for a ring


# --- sites and what can be changed there ---

OPPOSITE: dict[type[ast.AST], type[ast.AST]] = {
    one: other
    for pair in (
        (ast.Lt, ast.LtE),
        (ast.Gt, ast.GtE),
        (ast.Eq, ast.NotEq),
        (ast.In, ast.NotIn),
        (ast.Is, ast.IsNot),
        (ast.Add, ast.Sub),
        (ast.Mult, ast.FloorDiv),
        (ast.LShift, ast.RShift),
        (ast.BitAnd, ast.BitOr),
        (ast.And, ast.Or),
        (ast.Break, ast.Continue),
    )
    for one, other in (pair, pair[::-1])
}


def changed(node: ast.AST) -> ast.AST | None:
    """The node with one small fault, or None if it is no site."""
    fault = copy.deepcopy(node)
    match fault:
        case ast.Compare(ops=[op]) if type(op) in OPPOSITE:
            fault.ops = [OPPOSITE[type(op)]()]
        case ast.BinOp() | ast.BoolOp() if type(fault.op) in OPPOSITE:
            fault.op = OPPOSITE[type(fault.op)]()
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            return fault.operand
        case ast.Constant(value=bool(value)):
            fault.value = not value
        case ast.Constant(value=int(value)):
            fault.value = value + 1
        case ast.If() | ast.IfExp():
            fault.test = ast.UnaryOp(ast.Not(), fault.test)
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.AugAssign():
            return ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            return ast.Pass()
        case ast.Return(value=ast.expr()) if not isinstance(fault.value, ast.Constant):
            fault.value = ast.Constant(None)
        case ast.Break() | ast.Continue():
            return OPPOSITE[type(fault)]()
        case _:
            return None
    return fault


@dataclass(frozen=True)
class Site:
    """A node that can be changed, the statement it is in, and whether that runs when its module is imported."""

    node: ast.AST
    statement: ast.stmt
    at_import: bool


def sites(node: ast.AST, statement: ast.stmt | None = None, at_import: bool = True) -> Iterator[Site]:
    """All in a syntax tree but those in what only readers and type checkers look at."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        imported = at_import and not (name == "body" and isinstance(node, ast.FunctionDef))
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr):
                continue
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            around = child if isinstance(child, ast.stmt) else statement
            if changed(child):
                yield Site(child, around, imported)
            yield from sites(child, around, imported)


def with_fault(text: str, node: ast.AST) -> str:
    """The module with the node changed; of an `if`, only the condition is written anew."""
    old, new = node, changed(node)
    if isinstance(node, ast.If):
        old, new = node.test, new.test
    source = text.encode()
    lines = source.splitlines(keepends=True)
    start = sum(map(len, lines[: old.lineno - 1])) + old.col_offset
    stop = sum(map(len, lines[: old.end_lineno - 1])) + old.end_col_offset
    code = ast.unparse(new)
    if isinstance(new, ast.expr):
        code = f"({code})"
    return (source[:start] + code.encode() + source[stop:]).decode()


def head(statement: ast.stmt) -> range:
    """The lines of a statement without those of its body."""
    body = getattr(statement, "body", None)
    return range(statement.lineno, body[0].lineno if body else statement.end_lineno + 1)


@dataclass
class Mutant:
    """One fault, and what became of it."""

    part: str
    file: str  # below the repository's root
    first: int  # lines of the statement
    last: int
    before: str
    after: str
    at_import: bool
    reached_by: int = 0  # tests; 0 where coverage does not see
    killed_by: str = ""  # ring and test of `make test`
    killed_in_full: str = ""  # ring and test of the whole matrix
    seconds: float = 0.0
    met: str = ""  # "test" or "full": how far it has come; "" before it has met any test

    @property
    def name(self) -> str:
        """Unique."""
        return f"{self.file}:{self.first} {self.before} -> {self.after}"


def _first_line(node: ast.AST) -> str:
    return ast.unparse(node).splitlines()[0]


def drawn(root: Path, seed: int, each: int) -> list[tuple[Mutant, str]]:
    """(mutant, the changed module), `each` from every part."""
    chance = random.Random(seed)
    found = []
    for part, patterns in PARTS.items():
        files = sorted({path for pattern in patterns for path in (root / "hpcdist").glob(pattern)})
        texts = {path: path.read_text() for path in files}
        places = [(path, site) for path in files for site in sites(ast.parse(texts[path]))]
        for path, site in chance.sample(places, each):
            lines, words = head(site.statement), (_first_line(site.node), _first_line(changed(site.node)))
            mutant = Mutant(part, str(path.relative_to(root)), lines[0], lines[-1], *words, site.at_import)
            found.append((mutant, with_fault(texts[path], site.node)))
    return found


# --- rings of tests ---


@dataclass(frozen=True)
class Ring:
    """Tests that one call of make runs."""

    name: str
    target: str
    folders: tuple[str, ...]
    variables: tuple[str, ...] = ()


def _mpi(size: int) -> Ring:
    return Ring(f"mpi on {size}", "test-mpi", ("tests/mpi",), (f"SIZES={size}",))


def _device(size: int) -> Ring:
    return Ring(f"device on {size}", "test-device", ("tests/device",), (f"DEVICE_SIZES={size}", "AWARE_SIZES="))


def _aware(size: int) -> Ring:
    return Ring(f"device on {size}, aware", "test-device", ("tests/device",), ("DEVICE_SIZES=", f"AWARE_SIZES={size}"))


UNIT = Ring("unit", "test-unit", ("tests/unit",))
JOBS = Ring("jobs", "test-jobs", ("tests/crash", "tests/jobs"))
MPIO = Ring("mpio", "test-mpio", ("tests/mpio",))
ON_OTHER_SIZES = [_mpi(size) for size in (2, 1, 4, 5, 8)]
MEASURED = [UNIT, _mpi(3), _device(3), JOBS, MPIO]  # each test is in one of them
RINGS = {
    "test": [UNIT, _mpi(3), _device(3), *ON_OTHER_SIZES, _device(4), _aware(2), JOBS, MPIO],
    "full": [UNIT, _mpi(3), *(_device(size) for size in (2, 1, 4)), _aware(3), *ON_OTHER_SIZES, JOBS, MPIO],
}


class Clone:
    """A copy of HEAD, with an environment of its own, in which tests can be run."""

    def __init__(self, folder: Path):
        here = Path(__file__).parents[1]
        head = subprocess.check_output(["git", "-C", str(here), "rev-parse", "--short", "HEAD"], text=True).strip()
        self.commit, self.folder, self.root = head, folder / head, folder / head / "clone"
        if not self.root.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            subprocess.run(["git", "clone", "--quiet", str(here), str(self.root)], check=True)
            self.make("test-environment", "parallel-hdf5")

    def make(self, *arguments: str, **variables: str) -> tuple[int, str]:
        """(exit code, output) of make; 124 if it took too long."""
        command = ["timeout", "--kill-after=10", str(LIMIT), "make", "--no-print-directory", *arguments]
        environment = os.environ | {"HPCDIST_TEST_TIMEOUT": "60"} | variables
        log = self.folder / "output.txt"
        with log.open("w") as output:
            done = subprocess.run(command, cwd=self.root, env=environment, stdout=output, stderr=output, check=False)
        return done.returncode, log.read_text(errors="replace")

    def failure(self, ring: Ring, tests: list[str], matrix: str) -> str:
        """The test of a ring that fails first, or ""."""
        chosen = self.folder / "tests.txt"
        chosen.write_text("\n".join(("-x", *tests)))
        code, output = self.make(ring.target, f"TESTS=@{chosen}", f"MATRIX={matrix}", *ring.variables)
        named = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
        if named:
            return named[1]
        none_ran = re.search(r"^=* ?(no tests ran|\d+ deselected) in", output, re.MULTILINE)
        return "" if code == 0 or none_ran else "the ranks were ended"


# --- which tests reach a statement ---


def pytest_runtest_logstart(nodeid: str) -> None:
    """Of a plugin, which this file is while reach is measured: what runs from here on runs for this test."""
    if measuring := Coverage.current():
        measuring.switch_context(nodeid)


class Reach:
    """Folders, file, line -> the tests that reach it, found out in a run of `make test` under coverage."""

    def __init__(self, clone: Clone):
        self._tests: dict[tuple[tuple[str, ...], str, int], set[str]] = defaultdict(set)
        self._of_module: dict[tuple[tuple[str, ...], str], set[str]] = defaultdict(set)
        for ring in MEASURED:
            measured = clone.folder / "reach" / ring.target
            if not measured.exists():
                self._measure(clone, ring, measured)
            for path in measured.glob("data.*"):
                self._take(clone, ring, CoverageData(str(path)))

    def _measure(self, clone: Clone, ring: Ring, measured: Path) -> None:
        measured.mkdir(parents=True)
        settings = clone.folder / "coverage.ini"
        settings.write_text(
            f"[run]\nsource =\n  {clone.root}/hpcdist\nparallel = true\n"
            f"data_file = {measured}/data\ncontext = ${{PYTEST_CURRENT_TEST}}\n"
        )
        hooks = [site / "reach.pth" for site in clone.root.glob(".venv*/lib/python*/site-packages")]
        for hook in hooks:  # so that the jobs that tests start are measured, too
            hook.write_text("import coverage; coverage.process_startup()\n")
        clone.make(
            ring.target,
            *ring.variables,
            COVERAGE_PROCESS_START=str(settings),
            PYTEST_PLUGINS="mutants",
            PYTHONPATH=str(clone.root / "tests"),
            HPCDIST_TEST_TIMEOUT="600",
            LONG="",
        )
        for hook in hooks:
            hook.unlink()

    def _take(self, clone: Clone, ring: Ring, data: CoverageData) -> None:
        data.read()
        for file in data.measured_files():
            place = str(Path(file).relative_to(clone.root))
            for line, contexts in data.contexts_by_lineno(file).items():
                for context in contexts:
                    test = context.rpartition("|")[2].partition("[")[0].partition(" (")[0]
                    if "::" in test:
                        self._tests[ring.folders, place, line].add(test)
                        self._of_module[ring.folders, place].add(test)

    def of(self, mutant: Mutant, folders: tuple[str, ...]) -> set[str]:
        """Tests in these folders that reach the mutant's statement; what runs at import says nothing of them."""
        if mutant.at_import:
            return set()
        lines = range(mutant.first, mutant.last + 1)
        return set().union(*(self._tests[folders, mutant.file, line] for line in lines))

    def everywhere(self, mutant: Mutant) -> set[str]:
        """Tests that reach the mutant's statement."""
        return set().union(*(self.of(mutant, ring.folders) for ring in MEASURED))

    def chosen(self, mutant: Mutant, ring: Ring) -> list[str]:
        """What a ring is to run for a mutant: tests, or the whole ring."""
        if self.everywhere(mutant):
            return sorted(self.of(mutant, ring.folders))
        if not mutant.at_import and any(self._of_module[each.folders, mutant.file] for each in MEASURED):
            return sorted(self._of_module[ring.folders, mutant.file])
        return list(ring.folders)


def meet(mutant: Mutant, text: str, clone: Clone, reach: Reach, matrix: str) -> str:
    """The ring and test that kill the mutant, or ""."""
    path = clone.root / mutant.file
    sound = path.read_text()
    path.write_text(text)
    begun = time.monotonic()
    try:
        for ring in RINGS[matrix]:
            tests = reach.chosen(mutant, ring)
            if tests and (test := clone.failure(ring, tests, matrix)):
                return f"{ring.name}: {test}"
        return ""
    finally:
        path.write_text(sound)
        mutant.seconds += time.monotonic() - begun


# --- the table ---


def table(mutants: list[Mutant], reasons: dict[str, str], seed: int, commit: str) -> str:
    """All mutants of a commit as Markdown."""
    killed = sum(bool(mutant.killed_by) for mutant in mutants)
    only_full = sum(bool(mutant.killed_in_full) for mutant in mutants)
    alive = [mutant for mutant in mutants if mutant.met == "full" and not mutant.killed_in_full]
    open_ = len(mutants) - killed - only_full - len(alive)
    minutes = sum(mutant.seconds for mutant in mutants) / 60
    lines = [
        "# Mutants",
        "",
        f"Made by `make mutants` at commit {commit}, seed {seed}, in {minutes:.0f} minutes; to find out which test "
        f"reaches what comes before. Of {len(mutants)} mutants `make test` kills {killed}, the whole matrix alone "
        f"{only_full}; {len(alive)} live" + (f"; {open_} have not met all tests yet." if open_ else "."),
        "",
        "| part | place | before | after | tests that reach it | killed by | s |",
        "|---|---|---|---|---|---|---|",
    ]
    for mutant in mutants:
        fate = mutant.killed_by or (mutant.killed_in_full and f"whole matrix alone: {mutant.killed_in_full}")
        fate = fate or {"": "not met yet", "test": "lives in `make test`", "full": "**lives**"}[mutant.met]
        before, after = (f"`{text.replace('|', chr(92) + '|')}`" for text in (mutant.before[:70], mutant.after[:70]))
        reached = mutant.reached_by or "not seen by coverage"
        cells = (mutant.part, f"{mutant.file}:{mutant.first}", before, after, reached, fate)
        lines.append(f"| {' | '.join(map(str, cells))} | {mutant.seconds:.0f} |")
    lines += ["", "## Why those that live do no harm", ""]
    lines += [f"- `{mutant.name}`: {reasons.get(mutant.name, '**no reason is given**')}" for mutant in alive]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Go on with the table until all mutants are known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/mutants"), help="folder for the table")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir(), "hpcdist-mutants"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--each", type=int, default=8, help="mutants from each part of the package")
    options = parser.parse_args()

    options.out.mkdir(parents=True, exist_ok=True)
    known_path, reasons_path = options.out / "mutants.json", options.out / "survivors.toml"
    known = json.loads(known_path.read_text()) if known_path.exists() else {}
    reasons = tomllib.loads(reasons_path.read_text()) if reasons_path.exists() else {}
    clone = Clone(options.scratch)
    pairs = drawn(clone.root, options.seed, options.each)
    pairs = [(Mutant(**known.get(mutant.name, asdict(mutant))), text) for mutant, text in pairs]
    mutants = [mutant for mutant, _ in pairs]

    def keep() -> None:
        known_path.write_text(json.dumps({mutant.name: asdict(mutant) for mutant in mutants}, indent=1) + "\n")
        (options.out / "README.md").write_text(table(mutants, reasons, options.seed, clone.commit))

    reach = Reach(clone)
    for matrix in ("test", "full"):
        for mutant, text in pairs:
            if mutant.killed_by or mutant.met in (matrix, "full"):
                continue
            killer = meet(mutant, text, clone, reach, matrix)
            mutant.met, mutant.reached_by = matrix, len(reach.everywhere(mutant))
            if matrix == "test":
                mutant.killed_by = killer
            else:
                mutant.killed_in_full = killer
            print(f"{mutant.name}: {killer or 'lives'} ({mutant.seconds:.0f} s)", flush=True)
            keep()
    keep()
    return 0 if all(mutant.killed_by or mutant.name in reasons for mutant in mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
