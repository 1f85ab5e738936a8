"""The rules for what clones wrote apart: the same whoever applies them and in whichever order, and nothing is lost."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pantheon import keys
from pantheon.merging import WORD, Claim, Operation, assign, canonical, choose, join_pulls, union_lines
from pantheon.names import is_night, next_night, night_order, night_tag
from pantheon.signing import ALLOWED_SIGNERS, REVOKED_KEYS

lines = st.lists(st.sampled_from([b'{"a":1}', b'{"b":2}', b"\xff", b'{"schema_version":9}', b"x"]), max_size=5)
notes = lines.map(lambda some: b"".join(line + b"\n" for line in some))


# --- notes ------------------------------------------------------------------------------------------------------------


@given(notes, notes, notes)
def test_a_union_of_lines_is_the_same_in_every_order_and_loses_none(a: bytes, b: bytes, c: bytes) -> None:
    assert union_lines(a, b) == union_lines(b, a)
    assert union_lines(union_lines(a, b), c) == union_lines(a, union_lines(b, c))
    assert union_lines(a, a) == a
    assert {*union_lines(a, b).splitlines()} == {*a.splitlines(), *b.splitlines()}


def test_a_line_without_an_end_gets_one() -> None:
    assert union_lines(b"b", b"a\n") == b"a\nb\n"
    assert union_lines(b"", b"a") == b"a"


texts = st.one_of(st.none(), st.sampled_from([b"one", b"two", b"three"]))


@given(texts, texts, texts)
def test_of_a_text_what_changed_wins_and_the_sides_are_alike(
    base: bytes | None, a: bytes | None, b: bytes | None
) -> None:
    found = choose(base, a, b)
    assert found == choose(base, b, a)
    assert found in (a, b)
    if a == base:
        assert found == b
    if a is not None and b is not None:
        assert found is not None


# --- PRs --------------------------------------------------------------------------------------------------------------


def item(run: str, verdict: str = "", reason: str = "") -> dict[str, Any]:
    return {
        "run": run,
        "item": run,
        "target": f"{run}.md",
        "dropped": bool(verdict),
        "verdict": verdict,
        "reason": reason,
    }


def record(*items: dict[str, Any], state: str = "open", revision: int = 1, **more: Any) -> dict[str, Any]:
    return {"id": 1, "branch": "pantheon/x/1", "state": state, "revision": revision, "items": list(items), **more}


BASE = record(item("a"), item("b"), item("c"))
verdicts = st.sampled_from(["", "dropped", "rejected", "never", "retry"])
records = st.builds(
    lambda words, state, revision, landed: record(
        *(item(run, word) for run, word in zip("abc", words, strict=True)),
        state=state,
        revision=revision,
        landed=landed,
    ),
    st.tuples(verdicts, verdicts, verdicts),
    state=st.sampled_from(["open", "accepted", "rejected", "superseded", "hovering"]),
    revision=st.integers(1, 3),
    landed=st.sampled_from(["", "1" * 40]),
)
sides = st.lists(st.builds(Operation, st.integers(1, 9), records), min_size=1, max_size=3).map(
    lambda some: sorted(some, key=lambda one: one.when)
)


@given(sides, sides)
def test_two_lines_of_operations_come_to_one_record_whoever_joins_them(a: list[Operation], b: list[Operation]) -> None:
    one, other = join_pulls(BASE, a, b), join_pulls(BASE, b, a)
    assert canonical(one.record) == canonical(other.record)
    assert (set(one.off), one.said) == (set(other.off), other.said)
    stands = (a, b)[one.first][-1].record
    assert one.record["state"] == stands["state"]
    assert [i["dropped"] for i in one.record["items"]] == [i["dropped"] for i in stands["items"]], (
        "the stack is its own"
    )


@given(sides)
def test_joined_with_itself_a_record_stays_as_it_is(a: list[Operation]) -> None:
    joined = join_pulls(BASE, a, a)
    assert (canonical(joined.record), joined.off, joined.said) == (canonical(a[-1].record), (), ())


def join(one: dict[str, Any], other: dict[str, Any], first: int = 1, second: int = 2) -> Any:
    return join_pulls(BASE, [Operation(first, one)], [Operation(second, other)])


def test_accepted_goes_before_rejected_and_both_before_open() -> None:
    accepted, rejected = (
        record(*BASE["items"], state="accepted", landed="1" * 40),
        record(*BASE["items"], state="rejected"),
    )
    joined = join(accepted, rejected)
    assert joined.record["state"] == "accepted"
    assert joined.record["landed"] == "1" * 40
    assert joined.said == ("it was accepted in one clone and rejected in another",)
    assert join(rejected, record(item("a", "dropped"), *BASE["items"][1:], revision=2)).record["state"] == "rejected"


def test_what_either_took_off_an_open_pr_is_to_leave_it() -> None:
    one = record(item("a", "dropped"), item("b"), item("c"), revision=2)
    other = record(item("a"), item("b", "never", "no"), item("c"), revision=2)
    joined = join(one, other)
    assert [off.run for off in joined.off] == ["a"], "the later side has the stack"
    assert joined.first == 1
    assert joined.said == ()
    assert join(one, other, first=3).off[0].verdict == "never"


def test_the_last_word_on_an_item_counts_and_a_contradiction_is_told() -> None:
    one, other = (record(item("a", word, word), item("b"), item("c"), revision=2) for word in ("rejected", "never"))
    for first, second, last in ((1, 2, "never"), (2, 1, "rejected")):
        joined = join(one, other, first, second)
        assert joined.record["items"][0]["verdict"] == last
        assert joined.record["items"][0]["reason"] == last
        assert joined.said == ("a.md was never and rejected",)


def test_what_a_newer_version_wrote_goes_through() -> None:
    newer = record(*BASE["items"], state="accepted", schema_version=7, weather={"wind": [1, 2]})
    joined = join(newer, record(*BASE["items"], state="rejected"))
    assert joined.record["weather"] == {"wind": [1, 2]}
    assert joined.record["schema_version"] == 7
    assert set(WORD) >= {"verdict", "reason"}


# --- names ------------------------------------------------------------------------------------------------------------

claims = st.lists(
    st.builds(
        Claim, st.text("abcdef", min_size=3, max_size=3), st.integers(1, 5), st.integers(1, 4),
        st.sampled_from(["pantheon/x/1", "pantheon/x/2", "pantheon/y/1", "pantheon/odd"]),
    ),
    max_size=8, unique_by=lambda claim: claim.root,
)  # fmt: skip


@given(claims, st.randoms(use_true_random=False))
def test_every_pr_gets_a_name_of_its_own_and_the_oldest_keeps_its_own(found: list[Claim], chance: Any) -> None:
    names = assign(found)
    assert len({number for number, _ in names.values()}) == len({branch for _, branch in names.values()}) == len(found)
    shuffled = list(found)
    chance.shuffle(shuffled)
    assert assign(shuffled) == names
    for claim in found:
        alike = [one for one in found if one.number == claim.number]
        if claim == min(alike, key=lambda one: (one.since, one.root)):
            assert names[claim.root][0] == claim.number
    again = [Claim(claim.root, claim.since, *names[claim.root]) for claim in found]
    assert assign(again) == names, "whoever has the names keeps them"


def test_a_number_in_the_archive_is_taken() -> None:
    assert assign([Claim("r", 1, 3, "pantheon/x/1")], {3, 9}) == {"r": (10, "pantheon/x/1")}


def test_ids_of_nights_sort_by_date_counter_and_clone() -> None:
    known = [
        "2026-11-27-2",
        "2026-11-27-10-a3f2",
        "2026-11-27-10",
        "2026-11-28-1-0000",
        "2026-11-27-10-a3f2-9999",
        "odd",
    ]
    assert sorted(known, key=night_order) == [
        "odd", "2026-11-27-2", "2026-11-27-10", "2026-11-27-10-a3f2", "2026-11-27-10-a3f2-9999", "2026-11-28-1-0000",
    ]  # fmt: skip
    assert [is_night(name) for name in known] == [True, True, True, True, True, False]
    assert not is_night("2026-11-27-0")
    assert not is_night("2026-11-27-1-A3F2")
    assert [night_tag(name) for name in known[:3]] == ["", "a3f2", ""]
    assert next_night("2026-11-27", known, "beef") == "2026-11-27-11-beef"
    assert next_night("2026-12-01", known, "") == "2026-12-01-1"


# --- keys -------------------------------------------------------------------------------------------------------------

KEY = b'pantheon namespaces="git"%s ssh-ed25519 AAAA%s\n'


ends_of = st.sampled_from([b"", b',valid-before="20260301000000Z"', b',valid-before="20260201000000Z"'])
shown = st.lists(st.tuples(ends_of, st.sampled_from([b"one", b"two"])), max_size=4)


@given(shown, st.data())
def test_keys_of_clones_come_together_and_none_is_trusted_longer(some: list[tuple[bytes, bytes]], data: Any) -> None:
    files = [{ALLOWED_SIGNERS: KEY % line, REVOKED_KEYS: b""} for line in some]
    empty = {ALLOWED_SIGNERS: b"", REVOKED_KEYS: b""}
    results = []
    for order in (files, data.draw(st.permutations(files))):
        held = empty
        for one in order:
            held = keys.united(held, one)
        results.append(held[ALLOWED_SIGNERS])
    assert results[0] == results[1]
    for name in {name for _, name in some}:
        ends = [end for end, other in some if other == name and end]
        found = [line for line in results[0].splitlines() if line.endswith(name)]
        assert len(found) == 1
        assert not ends or min(ends) in found[0]
