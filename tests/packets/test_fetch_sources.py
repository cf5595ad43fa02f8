"""Where sources are looked for, which mirrors are used, what is unpacked. Nothing is downloaded here."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from tools import fetch_sources
from tools.fetch_sources import SOURCES, FetchError, locate, system_mirrors


def test_mirrors_of_both_forms_of_sources(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text(
        "# deb http://commented.example/debian bookworm main\n"
        "deb [arch=amd64 signed-by=/keys/a.gpg] http://one.example/debian bookworm main\n"
        "deb http://one.example/debian-security bookworm-security main\n")
    (parts / "b.list").write_text("deb-src http://two.example/debian/ bookworm main\n")
    (parts / "c.sources").write_text(
        "Types: deb deb-src\nURIs: http://three.example/debian http://four.example/debian\nSuites: bookworm\n"
        "Signed-By: /keys/c.gpg\n\nTypes: deb\nURIs: http://off.example/debian\nSuites: x\nEnabled: no\n\n"
        "Types: deb\nURIs: http://other.example/node\nSuites: nodistro\n")
    assert system_mirrors(tmp_path) == [
        ("http://one.example/debian", "/keys/a.gpg"), ("http://two.example/debian", ""),
        ("http://three.example/debian", "/keys/c.gpg"), ("http://four.example/debian", "/keys/c.gpg")]
    assert system_mirrors(tmp_path / "nowhere") == []


@pytest.mark.parametrize("name", list(SOURCES))
def test_a_tree_is_found_by_environment_or_in_the_cache(name: str, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    source = SOURCES[name]
    monkeypatch.delenv(source.variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert locate(name) is None
    cached, named = tmp_path / "amdrv" / "sources" / name, tmp_path / "named"
    for root in (cached, named):
        (root / source.proof).parent.mkdir(parents=True)
        (root / source.proof).touch()
    assert locate(name) == cached
    monkeypatch.setenv(source.variable, str(named))
    assert locate(name) == named
    monkeypatch.setenv(source.variable, str(tmp_path / "wrong"))
    assert locate(name) is None


def test_what_is_there_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(fetch_sources, "_run", lambda *_: pytest.fail("nothing is to be run"))
    for name, source in SOURCES.items():
        monkeypatch.delenv(source.variable, raising=False)
        (tmp_path / name / source.proof).parent.mkdir(parents=True)
        (tmp_path / name / source.proof).touch()
    assert fetch_sources.main(["--cache", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"export {source.variable}={tmp_path / name}" for name, source in SOURCES.items()]


def test_why_sources_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    for source in SOURCES.values():
        monkeypatch.delenv(source.variable, raising=False)
    monkeypatch.setattr(fetch_sources.shutil, "which", lambda _: None)
    assert fetch_sources.main(["--cache", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        "fetch_sources: apt-get is not here; on other systems unpack Linux 6.1, Mesa 25, the uapi headers of Linux "
        "6.12 and AMD's firmware yourself and name them in AMDRV_LINUX_SOURCE and AMDRV_MESA_SOURCE and "
        "AMDRV_UAPI_SOURCE and AMDRV_FIRMWARE_TEST\n")
    monkeypatch.setattr(fetch_sources.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(fetch_sources, "system_mirrors", list)
    with pytest.raises(FetchError, match="apt's sources name no Debian mirror"):
        fetch_sources.fetch(["mesa"], tmp_path, print)
    monkeypatch.setattr(fetch_sources, "system_mirrors", lambda: [("http://mirror.example/debian", "/keys/a.gpg")])

    def broken(command: list[str], *_: object) -> str:
        raise FetchError(f"`{command[0]}` failed: no network")
    monkeypatch.setattr(fetch_sources, "_run", broken)
    with pytest.raises(FetchError, match="`apt-get` failed: no network"):
        fetch_sources.fetch(["mesa"], tmp_path, print)
    assert (tmp_path / "apt/etc/sources.list").read_text().splitlines() == [
        "deb [signed-by=/keys/a.gpg] http://mirror.example/debian trixie main",
        "deb-src [signed-by=/keys/a.gpg] http://mirror.example/debian trixie main"]


def tarball(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w:xz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 2
            archive.addfile(member, io.BytesIO(b"x\n"))
        link = tarfile.TarInfo("mesa-25/src/amd/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return path


def test_only_what_is_wanted_is_unpacked(tmp_path: Path) -> None:
    source = SOURCES["mesa"]
    tarball(tmp_path / "mesa_25.orig.tar.xz", [f"mesa-25/{source.proof}", "mesa-25/src/nouveau/a.c", "mesa-25/README"])
    fetch_sources._unpack(tmp_path, "mesa_*.orig.tar.*z", tmp_path / "mesa", source)
    assert [str(path.relative_to(tmp_path / "mesa")) for path in (tmp_path / "mesa").rglob("*") if not path.is_dir()] \
        == [source.proof]
    tarball(tmp_path / "mesa_25.orig.tar.xz", ["mesa-25/src/amd/../../../../out"])
    with pytest.raises(FetchError, match="would be unpacked outside of the cache"):
        fetch_sources._unpack(tmp_path, "mesa_*.orig.tar.*z", tmp_path / "mesa", source)
    tarball(tmp_path / "mesa_25.orig.tar.xz", ["mesa-25/src/amd/other.c"])
    with pytest.raises(FetchError, match=f"holds no {source.proof}"):
        fetch_sources._unpack(tmp_path, "mesa_*.orig.tar.*z", tmp_path / "mesa", source)
    with pytest.raises(FetchError, match="the package mesa of trixie holds no source tarball none"):
        fetch_sources._unpack(tmp_path, "none", tmp_path / "mesa", source)
