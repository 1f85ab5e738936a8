"""Out of the worktree through the file system: what a program in an item's directory leaves there for the harvest."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import git

from attacks.conftest import BYSTANDER, NOTES, VICTIM, Field
from pantheon.records import Outcome


def swap(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink(missing_ok=True)
    make(path)


def modes(field: Field) -> set[str]:
    """The modes of all entries that the night's review branches hold."""
    lines = "".join(
        git("ls-tree", "-r", "-t", pull.tip, cwd=field.root) for pull in (field.report.prs if field.report else ())
    )
    return {line.split()[0] for line in lines.splitlines()}


# --- 7: links --------------------------------------------------------------------------------------------------------


def test_07_a_tracked_file_that_became_a_link_to_a_host_file_is_refused(arena: Field) -> None:
    secret = arena.secret
    arena.night(lambda place: swap(place / VICTIM, lambda path: path.symlink_to(secret)))
    arena.refused("oven.*not a regular file")
    assert secret.read_text() == f"{arena.marker}\n"
    arena.look()


def test_07_a_linked_directory_is_not_entered_and_nothing_lands_behind_it(lone: Field) -> None:
    outside = lone.tmp / "outside"
    outside.mkdir()
    (outside / "oven.md").write_text(lone.marker)

    def attack(place: Path) -> None:
        if not (place / "docs").is_symlink():
            (place / "docs").rename(place / "moved")
            (place / "docs").symlink_to(outside)

    lone.night(attack)
    lone.refused("is no directory of ours")
    assert [path.name for path in outside.iterdir()] == ["oven.md"]
    assert (outside / "oven.md").read_text() == lone.marker


def test_07_a_link_that_points_nowhere_or_at_itself_is_refused(lone: Field) -> None:
    lone.night(lambda place: swap(place / "docs/loop.md", lambda path: path.symlink_to("loop.md")))
    lone.refused(r"loop\.md.*not a regular file")


def test_07_a_linked_worktree_root_is_not_followed_and_not_removed_behind_the_link(lone: Field) -> None:
    outside = lone.tmp / "outside"
    (outside / "docs").mkdir(parents=True)
    (outside / "docs/oven.md").write_text(lone.marker)

    def attack(place: Path) -> None:
        if not place.is_symlink():
            shutil.rmtree(place)
            place.symlink_to(outside)

    lone.night(attack)
    lone.refused("worktree")
    assert (outside / "docs/oven.md").read_text() == lone.marker


@pytest.mark.parametrize("what", ["file", "directory"])
def test_07_swapped_in_a_loop_while_it_is_harvested(lone: Field, what: str) -> None:
    """Whatever moment the harvest meets: the host file's bytes are in no object and nothing is written there."""
    secret, outside = lone.secret, lone.tmp / "outside"
    (outside / "docs").mkdir(parents=True)
    (outside / "oven.md").write_text(lone.marker)
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def race(place: Path) -> None:
        note, folder = place / VICTIM, place / "docs"
        real = note.read_bytes()
        while not stop.is_set():
            with contextlib.suppress(OSError):
                if what == "file":
                    note.unlink()
                    note.symlink_to(secret)
                    note.unlink()
                    note.write_bytes(real)
                else:
                    folder.rename(place / "aside")
                    folder.symlink_to(outside)
                    folder.unlink()
                    (place / "aside").rename(folder)

    def attack(place: Path) -> None:
        if not threads:
            threads.append(threading.Thread(target=race, args=(place,)))
            threads[0].start()

    try:
        with contextlib.suppress(AssertionError):  # a winner may put the directory back while it is removed
            lone.night(attack)
    finally:
        stop.set()
        threads[0].join()
    lone.sound()
    assert lone.run_of().outcome in (Outcome.FAILED, Outcome.ACCEPTED)
    assert "bug:" not in lone.run_of().reason
    assert secret.read_text() == f"{lone.marker}\n"
    assert (outside / "oven.md").read_text() == lone.marker


# --- 8: what a file can be besides its bytes -------------------------------------------------------------------------


def test_08_a_hard_link_to_a_host_file_is_refused(lone: Field) -> None:
    lone.night(lambda place: swap(place / VICTIM, lambda path: os.link(lone.secret, path)))
    lone.refused("a hard link")


