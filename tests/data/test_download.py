"""Nothing is fetched unasked; what is fetched is checked; without network one line says so."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ofatvm.data import load_dataset
from ofatvm.data.download import SOURCES, awaited, fetch_https, fetched
from ofatvm.errors import MissingInputError
from ofatvm.files import replace_file
from tests.data.making import write_mnist


def never(address: str) -> bytes:
    raise AssertionError(f"fetched {address}")


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], bytes]:
    """A small MNIST that is published like the real one, with its sums."""
    folder = write_mnist(tmp_path / "mirror")
    source = SOURCES["mnist"]
    sums = [(name, hashlib.md5((folder / name).read_bytes()).hexdigest()) for name in source.files]
    monkeypatch.setitem(SOURCES, "mnist", replace(source, published=tuple(sums)))
    return lambda address: (folder / address.removeprefix(source.address)).read_bytes()


def test_a_name_without_download_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ofatvm.data.download.fetch_https", never)
    with pytest.raises(MissingInputError, match="fashion-mnist is not on this machine") as error:
        load_dataset(Path("fashion-mnist"), size=28, cache=tmp_path)
    assert "--download" in error.value.hint
    assert "or a path" in error.value.hint


@pytest.mark.parametrize("download", [False, True])
def test_other_names_are_missing_files(tmp_path: Path, download: bool) -> None:
    with pytest.raises(MissingInputError, match="no such file or folder: imagenet") as error:
        load_dataset(Path("imagenet"), size=28, cache=tmp_path, download=download)
    assert "fashion-mnist, mnist, cifar10" in error.value.hint


def test_download_needs_a_place(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no cache folder to fetch mnist into"):
        load_dataset(Path("mnist"), size=28, download=True)


def test_a_fetched_set_is_used_again_without_network(
    tmp_path: Path, mirror: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ofatvm.data.download.fetch_https", mirror)
    first = load_dataset(Path("mnist"), size=5, download=True, cache=tmp_path / "cache")
    assert first.name == "mnist"
    assert first.test is not None
    monkeypatch.setattr("ofatvm.data.download.fetch_https", never)
    for download in (True, False):
        again = load_dataset(Path("mnist"), size=5, download=download, cache=tmp_path / "cache")
        assert again.digest == first.digest


def test_a_path_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ofatvm.data.download.fetch_https", never)
    write_mnist(tmp_path / "mnist")
    assert load_dataset(Path("mnist"), size=5, download=True, cache=tmp_path / "c").name == "mnist"


def test_a_damaged_file_is_not_kept(tmp_path: Path, mirror: Callable[[str], bytes]) -> None:
    with pytest.raises(MissingInputError, match=r"train-images.* came with MD5 [0-9a-f]{32} inst"):
        fetched("mnist", cache=tmp_path / "cache", fetch=lambda address: mirror(address)[:-1])
    assert not list((tmp_path / "cache" / "mnist").iterdir())


def test_no_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from urllib.error import URLError

    def unreachable(*arguments: Any, **options: Any) -> Any:
        raise URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(MissingInputError, match="mnist cannot be fetched from https://") as error:
        load_dataset(Path("mnist"), size=28, download=True, cache=tmp_path)
    assert "Name or service not known" in error.value.message
    assert "\n" not in error.value.message


class Response(io.BytesIO):
    """What urlopen gives."""

    def __init__(self, url: str, data: bytes) -> None:
        super().__init__(data)
        self.url = url


def test_only_https_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(source.address.startswith("https://") for source in SOURCES.values())
    monkeypatch.setattr(
        "urllib.request.urlopen", lambda *_, **__: Response("http://elsewhere/x", b"data")
    )
    with pytest.raises(OSError, match="led to http://elsewhere/x, which is not https"):
        fetch_https("https://somewhere/x")


def test_endless_answers_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ofatvm.data.download.LIMIT_BYTES", 3)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Response("https://x", b"abcd"))
    with pytest.raises(OSError, match="more than 3 bytes"):
        fetch_https("https://x")
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Response("https://x", b"abc"))
    assert fetch_https("https://x") == b"abc"


def archive_of(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def test_an_archive_yields_its_known_files_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SOURCES["cifar10"]
    files = {f"cifar-10-batches-bin/{name}": name.encode() for name in source.files}
    data = archive_of(files | {"../evil.sh": b"rm", "cifar-10-batches-bin/readme.html": b"hi"})
    published = ((source.published[0][0], hashlib.md5(data).hexdigest()),)
    monkeypatch.setitem(SOURCES, "cifar10", replace(source, published=published))
    folder = fetched("cifar10", cache=tmp_path, fetch=lambda address: data)
    assert {path.name for path in folder.iterdir()} == set(source.files)
    assert (folder / "test_batch.bin").read_bytes() == b"test_batch.bin"
    assert not list(tmp_path.rglob("evil.sh"))


def test_an_archive_that_lacks_a_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SOURCES["cifar10"]
    data = archive_of({f"x/{name}": b"" for name in source.files[1:]})
    published = ((source.published[0][0], hashlib.md5(data).hexdigest()),)
    monkeypatch.setitem(SOURCES, "cifar10", replace(source, published=published))
    with pytest.raises(MissingInputError, match=r"lacks data_batch_1\.bin"):
        fetched("cifar10", cache=tmp_path, fetch=lambda address: data)


def test_a_process_that_is_not_the_first_waits_for_what_the_first_fetches(
    tmp_path: Path, mirror: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WORLD_SIZE", "4"), ("RANK", "3"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    source = SOURCES["mnist"]
    (tmp_path / "mnist").mkdir()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(fetched, "mnist", cache=tmp_path, fetch=never)
        for name in source.files:
            assert not waiting.done()
            replace_file(tmp_path / "mnist" / name, mirror(source.address + name))
        assert waiting.result(60) == tmp_path / "mnist"
    with pytest.raises(MissingInputError, match=r"has not fetched cifar10 into .* in 0 s"):
        awaited("cifar10", cache=tmp_path, seconds=0)


def test_the_first_process_of_each_machine_fetches(
    tmp_path: Path, mirror: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WORLD_SIZE", "4"), ("RANK", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    assert len(list(fetched("mnist", cache=tmp_path, fetch=mirror).iterdir())) == 4
