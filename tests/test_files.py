"""A file is written whole or not at all; stdin is read like a file; a hash tells files apart."""

import io
import os
import re
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from neurosteer_cli.errors import InputError, OutputError
from neurosteer_cli.files import (
    check_new_folder,
    check_read_once,
    check_target,
    file_sha256,
    make_folder,
    replace_file,
    spooled,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_appears_under_its_name_alone(tmp_path: Path) -> None:
    with replace_file(tmp_path / "new.st") as temporary:
        temporary.write_text("new")
        assert names(tmp_path) == [temporary.name]
    assert names(tmp_path) == ["new.st"]
    assert (tmp_path / "new.st").read_text() == "new"


def test_an_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "v.st"
    target.write_text("old")
    with replace_file(target) as temporary:
        temporary.write_text("half of the n")
        assert target.read_text() == "old"
        temporary.write_text("new")
    assert target.read_text() == "new"
    assert names(tmp_path) == ["v.st"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_body_that_raises_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, error: type[BaseException]
) -> None:
    target = tmp_path / "v.st"
    target.write_text("old")
    with pytest.raises(error), replace_file(target) as temporary:
        temporary.write_text("half of the n")
        raise error
    assert target.read_text() == "old"
    assert names(tmp_path) == ["v.st"]


def test_a_body_that_raises_leaves_nothing_where_nothing_was(tmp_path: Path) -> None:
    with pytest.raises(ValueError), replace_file(tmp_path / "v.st") as temporary:
        temporary.write_text("half")
        raise ValueError
    assert names(tmp_path) == []


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    target = tmp_path / "v.st"
    with pytest.raises(OutputError) as caught, replace_file(target):
        raise OSError(28, os.strerror(28))
    assert str(caught.value) == f"{target}: cannot write (No space left on device)"
    assert names(tmp_path) == []


def test_a_folder_in_the_files_place_is_named_and_kept(tmp_path: Path) -> None:
    target = tmp_path / "v.st"
    target.mkdir()
    with pytest.raises(OutputError) as caught, replace_file(target) as temporary:
        temporary.write_text("new")
    assert str(caught.value) == f"{target}: cannot write (Is a directory)"
    assert names(tmp_path) == ["v.st"]


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    target = tmp_path / "gone" / "v.st"
    with pytest.raises(OutputError) as caught, replace_file(target):
        pass
    assert str(caught.value) == f"{target}: cannot write (No such file or directory)"


def test_a_new_file_has_the_permissions_that_open_would_give_it(tmp_path: Path) -> None:
    (tmp_path / "plain").open("w").close()
    with replace_file(tmp_path / "replaced"):
        pass
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "replaced")]
    assert modes[0] == modes[1]


def test_a_replaced_file_keeps_its_permissions(tmp_path: Path) -> None:
    target = tmp_path / "v.st"
    target.write_text("old")
    target.chmod(0o640)
    with replace_file(target):
        pass
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_good_target_is_found_good_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "old.st").write_text("old")
    check_target(tmp_path / "old.st")
    check_target(tmp_path / "new.st")
    assert names(tmp_path) == ["old.st"]
    assert (tmp_path / "old.st").read_text() == "old"


def test_a_bare_name_is_a_file_in_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_target(Path("new.st"))
    with replace_file(Path("new.st")) as temporary:
        temporary.write_text("new")
    assert (tmp_path / "new.st").read_text() == "new"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "{tmp}: is a directory; name a file to write"),
        ("no/v.st", "{tmp}/no/v.st: no folder '{tmp}/no'; create it first"),
        ("file/v.st", "{tmp}/file/v.st: no folder '{tmp}/file'; create it first"),
    ],
)
def test_a_bad_target_is_refused_before_any_work(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(InputError) as caught:
        check_target(tmp_path / name)
    assert str(caught.value) == message.format(tmp=tmp_path)


def test_a_name_that_readers_could_not_open_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no name in UTF-8; choose another$"):
        check_target(tmp_path / "v\udcff.st")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
def test_a_folder_that_takes_no_files_is_refused() -> None:
    with pytest.raises(InputError, match=re.escape("/proc/v.st: cannot write there (")):
        check_target(Path("/proc/v.st"))


def test_a_target_that_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    # Renaming a file over /dev/null would take it from everybody.
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / 'pipe'}: is not a regular file")):
        check_target(tmp_path / "pipe")


