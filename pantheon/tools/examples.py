"""The check `examples` as a program: what the specs of the base say of the functions that a change brings.

    python -P -m pantheon.tools.examples --base DIR --rules FILE -- TARGET...

Runs in a clean export of the committed tree; DIR is an export of the base tree, whose specs count. The modules run in a
pytest of their own, in a copy of the tree without its tests and settings; a value counts only when its type is the
wanted one as well. When all is well the same examples run once more on functions without bodies, and must fail. One
line per function, `name: why`; of examples that were held out from the model it does not say which. Exit 0: all as
the specs say, 1: not so, 2: wrong usage.
"""

from __future__ import annotations

import re
import secrets
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from pantheon import testpaths
from pantheon.errors import ConfigError
from pantheon.tools import bodies, disk, specs, suite
from pantheon.tools.bodies import Example
from pantheon.tools.specs import Function, Spec, SpecRules
from pantheon.tools.tool import Tree

TIMEOUT_S = 20.0  # of one run
SHOWN = 3  # failed examples of a function
HELD_OUT = "an example that was held out gives another result"
_SAID = re.compile(r"^E\s+AssertionError: (\w+): (.*)$", re.MULTILINE)
_HEAD = '''
def same(one, other):
    """Equal, and of the same types all through."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other or (one != one and other != other)


def shown(value):
    return " ".join(repr(value).split())[:160]
'''
_TEST = """

def test_{name}_{number}():
{before}
    try:
        value = {call}
    except Exception as error:
        if type(error).__name__ == {raised!r}:
            return
        said = "raised " + type(error).__name__ + ": " + shown(str(error))
    else:
        if not {raised!r} and same(value, {want}):
            return
        said = "gave " + shown(value)
    raise AssertionError({label!r} + ({told!r} or {source!r} + " " + said + ", expected " + {expected!r}))
"""


def held_out(function: Function, rules: SpecRules) -> tuple[Example, ...]:
    """The examples that the model never sees: the last ones, where enough are left to learn from."""
    kept = max(3, len(function.examples) - rules.held_out)
    return function.examples[kept:]


def program(spec: Spec, functions: Iterable[Function], rules: SpecRules) -> str:
    """The tests that judge: one per example, silent about what was held out."""
    names = [function.name for function in functions]
    parts = [f"from {specs.dotted(spec.module, rules)} import {', '.join(names)}\n", _HEAD]
    for function in functions:
        hidden = held_out(function, rules)
        for number, one in enumerate(function.examples):
            *before, call = one.statements()
            parts.append(
                _TEST.format(
                    name=function.name,
                    number=number,
                    before=textwrap.indent("\n".join(before), "    "),
                    call=call,
                    raised=one.raised,
                    want="None" if one.raised else one.want,
                    label=f"{function.name}: ",
                    told=HELD_OUT if one in hidden else "",
                    source=call,
                    expected=one.raised or one.want,
                )
            )
    return "".join(parts)


def judge(spec: Spec, rules: SpecRules, files: suite.Files, bench: suite.Bench) -> Iterator[str]:
    """What the examples of one spec say of the tree `files`."""
    signatures = [one.signature for one in spec.functions]
    place = files.get(spec.module)
    raw = place.read_bytes() if isinstance(place, Path) else place
    state = bodies.states(raw, signatures)
    if isinstance(state, str):
        yield f"{spec.module} {state}"
        return
    there = [one for one in spec.functions if state[one.name] not in ("missing", "stub")]
    if there:
        assert raw is not None
        path, text = f"test_{secrets.token_hex(5)}.py", program(spec, there, rules).encode()
        report = bench.run({**files, path: text})
        wrong = list(_wrong(report, there))
        if not wrong:
            empty = bodies.stubbed(raw, [one.name for one in there])
            wrong = list(_pointless(bench.run({**files, spec.module: empty, path: text}), there))
        yield from wrong
    yield from (f"{name}: is not there yet" for name, now in state.items() if now in ("missing", "stub"))


def _wrong(report: suite.Report, there: Sequence[Function]) -> Iterator[str]:
    if report.fault or report.errors:
        yield report.fault or next(iter(report.errors.values()))
        return
    said: dict[str, list[str]] = {}
    for name, why in _SAID.findall(report.text):
        said.setdefault(name, []).append(why)
    for one in there:
        failed = [each for each, found in report.outcomes.items() if _is_of(each, one) and found != "passed"]
        if failed or sum(_is_of(each, one) for each in report.outcomes) != len(one.examples):
            told = list(dict.fromkeys(said.get(one.name, []))) or [f"{len(failed)} examples do not hold"]
            yield f"{one.name}: {'; '.join(told[:SHOWN])}"


def _pointless(report: suite.Report, there: Sequence[Function]) -> Iterator[str]:
    for one in there:
        if any(_is_of(each, one) and found == "passed" for each, found in report.outcomes.items()):
            yield f"{one.name}: an example holds without a body"


def _is_of(node: str, function: Function) -> bool:
    return node.rpartition("::")[2].rpartition("_")[0] == f"test_{function.name}"


def main(arguments: Sequence[str]) -> int:
    """Judge every spec that the targets belong to; the exit code."""
    words, targets = list(arguments), []
    if "--" in words:
        at = words.index("--")
        words, targets = words[:at], words[at + 1 :]
    options = dict(zip(words[::2], words[1::2], strict=False))
    if len(words) != 4 or options.keys() != {"--base", "--rules"}:
        print((__doc__ or "").split("\n\n")[1].strip(), file=sys.stderr)
        return 2
    try:
        rules = specs.parse(Path(options["--rules"]).read_bytes(), options["--rules"])
    except (OSError, ConfigError) as error:
        print(disk.shown(str(error)), file=sys.stderr)
        return 2
    base = Tree(frozenset(disk.walk(options["--base"])), partial(disk.read, options["--base"]))
    files = {path: place for path, place in suite.source_files(Path.cwd()).items() if _is_source(path)}
    bench = suite.Bench(TIMEOUT_S, tuple(rules.roots) or ("",))
    bad = False
    for spec in specs.specs_of(base, rules):
        if spec.module in targets or specs.tests_of(spec, rules, base)[0] in targets:
            for line in judge(spec, rules, files, bench):
                print(disk.shown(line))
                bad = True
    return 1 if bad else 0


def _is_source(path: str) -> bool:
    """Whether a file may be of use to the module: no test, and nothing that steers or sets up a test run."""
    return not (testpaths.is_test(path) or testpaths.steering(path) or path.rpartition("/")[2] in suite.INI_FILES)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
