"""Targets across renames: what joins names, what is held out, and every way to smuggle a held-out target in."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from conftest import MakeRepo, git, write_files
from hypothesis import given
from hypothesis import strategies as st

from pantheon.config import TrainingSettings
from pantheon.errors import RepositoryError
from pantheon.families import DEV, HELD_OUT, Common, Families, Likeness, fold, place, shingles
from pantheon.git import Repo
from pantheon.training import lineage

PATHS = st.text("abcAB/.é", min_size=1, max_size=5)
EDGES = st.lists(st.tuples(PATHS, PATHS), max_size=12)
SETTINGS = TrainingSettings()
WORDS = [
    f"{start}{end}" for start in "bdfghklmnprst" for end in ("arn", "elt", "ilo", "ond", "ury", "ax", "eps", "int")
]


def prose(seed: int, count: int = 150) -> str:
    """A text of its own."""
    dice = random.Random(seed)
    words = [dice.choice(WORDS) for _ in range(count)]
    return "\n".join(" ".join(words[at : at + 9]) for at in range(0, count, 9)) + "\n"


def edited(text: str, share: float, seed: int = 1) -> str:
    """The text with a share of its lines written anew."""
    dice = random.Random(seed)
    lines = text.splitlines()
    for at in dice.sample(range(len(lines)), int(share * len(lines))):
        lines[at] = " ".join(dice.choice(WORDS) + "x" for _ in range(9))
    return "\n".join(lines) + "\n"


def named(held: bool, folder: str = "docs", count: int = 1, start: int = 0) -> list[str]:
    """Names that are held out by themselves, or that are not."""
    names = (f"{folder}/n{number}.md" for number in range(start, 10_000))
    return [name for name in names if (place(name, HELD_OUT) < SETTINGS.held_out) is held][:count]


# --- names -----------------------------------------------------------------------------------------------------------


def test_a_family_is_what_renames_and_copies_join_and_goes_by_its_oldest_name() -> None:
    known = Families([("a.md", "b.md"), ("b.md", "c/b.md"), ("x.md", "y.md"), ("a.md", "copy.md")])
    assert known.names("c/b.md") == ("a.md", "b.md", "c/b.md", "copy.md")
    assert {known.family(name) for name in ("a.md", "b.md", "c/b.md", "copy.md")} == {"a.md"}
    assert known.family("y.md") == "x.md"
    assert known.names("never/moved.md") == ("never/moved.md",)
    assert len(known) == 2


def test_the_share_of_names_that_are_held_out_is_about_the_one_asked_for() -> None:
    names = [f"docs/{number}.md" for number in range(4000)]
    known = Families()
    assert 0.22 < sum(known.held_out(name, 0.25) for name in names) / 4000 < 0.28
    both = sum(known.held_out(name, 0.25) and known.dev(name, 0.1) for name in names)
    assert 60 < both < 140, "the two salts are independent"
    assert place("docs/a.md", HELD_OUT) != place("docs/a.md", DEV)


def test_the_hash_never_changes() -> None:
    assert place("docs/oven.md", HELD_OUT) == pytest.approx(0.6872900260, abs=1e-9)
    assert place("docs/oven.md", DEV) == pytest.approx(0.7884270934, abs=1e-9)


@given(EDGES, PATHS, PATHS)
def test_no_rename_takes_a_target_out_of_what_is_held_out(edges: list[tuple[str, str]], old: str, new: str) -> None:
    before, after = Families(edges), Families([*edges, (old, new)])
    for path in {old, new, *(one for edge in edges for one in edge)}:
        if before.held_out(path, 0.3):
            assert after.held_out(path, 0.3)
    assert after.family(old) == after.family(new)
    assert after.held_out(old, 0.3) == after.held_out(new, 0.3)


@given(EDGES)
def test_the_order_of_renames_does_not_change_who_belongs_together(edges: list[tuple[str, str]]) -> None:
    one, two = Families(edges), Families(reversed(edges))
    for old, new in edges:
        assert set(one.names(old)) == set(two.names(new))
        assert one.family(old) in one.names(new)


def test_letter_case_and_accents_make_no_new_target() -> None:
    known = Families([("docs/Été.md", "docs/b.md")])
    assert known.family("DOCS/E\u0301TE\u0301.md") == "docs/Été.md"
    assert fold("Docs/README.md") == fold("docs/readme.MD")
    (held,) = named(True)
    assert Families().held_out(held.upper(), SETTINGS.held_out)


def test_what_was_learned_from_cannot_measure_under_any_of_its_names() -> None:
    known = Families([("a.md", "b.md"), ("b.md", "c.md")])
    assert known.met("c.md", ["b.md"]), "an older history knew it by another name"
    assert known.met("A.md", ["c.md"])
    assert not known.met("d.md", ["a.md", "b.md"])
    assert not known.met("d.md", [])


# --- texts -----------------------------------------------------------------------------------------------------------


def likeness(*texts: str) -> Likeness:
    found = Likeness()
    for text in texts:
        found.add(text)
    return found


def test_a_text_is_like_another_when_much_of_it_is_the_same() -> None:
    known = likeness(prose(1), prose(2))
    assert known.alike(prose(1))
    assert known.alike(edited(prose(1), 0.45))
    assert known.alike(prose(2).upper().replace("\n", "  \n\n"))
    assert not known.alike(edited(prose(1), 0.8))
    assert not known.alike(prose(3))
    assert not known.alike("")


def test_a_text_that_holds_a_known_one_or_lies_in_one_is_like_it() -> None:
    known = likeness(prose(1))
    assert known.alike(prose(1) + prose(5, 1500)), "a prompt shows the beginning"
    assert known.alike("".join(prose(1).splitlines(keepends=True)[4:9]))


def test_what_stands_in_many_texts_makes_no_two_alike() -> None:
    licence = prose(9, 200)
    texts = [licence + prose(number, 80) for number in range(20, 60)]
    known = Likeness(Common(texts))
    for text in texts[:10]:
        known.add(text)
    assert known.alike(texts[3])
    assert not known.alike(texts[30])
    assert not likeness(texts[0]).alike(prose(77))
    assert likeness(texts[0]).alike(texts[30]), "without knowing what is common, they are"
    bare = Likeness(Common(texts))
    bare.add(licence)
    assert bare.alike(licence), "where nothing else is left, all of it counts"


def test_a_few_words_are_like_the_same_few_words_only() -> None:
    known = likeness("To do", prose(1))
    assert known.alike("to do!")
    assert not known.alike("To be done")
    assert not known.alike(" ".join(prose(1).split()[3:6])), "three words of a long text say nothing"


@given(st.text(max_size=200))
def test_any_text_is_like_itself(text: str) -> None:
    assert likeness(text).alike(text) == bool(shingles(text))


def test_thousands_of_texts_are_compared_in_seconds() -> None:
    texts = [prose(number, 200) for number in range(2000)]
    started = time.process_time()
    known = Likeness(Common(texts))
    for text in texts[:500]:
        known.add(text)
    assert sum(map(known.alike, texts)) == 500
    assert time.process_time() - started < 20


# --- history ---------------------------------------------------------------------------------------------------------


def commit(root: Path, files: dict[str, str | None]) -> str:
    for name, text in files.items():
        if text is None:
            git("rm", "-q", "-f", "--ignore-unmatch", name, cwd=root)
    write_files(root, {name: text for name, text in files.items() if text is not None})
    git("add", "-A", cwd=root)
    git("commit", "-q", "-m", "more", cwd=root)
    return git("rev-parse", "HEAD", cwd=root).strip()


def lineage_of(root: Path, *results: str) -> lineage.Lineage:
    repo = Repo.discover(root)
    return lineage.read(repo, repo.head().commit, SETTINGS, results)


def out(root: Path, path: str, *results: str) -> tuple[bool, bool]:
    """Whether a target is held out by its names, and by its text."""
    found = lineage_of(root, *results)
    known = found.likeness({".md"})
    return found.held_out(path), known.alike((root / path).read_text())


OLD = named(True)[0]
NEW, OTHER, THIRD = named(False, count=3)


def test_a_held_out_target_that_was_renamed_with_edits_stays_held_out(make_repo: MakeRepo) -> None:
    root = make_repo({OLD: prose(1), NEW: prose(2)})
    assert out(root, NEW) == (False, False)
    commit(root, {OLD: None, OTHER: edited(prose(1), 0.5)})
    assert out(root, OTHER)[0]
    assert out(root, NEW) == (False, False)


def test_in_two_steps_and_with_nothing_left_of_its_text(make_repo: MakeRepo) -> None:
    root = make_repo({OLD: prose(1), THIRD: prose(2)})
    commit(root, {OLD: None, NEW: edited(prose(1), 0.25)})
    commit(root, {NEW: prose(3)})
    commit(root, {NEW: None, OTHER: edited(prose(3), 0.25)})
    assert out(root, OTHER)[0]
    assert lineage_of(root).families.family(OTHER) == OLD


def test_through_a_copy_beside_it(make_repo: MakeRepo) -> None:
    root = make_repo({OLD: prose(1), THIRD: prose(2)})
    commit(root, {NEW: edited(prose(1), 0.1)})
    assert out(root, NEW) == (False, True), "git does not look for copies of what did not change; its text tells"
    commit(root, {OLD: prose(1) + "more\n", OTHER: prose(1)})
    assert out(root, OTHER)[0]


def test_deleted_and_added_again_under_another_name(make_repo: MakeRepo) -> None:
    root = make_repo({OLD: prose(1), THIRD: prose(2)})
    commit(root, {OLD: None})
    commit(root, {THIRD: prose(2) + "more\n"})
    commit(root, {NEW: edited(prose(1), 0.45)})
    assert out(root, NEW) == (False, True)
    assert out(root, THIRD) == (False, False)


def test_an_earlier_version_of_a_held_out_target_is_known_too(make_repo: MakeRepo) -> None:
    root = make_repo({OLD: prose(1), THIRD: prose(2)})
    commit(root, {OLD: prose(4)})
    commit(root, {NEW: prose(1)})
    assert out(root, NEW)[1]


def test_in_other_letters(make_repo: MakeRepo) -> None:
    root = make_repo({OLD: prose(1)})
    commit(root, {OLD: None})
    commit(root, {OLD.replace("docs/n", "Docs/N"): prose(5)})
    assert lineage_of(root).held_out(OLD.replace("docs/n", "Docs/N"))


def test_while_merging_and_on_a_branch_that_is_not_merged(make_repo: MakeRepo) -> None:
    root = make_repo({OLD: prose(1), THIRD: prose(2)})
    git("switch", "-q", "-c", "side", cwd=root)
    commit(root, {"docs/other.md": prose(6)})
    git("switch", "-q", "main", cwd=root)
    commit(root, {"docs/more.md": prose(7)})
    git("merge", "-q", "--no-commit", "side", cwd=root)
    git("mv", OLD, NEW, cwd=root)
    git("commit", "-q", "-m", "evil", cwd=root)
    assert out(root, NEW)[0]
    git("switch", "-q", "-c", "wild", cwd=root)
    commit(root, {THIRD: None, "docs/wild.md": prose(2)})
    git("switch", "-q", "main", cwd=root)
    assert lineage_of(root).families.family("docs/wild.md") == THIRD


def test_the_bots_own_commits_count_by_themselves(make_repo: MakeRepo) -> None:
    root = make_repo({OLD: prose(1)})
    git("switch", "-q", "--detach", cwd=root)
    result = commit(root, {OLD: None, NEW: prose(1)})
    git("switch", "-q", "main", cwd=root)
    assert not lineage_of(root).held_out(NEW)
    assert lineage_of(root, result, "0" * 40).held_out(NEW)


def test_names_of_every_kind_are_read(make_repo: MakeRepo) -> None:
    odd = ["docs/:100644 a.md", "docs/new\nline.md", "docs/\x01tab\t.md", 'docs/"quoted".md', "docs/é.md"]
    root = make_repo({name: prose(number) for number, name in enumerate(odd)})
    for name in odd:
        git("mv", "--", name, name + ".moved.md", cwd=root)
    git("commit", "-q", "-m", "moved", cwd=root)
    known = lineage_of(root).families
    assert [known.family(name + ".moved.md") for name in odd] == odd
    with pytest.raises(RepositoryError, match="cannot read the history"):
        list(lineage.parse(b":nonsense\0a\0"))


def test_empty_files_are_no_family(make_repo: MakeRepo) -> None:
    root = make_repo({"a/__init__.py": "", "b/x.py": prose(1)})
    git("mv", "a/__init__.py", "b/__init__.py", cwd=root)
    git("commit", "-q", "-m", "moved", cwd=root)
    assert lineage_of(root).families.family("b/__init__.py") == "b/__init__.py"


def test_what_was_learned_from_is_known_by_its_text_too(make_repo: MakeRepo) -> None:
    first, second = named(True, count=2)
    root = make_repo({first: prose(1), second: prose(3), NEW: edited(prose(3), 0.2)})
    commit(root, {NEW: prose(8)})
    taught = lineage_of(root).likeness({".md"}, {NEW})
    assert taught.alike(prose(3)), "the second was learned from under another name"
    assert not taught.alike(prose(1))
