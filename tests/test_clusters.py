"""Clusters: every finding in exactly one, largest first, the same each time, in linear time; scopes that are exact."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pantheon import clusters, drafts, tasks
from pantheon.errors import TaskError
from pantheon.records import Finding, Flow, FlowNode, Item, Repair, Task, TaskSpec

WHEN = datetime(2026, 3, 1, 9, tzinfo=UTC)
RULES = ("missing:title", "missing:tags", "missing:slug", "missing:uuid", "name", "mojibake")
NODES = (FlowNode(id="c", checks=("links", "body")), FlowNode(id="g", gate=True, inputs=("c",)))
FLOW = Flow.model_validate({"name": "docops", "nodes": NODES})


def broken(*rules: str, repair: Repair = Repair.CERTAIN) -> tuple[Finding, ...]:
    return tuple(Finding(rule=rule, message=f"{rule} is broken", repair=repair) for rule in rules)


names = st.text(st.sampled_from("ab.*?[]!#é -_1"), min_size=1, max_size=6).filter(lambda n: n not in (".", ".."))
paths = st.builds(
    lambda folders, name, ending: "/".join([*folders, name + ending]),
    st.lists(names, max_size=4),
    names,
    st.sampled_from((".md", ".py", "")),
)
found = st.dictionaries(
    st.sampled_from(("docops", "headers")),
    st.dictionaries(paths, st.lists(st.sampled_from(RULES), max_size=4, unique=True).map(lambda r: broken(*r))),
)


@given(found)
def test_every_file_that_breaks_something_is_in_exactly_one_cluster_of_each_flow(
    findings: dict[str, dict[str, tuple[Finding, ...]]],
) -> None:
    grouped = clusters.group(findings)
    for flow, files in findings.items():
        inside = [path for cluster in grouped if cluster.flow == flow for path in cluster.paths]
        assert sorted(inside) == sorted(path for path, each in files.items() if each)
    for cluster in grouped:
        assert cluster.count == len(cluster.paths) > 0
        kinds = clusters.kinds_of(findings[cluster.flow].values())
        assert set(cluster.rules) == {kinds[f.rule] for path in cluster.paths for f in findings[cluster.flow][path]}
        assert all(path.startswith(f"{cluster.directory}/" if cluster.directory else "") for path in cluster.paths)


@given(found, st.randoms(use_true_random=False))
def test_the_largest_comes_first_and_the_order_of_the_input_does_not_matter(
    findings: dict[str, dict[str, tuple[Finding, ...]]], chance: random.Random
) -> None:
    grouped = clusters.group(findings)
    assert [c.count for c in grouped] == sorted((c.count for c in grouped), reverse=True)
    shuffled = {flow: dict(chance.sample(list(files.items()), len(files))) for flow, files in findings.items()}
    assert clusters.group(shuffled) == grouped


def test_near_identical_sets_of_rules_are_one_cluster_and_others_are_not() -> None:
    files = {f"docs/{n}.md": broken("missing:title", "missing:tags", "missing:slug") for n in range(6)}
    files |= {f"docs/x{n}.md": broken("missing:title", "missing:tags") for n in range(5)}
    files |= {f"docs/y{n}.md": broken("mojibake") for n in range(5)}
    assert [(c.count, c.rules) for c in clusters.group({"docops": files})] == [
        (11, ("missing:tags", "missing:title", "missing:slug")),
        (5, ("mojibake",)),
    ]


def test_names_that_say_nothing_of_other_files_are_left_out() -> None:
    files = {f"lib/{n}.py": broken(f"missing-docstring:f{n}", f"missing-docstring:g{n}") for n in range(9)}
    assert [(c.count, c.rules) for c in clusters.group({"docstrings": files})] == [(9, ("missing-docstring",))]


def test_places_are_directories_with_enough_files_and_the_rest_stays_above() -> None:
    files = {f"docs/a/{n}.md": broken("name") for n in range(8)}
    files |= {f"docs/b/{n}.md": broken("name") for n in range(3)}
    files |= {f"docs/c/d/{n}.md": broken("name") for n in range(3)}
    files |= {"top.md": broken("name")}
    assert [(c.count, c.directory) for c in clusters.group({"docops": files})] == [(8, "docs/a"), (6, "docs"), (1, "")]


def test_what_only_a_person_can_repair_is_a_cluster_of_its_own() -> None:
    files = {"a.md": broken("unparsable", repair=Repair.REPORT), "b.md": broken("unparsable")}
    assert sorted((c.paths, c.by_hand) for c in clusters.group({"docops": files})) == [
        (("a.md",), True),
        (("b.md",), False),
    ]


def test_ten_thousand_files_take_about_linear_time() -> None:
    chance = random.Random(7)
    rules = [f"rule-{n}" for n in range(40)]

    def cost(count: int) -> float:
        files = {
            f"d{chance.randrange(300)}/e{chance.randrange(9)}/{n}.md": broken(*chance.sample(rules, 6))
            for n in range(count)
        }
        start = time.process_time()
        clusters.group({"docops": files})
        return time.process_time() - start

    cost(100)
    small, large = cost(1_000), cost(10_000)
    assert large < 5
    assert large < 40 * max(small, 0.02)


# --- functions that are alike ----------------------------------------------------------------------------------------

BODY = tuple(f"kind{n % 17}" for n in range(60))


def test_functions_that_differ_in_a_few_nodes_are_repetition_and_others_are_not() -> None:
    other = tuple(f"else{n % 5}" for n in range(60))
    shapes = [
        ("a.py", 1, "one", BODY),
        ("a.py", 9, "two", BODY),
        ("lib/b.py", 1, "three", (*BODY[:30], "x", *BODY[30:])),
    ]
    shapes += [("c.py", 1, "four", other), ("c.py", 9, "five", other), ("d.py", 1, "small", BODY[:5])]
    (cluster,) = clusters.repetitions(shapes)
    assert (cluster.count, cluster.flow, cluster.rules) == (3, "", ("repetition",))
    assert cluster.paths == ("a.py", "lib/b.py")
    assert cluster.examples == ("a.py:1: one", "a.py:9: two", "lib/b.py:1: three")


@given(st.lists(st.lists(st.sampled_from("abcdef"), min_size=45, max_size=60).map(tuple), max_size=12))
def test_a_function_is_in_at_most_one_repetition(shapes: list[tuple[str, ...]]) -> None:
    given = [("a.py", line, f"f{line}", shape) for line, shape in enumerate(shapes, 1)]
    grouped = clusters.repetitions(given)
    assert sum(cluster.count for cluster in grouped) <= len(given)
    assert clusters.repetitions(reversed(given)) == grouped


def test_thousands_of_shapes_that_all_share_a_key_are_compared_with_a_few_only() -> None:
    chance = random.Random(7)
    shapes = [("a.py", n, "f", (*BODY, *(f"t{chance.randrange(400)}" for _ in range(60)))) for n in range(4_000)]
    start = time.process_time()
    clusters.repetitions(shapes)
    assert time.process_time() - start < 20


# --- scopes and drafts -----------------------------------------------------------------------------------------------


def cannot_be_named(path: str, every: Sequence[str]) -> bool:
    """A name at the root matches at every depth, and what it matches there may have no pattern to take it out with."""
    twins = [other for other in every if other != path and path in other.split("/")]
    return not drafts.literal(path) or ("/" not in path and any(not drafts.literal(other) for other in twins))


@given(st.sets(paths, min_size=1, max_size=12), st.sets(paths, max_size=12), st.booleans())
@settings(max_examples=300)
def test_a_scope_matches_what_it_is_for_and_nothing_else(inside: set[str], outside: set[str], patterns: bool) -> None:
    outside -= inside
    made = drafts.exact(inside, outside, patterns=patterns)
    every = sorted(inside | outside)
    if made.scope:
        assert set(tasks.select(every, made.scope, made.exclude)) == inside - set(made.nameless)
    else:
        assert set(made.nameless) == inside


def test_a_whole_directory_is_named_by_a_pattern_where_that_is_exact() -> None:
    inside = {f"docs/{n}.md" for n in range(9)}
    assert drafts.exact(inside, {"spec/a.md"}).scope == ("docs/*.md",)
    assert drafts.exact({*inside, "docs/x/y.md"}, {"spec/a.md", "docs/x/y.py"}).scope == ("docs/**/*.md",)
    assert drafts.exact({"docs/a.md", "docs/b.md"}, {"docs/c.md"}).scope == ("docs/a.md", "docs/b.md")
    assert drafts.exact(inside, set(), patterns=False).scope == tuple(sorted(inside))


@given(found)
def test_drafts_are_tasks_and_the_same_cluster_is_the_same_draft(
    findings: dict[str, dict[str, tuple[Finding, ...]]],
) -> None:
    files = findings.get("docops", {})
    for cluster in clusters.group({"docops": files}):
        others = [path for path, each in files.items() if each and path not in cluster.paths]
        made = drafts.draft(cluster, FLOW, others, "docs/tasks", WHEN)
        if made is None:
            assert all(cannot_be_named(path, sorted(files)) for path in cluster.paths)
            continue
        task = tasks.parse(made.raw, made.path)
        assert task is not None
        assert task.spec is not None
        assert (task.status, task.uuid, task.slug, task.title) == ("draft", made.uuid, made.slug, made.title)
        broken_ = sorted(path for path, each in files.items() if each)
        assert tasks.select(broken_, task.spec.scope, task.spec.exclude) == made.targets
        assert [each.run for each in task.spec.acceptance] == ["links", "body"]
        again = drafts.draft(cluster, FLOW, others, "docs/tasks", WHEN.replace(year=2027))
        assert again is not None
        assert (again.uuid, again.path) == (made.uuid, made.path)


def test_a_draft_takes_no_task_file_for_a_target() -> None:
    files = {f"docs/tasks/{n}.md": broken("name") for n in range(6)}
    (cluster,) = clusters.group({"docops": files})
    made = drafts.draft(cluster, FLOW, (), "docs/tasks", WHEN)
    assert made is not None
    task = tasks.parse(made.raw, made.path)
    assert task is not None
    assert task.spec is not None
    assert tasks.select(["docs/tasks/another.md", made.path], task.spec.scope, task.spec.exclude) == ()


# --- the parts of a task ---------------------------------------------------------------------------------------------

PARENT = """---
uuid: "0f0e8a52-8a3e-4a7e-9a37-0f3b1f2f7c11"
title: "Tidy"          # mine
slug: "tidy"
status: "ready"
priority: "P1"
lastCommitSha: 4930e12
pantheon:
    # ours
    flow: docops
    scope: ["**/*.md"]
    exclude:
      - "inbox/**"
    standing: true
    max_diff_lines: 77
    acceptance:
      - run: "links"
