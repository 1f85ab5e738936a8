"""The kind `headers`: one header in the right place, everything else byte for byte, and never a second one."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pantheon import config
from pantheon.errors import ConfigError, ToolError
from pantheon.records import Repair
from pantheon.tools import headers, licences, syntax
from pantheon.tools.facts import Facts
from pantheon.tools.headers import HeaderRules, HolderArgs
from pantheon.tools.tool import Change, Nothing, Tree
from pantheon.tools.workspace import Workspace

MIT = (
    b"MIT License\n\nCopyright (c) 2019-2021 Jane Doe <jane@example.org>\n\nPermission is hereby granted, free of "
    b"charge, to any person\nobtaining a copy of this software. The above copyright notice and this permission notice "
    b"shall be\nincluded in all copies.\n"
)
RAW = config.packaged("rules", "headers.toml").read_bytes()
RULES = headers.parse(RAW, "headers.toml")
X = b"SPDX-FileCopyrightText: 2020 Jane Doe\nSPDX-License-Identifier: MIT\n"
XML = b"<!--\n" + X + b"-->\n"
CSS = b"/*\n * SPDX-FileCopyrightText: 2020 Jane Doe\n * SPDX-License-Identifier: MIT\n */\n"
HASH = b"# SPDX-FileCopyrightText: 2020 Jane Doe\n# SPDX-License-Identifier: MIT\n"
SLASH = HASH.replace(b"#", b"//")


def tree_of(files: dict[str, bytes]) -> Tree:
    return Tree(frozenset(files), files.get)


def add(root: Path, path: str, raw: bytes, rules: HeaderRules = RULES) -> bytes:
    """The file with its header, by the tool; the change must be right for the check and need nothing more."""
    files = {"LICENSE": MIT, path: raw}
    date = datetime(2020, 5, 1, tzinfo=UTC)
    ws = Workspace(root, path, rules, Facts(paths=tuple(files), first_commit=dict.fromkeys(files, date)), files.get)
    assert headers.add_header(ws, Nothing()).added, headers.check(path, raw, rules, tree_of(files))
    data = ws.read(path)
    now = tree_of({**files, path: data})
    assert not headers.check(path, data, rules, now)
    assert not list(headers.verify(Change(path, raw, data, tree_of(files), now), rules))
    assert not headers.add_header(ws, Nothing()).added
    assert ws.read(path) == data
    return data


def finding(
    path: str, raw: bytes, rules: HeaderRules = RULES, files: Mapping[str, bytes] | None = None
) -> tuple[str, Repair] | None:
    every = {"LICENSE": MIT, **(files or {}), path: raw}
    found = headers.check(path, raw, rules, tree_of(every)) if headers.KIND.about(path, rules) else ()
    return (found[0].message, found[0].repair) if found else None


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("a.py", b'"""Tides."""\nx = 1\n', HASH + b'\n"""Tides."""\nx = 1\n'),
        ("a.py", b"\nx = 1", HASH + b"\nx = 1"),
        ("a.py", b"#!/bin/python\nx = 1\n", b"#!/bin/python\n" + HASH + b"\nx = 1\n"),
        ("a.py", b"#!/bin/python\n# coding: utf-8\nx\n", b"#!/bin/python\n# coding: utf-8\n" + HASH + b"\nx\n"),
        (
            "a.py",
            b"# A\n# vim: fileencoding=latin-1 :\n'\xe9'\n",
            b"# A\n# vim: fileencoding=latin-1 :\n" + HASH + b"\n'\xe9'\n",
        ),
        ("a.py", b"\xef\xbb\xbfx = 1\n", b"\xef\xbb\xbf" + HASH + b"\nx = 1\n"),
        ("a.py", b"x = 1\r\ny = 2\r\n", HASH.replace(b"\n", b"\r\n") + b"\r\nx = 1\r\ny = 2\r\n"),
        ("run.sh", b"#!/bin/sh", b"#!/bin/sh\n" + HASH),
        ("Makefile", b"all:\n\ttrue\n", HASH + b"\nall:\n\ttrue\n"),
        ("Dockerfile", b"# syntax=a/b:1\nFROM a\n", b"# syntax=a/b:1\n" + HASH + b"\nFROM a\n"),
        ("a.js", b"'use strict';\n", SLASH + b"\n'use strict';\n"),
        ("a.js", b"// @flow strict\nlet a;\n", b"// @flow strict\n" + SLASH + b"\nlet a;\n"),
        (
            "a.js",
            b"/**\n * @jest-environment a\n */\nlet a;\n",
            b"/**\n * @jest-environment a\n */\n" + SLASH + b"\nlet a;\n",
        ),
        ("a.js", b"#!/usr/bin/env node\nlet a;\n", b"#!/usr/bin/env node\n" + SLASH + b"\nlet a;\n"),
        ("a.go", b"//go:build linux\n\npackage a\n", SLASH + b"\n//go:build linux\n\npackage a\n"),
        ("a.rs", b"#![no_std]\n", SLASH + b"\n#![no_std]\n"),
        ("a.lua", b"local a = 1\n", HASH.replace(b"#", b"--") + b"\nlocal a = 1\n"),
        ("a.css", b"a {}\n", CSS + b"\na {}\n"),
        ("b.css", b'@charset "utf-8";\na {}\n', b'@charset "utf-8";\n' + CSS + b"\na {}\n"),
        ("a.html", b"<!DOCTYPE html>\n<p>\n", b"<!DOCTYPE html>\n" + XML + b"\n<p>\n"),
        ("a.xml", b'<?xml version="1.0"?>\n<a/>', b'<?xml version="1.0"?>\n' + XML + b"\n<a/>"),
        ("page.html", b"---\nlayout: a\n---\n<p>\n", b"---\nlayout: a\n---\n" + XML + b"\n<p>\n"),
    ],
)
def test_a_header_goes_where_the_file_can_have_it(tmp_path: Path, path: str, before: bytes, after: bytes) -> None:
    assert add(tmp_path, path, before) == after


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        ("a.py", HASH + b"x = 1\n"),
        ("a.py", b"# Copyright 2001 Somebody\nx = 1\n"),
        ("a.py", b'"""Tides.\n\n:copyright: (c) 2010 by the Harbour.\n:license: BSD\n"""\nx = 1\n'),
        ("a.py", b"# This file is licensed under the MIT License; see LICENSE.\n"),
        ("a.js", b"/*!\n * jQuery\n * (c) OpenJS Foundation\n * Released under the MIT license: see LICENSE\n */\n"),
        ("a.html", b"<!DOCTYPE html>\n<!--\n  Copyright the authors\n-->\n<p>\n"),
        ("a.py", b"import os\n\n# SPDX-License-Identifier: MIT\n"),
        ("a.py", b"# Generated by protoc. DO NOT EDIT!\nx = 1\n"),
        ("a.js", b"// @generated\nlet a;\n"),
        ("a.js", b"var a=1;" * 500),
        ("jquery.min.js", b"let a;\n"),
        ("pkg/__init__.py", b""),
        ("pkg/__init__.py", b"\n \n"),
        ("vendor/lib/a.py", b"x = 1\n"),
        ("web/node_modules/a/index.js", b"x = 1\n"),
        (".github/workflows/a.yml", b"on: push\n"),
        ("uv.lock", b"a\n"),
        ("package-lock.json", b"{}\n"),
        ("tests/fixtures/a.py", b"x = 1\n"),
        ("notes.txt", b"x\n"),
    ],
)
def test_what_needs_no_header_is_left_alone(path: str, raw: bytes) -> None:
    assert finding(path, raw) is None


def test_code_that_speaks_of_generated_files_is_not_one() -> None:
    assert finding("conf.py", b"# Sphinx\nimport os\n\n# Do not edit what was autogenerated.\n") is not None
    assert finding("conf.py", b"import os\n\ncopyright = '2018, Jane Doe'\n# (c) means copyright 2018\n") is not None


def test_a_licence_beside_the_file_counts() -> None:
    assert finding("a.css", b"a {}\n", files={"a.css.license": HASH}) is None


def test_a_header_with_another_licence_goes_to_a_person() -> None:
    found = finding("a.py", b"# SPDX-License-Identifier: GPL-2.0-only\n")
    assert found == ("its header names GPL-2.0-only, the repository MIT", Repair.REPORT)
    assert finding("a.py", b"# SPDX-License-Identifier: MIT OR Apache-2.0\n") is None


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"x = 1\0\n", "encoding"),
        (b"\xff\xfex\0=\0", "encoding"),
        (b"x = 1\ry = 2\r", "old Macintosh"),
    ],
)
def test_a_file_that_cannot_hold_a_header_goes_to_a_person(raw: bytes, why: str) -> None:
    found = finding("a.py", raw)
    assert found is not None
    assert why in found[0]
    assert found[1] is Repair.REPORT


def test_a_declaration_on_the_line_of_the_content_leaves_no_place() -> None:
    for raw in (b"<?xml version='1.0'?><a/>\n", b"<!DOCTYPE a [\n<!ENTITY b 'c'>\n]>\n<a/>\n", b"<?xml", b"<?xml\n"):
        found = finding("a.xml", raw)
        assert found is not None
        assert found[1] is Repair.REPORT


def test_a_name_beyond_ascii_needs_utf8(tmp_path: Path) -> None:
    rules = RULES.model_copy(update={"holder": "Zo\u00eb Gr\u00fcn"})
    assert "Zo\u00eb Gr\u00fcn" in add(tmp_path, "a.py", b"x = 1\n", rules).decode()
    found = finding("a.py", b"# coding: latin-1\nx = 1\n", rules)
    assert found is not None
    assert found[1] is Repair.REPORT


def test_several_holders_are_a_choice_and_only_they(tmp_path: Path) -> None:
    files = {
        "LICENSE": MIT,
        "pyproject.toml": b'[project]\nlicense = "MIT"\nauthors = [{name = "Tide Office", email = "a@b.c"}]\n',
        "a.py": b"x = 1\n",
    }
    date = datetime(2020, 5, 1, tzinfo=UTC)
    ws = Workspace(tmp_path, "a.py", RULES, Facts(paths=tuple(files), first_commit={"a.py": date}), files.get)
    assert headers.check("a.py", files["a.py"], RULES, tree_of(files))[0].repair is Repair.CHOOSE
    assert not headers.add_header(ws, Nothing()).added
    (offer,) = headers.offer_holder(ws)
    assert set(offer.args["holder"] or ()) == {"Jane Doe", "Tide Office"}
    with pytest.raises(ToolError, match="does not name"):
        headers.set_holder(ws, HolderArgs(holder="Mallory"))
    assert headers.set_holder(ws, HolderArgs(holder="Tide Office")).added
    assert not headers.set_holder(ws, HolderArgs(holder="Jane Doe")).added
    assert b"2020 Tide Office" in ws.read("a.py")
    assert headers.offer_holder(ws) == ()
    (asked,) = headers.offer_owner(ws)
    assert "Tide Office" in (asked.args["holder"] or ())
    assert "Jane Doe" not in (asked.args["holder"] or ())
    assert headers.match_holder(ws, HolderArgs(holder="Tide Office")).same


def test_reviewers_see_what_was_written_among_what_was_not(tmp_path: Path) -> None:
    files = {"LICENSE": MIT, "a.py": b"x = 1\n"}
    date = datetime(2020, 5, 1, tzinfo=UTC)
    ws = Workspace(tmp_path, "a.py", RULES, Facts(paths=tuple(files), first_commit={"a.py": date}), files.get)
    assert headers.offer_license(ws) == ()
    headers.add_header(ws, Nothing())
    (offer,) = headers.offer_license(ws)
    values = offer.args["license"] or ()
    assert len(values) == 4
    assert headers.match_license(ws, headers.LicenseArgs(license="MIT")).same
    other = next(value for value in values if value != "MIT")
    assert not headers.match_license(ws, headers.LicenseArgs(license=other)).same
    with pytest.raises(ToolError):
        headers.match_license(ws, headers.LicenseArgs(license="Beerware"))


@pytest.mark.parametrize(
    "after",
    [
        b"x = 1\n",
        HASH + HASH + b"\nx = 1\n",
        HASH + b"\nx = 2\n",
        HASH + b"x = 1\n",
        HASH.replace(b"Jane", b"John") + b"\nx = 1\n",
        HASH.replace(b"MIT", b"ISC") + b"\nx = 1\n",
        HASH.replace(b"2020", b"20x0") + b"\nx = 1\n",
        b"x = 1\n" + HASH,
        HASH + b"import os\n\nx = 1\n",
        b"",
        None,
    ],
)
def test_a_change_that_is_not_one_header_is_refused(after: bytes | None) -> None:
    base = tree_of({"LICENSE": MIT, "a.py": b"x = 1\n"})
    assert list(headers.verify(Change("a.py", b"x = 1\n", after, base, base), RULES))


def test_a_file_with_a_header_may_not_change() -> None:
    raw = HASH + b"x = 1\n"
    base = tree_of({"LICENSE": MIT, "a.py": raw})
    assert list(headers.verify(Change("a.py", raw, HASH + b"\n" + raw, base, base), RULES))


def test_the_licence_that_a_change_brings_along_counts_for_nothing() -> None:
    base = tree_of({"LICENSE": MIT, "a.py": b"x = 1\n"})
    now = tree_of({"LICENSE": MIT.replace(b"Jane", b"Mallory"), "a.py": HASH})
    data = HASH.replace(b"Jane", b"Mallory") + b"\nx = 1\n"
    assert list(headers.verify(Change("a.py", b"x = 1\n", data, base, now), RULES))


PIECES = st.sampled_from(
    [
        *(b"#!/bin/sh", b"# -*- coding: utf-8 -*-", b"# vim: ts=4", b"# note", b'"""Doc."""', b"x = 1", b"", b"   "),
        *(b"def f():", b"    return 1", b"import os", b"'use strict'", b"# syntax=a", b"---", b"<?xml?>", b"@charset"),
        *(b"/* a */", b"<!DOCTYPE html>", b"/** @flow */", b"// @ts-check", b"%YAML 1.2"),
    ]
)


@given(
    lines=st.lists(PIECES, min_size=1, max_size=8),
    newline=st.sampled_from([b"\n", b"\r\n"]),
    bom=st.booleans(),
    last=st.booleans(),
    path=st.sampled_from(["a.py", "b.js", "c.css", "d.html", "e.sql", "f.toml"]),
)
def test_only_a_header_is_added_and_what_parsed_still_parses(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], newline: bytes, bom: bool, last: bool, path: str
) -> None:
    raw = (b"\xef\xbb\xbf" if bom else b"") + newline.join(lines) + (newline if last else b"")
    if finding(path, raw) is None or finding(path, raw) != ("has no licence header", Repair.CERTAIN):
        return
    data = add(tmp_path_factory.mktemp("ws"), path, raw)
    at = headers.place(raw)
    assert at is not None
    assert data.startswith(raw[:at])
    assert data.endswith(raw[at:])
    assert data.count(b"SPDX-License-Identifier") == 1
    if not syntax.fault(path, raw):
        assert not syntax.fault(path, data)
        if path == "a.py":
            assert ast.dump(ast.parse(raw)) == ast.dump(ast.parse(data))


@given(st.binary(max_size=300), st.sampled_from(["a.py", "a.js", "a.css", "a.xml"]))
def test_no_content_makes_the_check_raise(raw: bytes, path: str) -> None:
    headers.check(path, raw, RULES, tree_of({"LICENSE": MIT, path: raw}))
    headers.place(raw)


def test_long_lines_and_open_comments_take_no_time() -> None:
    for raw in (
        b"/*" * 100_000,
        b"# " + b"(c) " * 100_000,
        b"<!--" + b"-" * 500_000,
        b"#" * 900_000,
        b"/**" + b"@" * 900_000,
    ):
        headers.check("a.js", raw, RULES, tree_of({"LICENSE": raw, "a.js": raw}))
        headers.place(raw)


# --- rules -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('license = "auto"', 'license = "Jane\'s own"', "SPDX expression"),
        ('holder = "auto"', 'holder = "Jane */"', "comment"),
        ("{year} {holder}", "{yeer} {holder}", "comment"),
        ("SPDX-License-Identifier: {license}", "*/ {license}", "comment"),
        ("{year} {holder}", "{holder} {holder}", "once"),
        ("empty = false", "empty = 7", "boolean"),
        ("[styles]", '[styles]\n"??" = [".q"]', "Input should be"),
        ("empty = false", "emptiness = false", "unknown key .emptiness.; known here: empty, exclude"),
    ],
)
def test_a_rules_file_that_is_wrong_says_where(old: str, new: str, why: str) -> None:
    assert old in RAW.decode()
    with pytest.raises(ConfigError, match=why) as caught:
        headers.parse(RAW.decode().replace(old, new).encode(), "headers.toml")
    assert caught.value.line > 0


def test_the_whole_header_can_be_one_line(tmp_path: Path) -> None:
    rules = RULES.model_copy(update={"lines": ("SPDX-License-Identifier: {license}",)})
    assert add(tmp_path, "a.c", b"int a;\n", rules) == b"// SPDX-License-Identifier: MIT\n\nint a;\n"


def test_a_header_in_words_of_ones_own_is_known_again(tmp_path: Path) -> None:
    rules = RULES.model_copy(update={"lines": ("Part of Tides. {holder}: {license}",)})
    assert add(tmp_path, "a.c", b"int a;\n", rules) == b"// Part of Tides. Jane Doe: MIT\n\nint a;\n"


def test_empty_files_get_one_where_the_rules_want_it(tmp_path: Path) -> None:
    assert add(tmp_path, "pkg/__init__.py", b"", RULES.model_copy(update={"empty": True})) == HASH


# --- what the repository says ----------------------------------------------------------------------------------------


def grant(**files: bytes | str) -> licences.Grant:
    data = {n.replace("__", "."): v.encode() if isinstance(v, str) else v for n, v in files.items()}
    return licences.grant(tree_of(data))


def test_licence_and_holder_come_from_the_text() -> None:
    found = grant(LICENSE=MIT)
    assert (found.license, found.holders) == ("MIT", ("Jane Doe",))


GPL = (
    "GNU GENERAL PUBLIC LICENSE\n Version 3, 29 June 2007\n\n Copyright (C) 2007 Free Software Foundation, Inc.\n\n"
    + ('"Copyright" also means copyright-like laws.\n  Copyright (C) <year>  <name of author>\n')
)


def test_of_the_gnu_licences_the_text_alone_does_not_say_which() -> None:
    assert grant(COPYING=GPL).license == ""
    assert "later" in grant(COPYING=GPL).why
    assert grant(COPYING=GPL).holders == ()
    assert grant(COPYING=GPL, pyproject__toml='[project]\nlicense = "GPL-3.0-or-later"\n').license == "GPL-3.0-or-later"
    used = "# SPDX-License-Identifier: GPL-3.0-only\n"
    assert grant(COPYING=GPL, a__py=used, b__py=used).license == "GPL-3.0-only"


def test_metadata_that_contradicts_the_text_is_no_licence() -> None:
    found = grant(LICENSE=MIT, pyproject__toml='[project]\nlicense = "Apache-2.0"\n')
    assert found.license == ""
    assert "Apache-2.0" in found.why
    assert "MIT" in found.why
    both = grant(pyproject__toml='[project]\nlicense = "MIT"\n', package__json='{"license": "ISC"}')
    assert both.license == ""


def test_two_licences_need_a_word_on_both() -> None:
    files = {"LICENSE-MIT": MIT, "LICENSE-APACHE": b"Apache License\nVersion 2.0, January 2004\n"}
    assert licences.grant(tree_of(files)).license == ""
    files["Cargo.toml"] = b'[package]\nlicense = "MIT/Apache-2.0"\nauthors = ["Jane Doe <j@example.org>"]\n'
    found = licences.grant(tree_of(files))
    assert (found.license, found.holders) == ("MIT OR Apache-2.0", ("Jane Doe",))


def test_metadata_of_every_kind_is_read() -> None:
    setup = "from setuptools import setup\nsetup(name=NAME, author='Jane Doe', license='MIT License')\n"
    assert grant(setup__py=setup) == grant(setup__cfg="[metadata]\nauthor = Jane Doe\nlicense = MIT\n")
    listed = "import setuptools\nsetuptools.setup(classifiers=['License :: OSI Approved :: MIT License'], **more)\n"
    assert grant(setup__py=listed).license == "MIT"
    package = '{"license": "MIT", "author": "Jane Doe <j@example.org> (https://example.org)"}'
    assert (grant(package__json=package).license, grant(package__json=package).holders) == ("MIT", ("Jane Doe",))
    poetry = '[tool.poetry]\nlicense = "MIT"\nauthors = ["Jane Doe <j@example.org>"]\n'
    assert grant(pyproject__toml=poetry).holders == ("Jane Doe",)


@pytest.mark.parametrize(
    ("line", "holder"),
    [
        ("Copyright (c) 2019 Jane Doe", "Jane Doe"),
        ("Copyright \u00a9 2019-present, Jane Doe. All rights reserved.", "Jane Doe"),
        ("# SPDX-FileCopyrightText: 2019 Jane Doe <jane@example.org>", "Jane Doe"),
        (" * Copyright 2001, 2002, 2010 by the Tide Office */", "the Tide Office"),
        ("(c) 2019 Jane Doe", "Jane Doe"),
        ("Copyright Jane Doe and contributors", "Jane Doe and contributors"),
        ("Copyright [yyyy] [name of copyright owner]", None),
        ("Copyright (c) <year> <copyright holders>", None),
        ("COPYRIGHT HOLDERS AND CONTRIBUTORS BE LIABLE", None),
        ("the above copyright notice and this permission notice", None),
        ("(c) You must retain, in the Source form of any Derivative Works", None),
        ("Copyright (c) 2009 PiCloud, Inc. http://www.example.org/", "PiCloud, Inc."),
        ("Copyright notice", None),
        ("Copyright 2019", None),
    ],
)
def test_holders_are_read_from_copyright_lines(line: str, holder: str | None) -> None:
    assert list(licences.holder_in(line)) == ([holder] if holder else [])


@given(
    st.binary(max_size=400),
    st.sampled_from(["LICENSE", "pyproject.toml", "setup.cfg", "setup.py", "package.json", "Cargo.toml"]),
)
def test_no_content_of_metadata_makes_reading_it_raise(raw: bytes, path: str) -> None:
    licences.grant(tree_of({path: raw}))


def test_hostile_metadata_is_read_in_bounded_time() -> None:
    for path, raw in {
        "pyproject.toml": b"a" + b".a" * 60_000 + b" = 1\n",
        "package.json": b"[" * 100_000,
        "LICENSE": b"Copyright (c) " + b"2019, " * 20_000,
        "setup.cfg": b"[metadata]\nlicense = " + b"(" * 100_000,
    }.items():
        licences.grant(tree_of({path: raw}))
