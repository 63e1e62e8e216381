"""Package files: downloaded with pip, checked against their hash, and read without being installed.

The cache is `home()/"data"`. A file is written into a temporary folder inside it and moved to its
place in one step, so an interrupted or failed fetch leaves nothing behind and two processes
that fetch at once do each other no harm.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import TrainlabError
from ..paths import home

_STALE_SECONDS = 24 * 3600
_WORKSPACE_PREFIX = ".fetch-"
_UNREADABLE = (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error)


@dataclass(frozen=True, slots=True)
class Source:
    """The package that carries a data set, and the file inside it.

    package, version: as the package index names them.  filename: of the wheel (`.whl`) or sdist
    (`.tar.gz`).  sha256: of that file, in hexadecimal.  size: of that file, in bytes.
    member: the path inside the archive.  labels: that of the labels, where they lie apart.
    within: the path inside the member, where that is a tar archive itself.
    installed: the data comes with an installed package, nothing is fetched, and only `package` counts.
    """

    package: str
    version: str = ""
    filename: str = ""
    sha256: str = ""
    size: int = 0
    member: str = ""
    labels: str = ""
    within: str = ""
    installed: bool = False

    def __str__(self) -> str:
        return f"{self.package} (installed)" if self.installed else f"{self.package} {self.version}"


def cache_folder() -> Path:
    """The folder of package files and converted arrays (it need not exist yet)."""
    return home() / "data"


@contextmanager
def workspace(size: int) -> Iterator[Path]:
    """A temporary folder inside the cache, gone when the block ends, however it ends.

    size: bytes that the block is going to write, named if the disk turns out to be full.
    Raises TrainlabError for any operating system error in the block (disk full, no permission).
    """
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _remove_stale_workspaces(cache)
        with tempfile.TemporaryDirectory(prefix=_WORKSPACE_PREFIX, dir=cache) as folder:
            yield Path(folder)
    except OSError as error:
        raise _cannot_write(cache, size, error) from error


def package_file(source: Source) -> Path:
    """The package file of `source` in the cache, downloaded if it is missing or damaged.

    Raises TrainlabError if pip cannot get it, its hash is wrong or the cache cannot be written.
    """
    path = cache_folder() / "packages" / source.filename
    if _matches(path, source.sha256):
        return path
    damaged = path.is_file()
    try:
        # pip holds its temporary file and the finished copy at the same time
        with workspace(2 * source.size) as folder:
            path.unlink(missing_ok=True)
            path.parent.mkdir(exist_ok=True)
            _download(source, folder).replace(path)
    except TrainlabError as error:
        if not damaged:
            raise
        raise TrainlabError(f"{path} is damaged (its SHA-256 is not the card's): {error}") from error
    return path


def read_member(path: Path, member: str) -> bytes:
    """The content of one member of a wheel (zip) or an sdist (tar.gz).

    Raises TrainlabError if the archive cannot be read or has no such member.
    """
    try:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                return wheel.read(member)
        with tarfile.open(path, "r:gz") as sdist:
            return _tar_member(sdist, member)
    except KeyError:
        raise _no_member(member, path.name) from None
    except _UNREADABLE as error:
        raise TrainlabError(
            f"{path} is not a readable archive ({error}): delete it and run `trainlab fetch` again"
        ) from error


def read_inner(archive: bytes, member: str) -> bytes:
    """The content of one member of a tar archive that is itself a member.

    Raises TrainlabError if the archive cannot be read or has no such member.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as inner:
            return _tar_member(inner, member)
    except KeyError:
        raise _no_member(member, "the archive inside the package file") from None
    except _UNREADABLE as error:
        raise TrainlabError(
            f"what lies inside the package file is no tar archive ({error}): give the data set's card the "
            "path of one"
        ) from error


def _tar_member(archive: tarfile.TarFile, member: str) -> bytes:
    stream = archive.extractfile(member)
    if stream is None:  # a folder
        raise KeyError(member)
    return stream.read()


def _no_member(member: str, archive: str) -> TrainlabError:
    return TrainlabError(
        f"no member {member!r} in {archive}: give the data set's card the path of a file inside it"
    )


def _remove_stale_workspaces(cache: Path) -> None:
    """Clear what a killed process could not clear itself, a day later."""
    for folder in cache.glob(f"{_WORKSPACE_PREFIX}*"):
        with suppress(FileNotFoundError):  # its owner removes it at this moment
            if time.time() - folder.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _cannot_write(cache: Path, size: int, error: OSError) -> TrainlabError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TrainlabError(
            f"cannot write to the cache {cache}: the disk is full and {size / 1e6:.1f} MB are needed "
            "there: free as much, or set TRAINLAB_HOME to a folder on another disk"
        )
    return TrainlabError(
        f"cannot write to the cache {cache} ({error.strerror or error}): make it a folder that you can "
        "write to, or set TRAINLAB_HOME to one"
    )