---
Why.

## Items

- [ ] old
"""


def items_of(files: dict[str, tuple[Finding, ...]]) -> list[Item]:
    return [
        Item(id=f"{number:016x}", task="t", flow="docops", target=path, blob="", findings=each)
        for number, (path, each) in enumerate(sorted(files.items()))
        if each and drafts.literal(path)
    ]


@given(found, st.integers(1, 30), st.booleans())
def test_parts_are_a_partition_and_so_are_their_tasks(
    findings: dict[str, dict[str, tuple[Finding, ...]]], most: int, crlf: bool
) -> None:
    files = findings.get("docops", {})
    items = items_of(files)
    raw = PARENT.replace("\n", "\r\n").encode() if crlf else PARENT.encode()
    task = tasks.parse(raw, "docs/tasks/tidy.md")
    assert task is not None
    parts = drafts.split(task, items, most)
    assert sorted(item for part in parts for item in part.items) == sorted(item.id for item in items)
    assert all(0 < len(part.items) <= most for part in parts)
    taken: list[str] = []
    every = sorted(path for path, each in files.items() if each)
    for child in drafts.children(task, raw, items, parts, every):
        made = tasks.parse(child.raw, child.path)
        assert made is not None
        assert made.spec is not None
        assert tasks.select(every, made.spec.scope, made.spec.exclude) == child.targets
        assert (made.status, made.priority, made.spec.flow, made.spec.max_diff_lines) == ("ready", "P1", "docops", 77)
        assert not made.spec.standing
        taken += child.targets
    assert len(set(taken)) == len(taken)
    left = {item.target for item in items}.difference(taken)
    assert all(cannot_be_named(path, every) for path in left)


def test_a_child_keeps_what_is_the_parents_and_the_parent_waits_for_it() -> None:
    files = {f"docs/{n}.md": broken("name") for n in range(6)} | {f"spec/{n}.md": broken("name") for n in range(5)}
    items = items_of(files)
    raw = PARENT.encode()
    task = tasks.parse(raw, "docs/tasks/tidy.md")
    assert task is not None
    parts = drafts.split(task, items, 25)
    children = drafts.children(task, raw, items, parts, sorted(files))
    first = children[0]
    assert (
        first.raw.decode()
        == f"""---