@pytest.mark.parametrize("check", [check_target, check_new_folder])
def test_a_name_that_is_too_long_is_refused_before_any_work(check: Any, tmp_path: Path) -> None:
    for name in ("a" * 300, f"{'a' * 300}/v.st"):
        with pytest.raises(InputError, match=r"(cannot write there \(File name too long\)|create it first)$"):
            check(tmp_path / name)


def test_a_name_may_be_as_long_as_names_can_be(tmp_path: Path) -> None:
    target = tmp_path / ("ä" * 127)
    check_target(target)
    with replace_file(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"
    with make_folder(tmp_path / ("b" * 255)) as part:
        (part / "a").write_text("a")
    assert (tmp_path / ("b" * 255) / "a").read_text() == "a"


def test_standard_output_takes_no_file() -> None:
    with pytest.raises(InputError, match="^-: is standard output, which takes other results; name a file"):
        check_target(Path("-"))


# --- folders -----------------------------------------------------------------------------------


def test_a_folder_appears_whole_under_its_name_alone(tmp_path: Path) -> None:
    with make_folder(tmp_path / "new") as part:
        (part / "inner").mkdir()
        (part / "inner" / "a").write_text("a")
        (part / "inner" / "a").chmod(0o600)  # as some writers leave it
        assert not (tmp_path / "new").exists()
    assert names(tmp_path) == ["new"]
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a").write_text("a")
    for made, plain in (("new", "plain"), ("new/inner/a", "plain/a")):
        assert (tmp_path / made).stat().st_mode == (tmp_path / plain).stat().st_mode


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_body_that_raises_leaves_no_folder(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), make_folder(tmp_path / "new") as part:
        (part / "half").write_text("half")
        raise error
    assert names(tmp_path) == []


def test_a_folder_that_has_come_to_exist_meanwhile_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"new: cannot write \("), make_folder(tmp_path / "new"):
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "theirs").write_text("x")
    assert names(tmp_path) == ["new"]
    assert names(tmp_path / "new") == ["theirs"]


def test_a_folder_must_be_new_and_its_parent_there(tmp_path: Path) -> None:
    check_new_folder(tmp_path / "new")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link", "."):
        with pytest.raises(InputError, match="exists already; name a new folder to write$"):
            check_new_folder(tmp_path / name)
    with pytest.raises(InputError, match="none/new: no folder '.*none'; create it first$"):
        check_new_folder(tmp_path / "none" / "new")
    with pytest.raises(InputError, match=r"^/proc/new: cannot write there \("):
        check_new_folder(Path("/proc/new"))


def test_a_folder_that_takes_anothers_place_is_whole_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with pytest.raises(RuntimeError), make_folder(target, replace=True) as temporary:
        (temporary / "half").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    for text in ("old", "new"):
        with make_folder(target, replace=True) as temporary:
            (temporary / "file").write_text(text)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert (target / "file").read_text() == "new"


# --- standard input ----------------------------------------------------------------------------


def test_stdin_can_be_read_twice_until_the_context_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8"))
    with spooled("-") as path:
        assert [Path(path).read_bytes() for _ in range(2)] == [b"caf\xe9\n"] * 2
    assert not Path(path).exists()


def test_stdin_is_read_once_and_a_second_reader_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one"), encoding="utf-8"))
    with spooled("/dev/stdin"), pytest.raises(InputError, match="can be read only once"), spooled("-"):
        pass
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="^<stdin>: is closed; name a file$"), spooled("-"):
        pass


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no /dev/fd here")
def test_a_pipe_can_be_read_twice_until_the_context_ends() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"one")
    os.close(writing)
    with spooled(f"/dev/fd/{reading}") as path:
        assert [Path(path).read_bytes() for _ in range(2)] == [b"one"] * 2
    os.close(reading)
    assert not Path(path).exists()


def test_what_can_be_read_once_is_given_once() -> None:
    for sources in (["-", "-"], ["-", "a", "/dev/stdin"], ["/dev/null", "/dev/null"]):
        with pytest.raises(InputError, match="can be read only once; name a file in its other place$"):
            check_read_once(sources)
    check_read_once(["-", "a", "a", "/dev/null", "none", "none"])


def test_what_can_be_read_once_has_no_hash() -> None:
    with pytest.raises(
        InputError, match="^/dev/null: is no file that can be read again; save it as one first$"
    ):
        file_sha256(Path("/dev/null"))


def test_a_file_is_read_where_it_is() -> None:
    with spooled("some/file.jsonl") as path:
        assert path == "some/file.jsonl"


# --- hashes ------------------------------------------------------------------------------------


def test_a_files_sha256_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a") == ("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