def _matches(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def _download(source: Source, folder: Path) -> Path:
    """Download the package file into `folder` and check its hash once more than pip does."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n")
    # by the package's name, never ":all:": pip hands the choice on to an sdist's build requirements
    kind = "--only-binary" if source.filename.endswith(".whl") else "--no-binary"
    downloads = folder / "downloads"
    arguments = ["download", "--no-deps", "--require-hashes", f"{kind}={source.package}"]
    # the file ends up in our cache: a second copy in pip's own would be waste
    arguments += [
        "--no-cache-dir",
        "--progress-bar=off",
        f"--dest={downloads}",
        f"--requirement={requirements}",
    ]
    with _progress(source, folder) as report:
        code, output = _pip([*arguments, *_patience()], folder, report)
        path = downloads / source.filename
        if code != 0 or not path.is_file():
            raise _pip_error(source, output)
        if not _matches(path, source.sha256):
            raise _wrong_hash(source)
    return path


@contextmanager
def _progress(source: Source, folder: Path) -> Iterator[Callable[[], None]]:
    """A bar of the bytes downloaded; each call of what it yields looks at the growing file again."""
    from tqdm.auto import tqdm  # slow to import, and only needed here

    unattended = os.environ.get("TRAINLAB_UNATTENDED") == "1"
    with tqdm(
        total=source.size, unit="B", unit_scale=True, desc=f"downloading {source}", disable=unattended
    ) as bar:

        def report() -> None:
            with suppress(FileNotFoundError):  # pip moves and removes files meanwhile
                # pip's temporary file and its finished copy are the same bytes: the larger counts
                size = max((file.stat().st_size for file in folder.rglob(source.filename)), default=0)
                bar.update(max(0, size - bar.n))

        yield report
        report()


def _patience() -> list[str]:
    """Options that let pip give up within seconds offline, where the learner has not set their own.

    A command line option beats pip's variables and files, so a slow mirror's settings must be looked at.
    """
    _, listing = _pip(["config", "list"])
    names = {line.partition("=")[0] for line in listing.splitlines()}
    settings = {
        name.rpartition(".")[2] for name in names if name.startswith((":env:.", "global.", "download."))
    }
    options = [] if "retries" in settings else ["--retries=1"]
    return options if settings & {"timeout", "default-timeout"} else [*options, "--timeout=10"]


def _pip(
    arguments: list[str], folder: Path | None = None, waiting: Callable[[], None] | None = None
) -> tuple[int, str]:
    """Run this interpreter's pip; returns its exit code and everything it said.

    folder: where its temporary files go (they are part of what the workspace clears).
    waiting: called ten times a second.
    """
    # -P: a file in the learner's folder called like a standard module must not break pip
    command = [sys.executable, "-P", "-m", "pip", *arguments, "--disable-pip-version-check", "--no-input"]
    environment = os.environ | ({"TMPDIR": str(folder)} if folder else {})
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # so that an interrupt ends pip and the build steps it started
    ) as process:
        try:
            while True:
                try:
                    output, _ = process.communicate(timeout=0.1)
                    return process.returncode, output
                except subprocess.TimeoutExpired:
                    if waiting:
                        waiting()
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()  # `with` does not after an interrupt, and its folder is removed next
            raise


def _pip_error(source: Source, output: str) -> Exception:
    """What pip said, as an error that names the remedy and never an address."""
    wanted = f"{source.package}=={source.version}"
    if "No module named pip" in output:
        return TrainlabError(
            f"cannot fetch {wanted}: {sys.executable} has no pip: run `python -m ensurepip` with that python"
        )
    if "DO NOT MATCH THE HASHES" in output:
        return _wrong_hash(source)
    if re.search(r"No space left on device|quota exceeded", output):
        return OSError(errno.ENOSPC, "No space left on device")  # for the workspace to explain
    # warnings tell of attempts that pip repeated, with success perhaps
    lines = [line for line in output.splitlines() if not line.startswith("WARNING")]
    if re.search(r"No matching distribution|ConnectionPool|ConnectionError|timed out", "\n".join(lines)):
        return TrainlabError(
            f"cannot fetch {wanted}: pip found no package file for it: check that you are online and that "
            "your mirror, if you use one, can be reached; then run `trainlab fetch` once while online"
        )
    errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
    said = re.sub(r"\S*://\S*|host='[^']*'", "<address>", " ".join(errors))
    return TrainlabError(
        f"cannot fetch {wanted}: pip failed ({said}): put that right and run `trainlab fetch` again"
    )


def _wrong_hash(source: Source) -> TrainlabError:
    return TrainlabError(
        f"cannot fetch {source.package}=={source.version}: the file {source.filename} that pip downloaded "
        f"does not have the SHA-256 {source.sha256} of the card: nothing was kept; check that your mirror "
        "serves the original file, and run `trainlab fetch` again"
    )