uuid: "{first.uuid}"
title: "Tidy: name in docs/"          # mine
slug: "tidy-{first.uuid[:8]}"
status: "ready"
priority: "P1"
lastCommitSha: 4930e12
pantheon:
    # ours
    flow: docops
    scope: ["docs/0.md", "docs/1.md", "docs/2.md", "docs/3.md", "docs/4.md", "docs/5.md"]
    exclude: []
    max_diff_lines: 77
    acceptance:
      - run: "links"
---
Part 1 of 2 of `tidy`.
Why.

"""
    )
    parent = drafts.parent(task, raw, children).decode()
    assert f'    depends_on: ["{children[0].slug}", "{children[1].slug}"]\n---\n' in parent
    assert parent.endswith(
        f"## Parts\n\n- [{first.slug}]({first.slug}.md): 6 files\n"
        f"- [{children[1].slug}]({children[1].slug}.md): 5 files\n"
    )
    assert drafts.parent(task, parent.encode(), children) == parent.encode()


def test_items_become_a_list_in_the_body_once() -> None:
    items = items_of({"docs/a.md": broken("name", "mojibake")})
    task = Task(uuid="t", title="T", slug="t", status="ready", path="t.md", spec=TaskSpec(scope=("**",)))
    once = drafts.with_items(task, PARENT.encode(), items)
    assert once.decode() == PARENT.replace("- [ ] old", "- [ ] `docs/a.md`: name, mojibake")
    assert drafts.with_items(task, once, items) == once


def test_a_pantheon_block_on_one_line_is_refused_with_its_line() -> None:
    raw = b'---\nuuid: abcd\ntitle: "T"\nstatus: ready\npantheon: {scope: ["**"]}\n---\n'
    task = tasks.parse(raw, "t.md")
    assert task is not None
    with pytest.raises(TaskError, match=r"t\.md:5: its pantheon block must have one key per line"):
        drafts.parent(task, raw, ())