def test_08_modes_and_attributes_of_the_disk_never_reach_git(arena: Field) -> None:
    """0777, setuid, sticky and extended attributes: the tree holds the base's modes and the bytes, nothing else."""

    def attack(place: Path) -> None:
        path = place / VICTIM
        with contextlib.suppress(OSError):
            os.setxattr(path, "user.marker", arena.marker.encode())
        path.chmod(0o7777)
        (place / "docs").chmod(0o1777)
        (place / "new.md").write_text("new")
        (place / "new.md").chmod(0o4755)

    arena.night(attack, when="Goal: set_field description")
    assert modes(arena) <= {"100644", "040000"}


@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
def test_08_pipes_sockets_and_devices_are_refused_and_never_opened(lone: Field, kind: str) -> None:
    if kind == "device" and os.geteuid() != 0:
        pytest.skip("root only: mknod")

    def attack(place: Path) -> None:
        path = place / "docs/odd.md"
        if os.path.lexists(path):
            return
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "device":
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
        else:
            with socket.socket(socket.AF_UNIX) as listener:
                where = os.getcwd()
                os.chdir(path.parent)  # a socket's path is short
                try:
                    listener.bind(path.name)
                finally:
                    os.chdir(where)

    lone.night(attack)
    lone.refused(r"odd\.md.*not a regular file")


# --- size ------------------------------------------------------------------------------------------------------------


def test_deep_nesting_ends_its_item_only(arena: Field) -> None:
    """Deeper than Python's recursion, than the descriptors a process has, and than the longest path."""
    depth = min(5000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] + 1100)

    def attack(place: Path) -> None:
        if (place / "d").exists():
            return
        at = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        for _ in range(depth):
            os.mkdir("d", dir_fd=at)
            below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = below
        os.close(at)

    try:
        arena.night(attack)
    finally:  # pytest cannot remove it either
        subprocess.run(["rm", "-rf", str(arena.work)], check=True)
    arena.refused("nested deeper than")
    assert arena.run_of(BYSTANDER).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize("kind", ["files", "directories"])
def test_too_many_entries_end_their_item_only(lone: Field, kind: str) -> None:
    def attack(place: Path) -> None:
        if (place / "many").exists():
            return
        (place / "many").mkdir()
        at = os.open(place / "many", os.O_RDONLY | os.O_DIRECTORY)
        for number in range(30_000 if kind == "files" else 2_100):
            if kind == "files":
                os.mknod(str(number), stat.S_IFREG | 0o600, dir_fd=at)
            else:
                os.mkdir(str(number), dir_fd=at)
        os.close(at)

    lone.night(attack)
    lone.refused("more than 2000 entries")


def test_a_sparse_file_of_ten_gigabytes_is_not_read(lone: Field) -> None:
    def attack(place: Path) -> None:
        with (place / "docs/big.md").open("wb") as file:
            file.truncate(10 << 30)

    began = time.monotonic()
    lone.night(attack)
    lone.refused(r"big\.md.*more than the 1048576 bytes")
    assert time.monotonic() - began < 10


def test_a_file_that_grows_while_it_is_read_is_bounded(lone: Field) -> None:
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def grow(path: Path) -> None:
        with path.open("ab") as file:
            while not stop.is_set() and file.tell() < 1 << 30:
                file.write(b"x" * (1 << 20))
                file.flush()

    def attack(place: Path) -> None:
        if not threads:
            threads.append(threading.Thread(target=grow, args=(place / "docs/grows.md",)))
            threads[0].start()

    try:
        lone.night(attack)
    finally:
        stop.set()
        threads[0].join()
    lone.refused(r"grows\.md|more than")


# --- permissions -----------------------------------------------------------------------------------------------------


def test_directories_without_permissions_do_not_survive_their_item(lone: Field) -> None:
    def attack(place: Path) -> None:
        if (place / "locked").exists():
            return
        (place / "locked/inner").mkdir(parents=True)
        (place / "locked/inner/note.md").write_text("x")
        (place / "locked/inner").chmod(0)
        (place / "locked").chmod(0)
        (place / "docs").chmod(0o500)

    lone.night(attack)
    if os.geteuid() != 0:  # root reads everything: then the new file is refused by the checks
        lone.refused("Permission denied|is no directory of ours")
    assert lone.run_of().outcome is Outcome.FAILED


def test_a_worktree_that_vanished_ends_its_item_only(arena: Field) -> None:
    arena.night(lambda place: shutil.rmtree(place, ignore_errors=True))
    arena.refused("worktree")


def test_files_beside_the_target_are_never_taken_along(lone: Field) -> None:
    """A program writes another note of the repository: the checks see it, and its words reach no branch."""
    lone.night(lambda place: (place / "docs/other.md").write_text(NOTES[VICTIM]))
    assert lone.run_of().outcome is Outcome.FAILED
    assert lone.report is not None
    assert lone.report.prs == ()
