"""Where the control socket of an instance is.

An instance puts it into the first of these that applies, as `<name>.sock`, and a client looks into all of them:

1. `$RUNTIME_DIRECTORY`, which a service manager sets (of a colon-separated list the first);
2. `$XDG_RUNTIME_DIR/outrider`, if `$XDG_RUNTIME_DIR` is a directory of this user;
3. `/run/outrider` for root, `/tmp/outrider-<uid>` for anybody else, whose clients look into `/run/outrider` last.

So an instance that a service manager runs is found from a shell if its directory is `/run/outrider`
(`RuntimeDirectory=outrider`), or one below it (`RuntimeDirectory=outrider/shop`), which several can have, each as a
user of its own. Nobody but root searches the directories of other users; who has one can't take another's name.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from outrider.errors import ConfigurationError
from outrider_supervisor.unix_sockets import MOST_PATH, identify, listener_behind

MOST_NAME = 64
SUFFIX = ".sock"
_SYSTEM_DIRECTORY = "/run/outrider"
_OPEN_TO_WRITERS = stat.S_IWGRP | stat.S_IWOTH
_OPEN_TO_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory for control sockets.

    One that is `managed` has the mode that the service manager gave it, and may be root's symbolic link: systemd makes
    such for `DynamicUser=`.
    """

    path: Path
    managed: bool = False

    def open(self, uid: int) -> int:
        """Make the directory where it is missing, check it, and return a descriptor of it.

        It is made for its user alone (mode 0700); others may pass through the system's, to directories of their own.

        Raises:
            ConfigurationError: it cannot be made, is a symbolic link, is not this user's, or is open to others:
                to any access, or if it is managed or the system's, to writing.
        """
        follow = 0 if self.managed and _is_roots_link(self.path) else os.O_NOFOLLOW
        try:
            if not self.managed:
                self._make()
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | follow)
        except OSError as error:
            what = "it is no directory, or a symbolic link" if self.path.is_symlink() else error.strerror
            raise ConfigurationError(
                f"control socket: can't use the directory {self.path} ({what}); "
                "set RUNTIME_DIRECTORY to one that this user alone can write to"
            ) from error
        found = os.fstat(descriptor)
        forbidden = _OPEN_TO_WRITERS if self.managed or self._is_systems else _OPEN_TO_OTHERS
        if found.st_uid != uid:
            problem = f"belongs to uid {found.st_uid}, not to uid {uid}"
        elif found.st_mode & forbidden:
            problem = f"has mode {stat.S_IMODE(found.st_mode):04o}; allowed is 0700"
        else:
            return descriptor
        os.close(descriptor)
        raise ConfigurationError(f"control socket: the directory {self.path} {problem}")

    def _make(self) -> None:
        try:
            # The umask can only take rights away.
            self.path.mkdir(mode=0o755 if self._is_systems else 0o700)
        except FileExistsError:
            return

    @property
    def _is_systems(self) -> bool:
        return self.path == Path(_SYSTEM_DIRECTORY)


def check_name(name: str) -> str:
    """Return `name` if an instance may have it.

    Raises:
        ConfigurationError: it is empty or longer than `MOST_NAME` bytes, or has a slash, a leading dot or a control
            character in it.
    """
    problem = ""
    if not name or len(os.fsencode(name)) > MOST_NAME:
        problem = f"1 to {MOST_NAME} bytes are allowed"
    elif "/" in name or name.startswith(".") or not name.isprintable():
        problem = "a slash, a leading dot and control characters are not allowed"
    if problem:
        raise ConfigurationError(f"name={name!r} (proc_name): it names the control socket; {problem}")
    return name


def directories(environ: Mapping[str, str], uid: int) -> list[Directory]:
    """The directories in which control sockets may be, the one for new ones first."""
    found = []
    managed = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if managed:
        found.append(Directory(Path(managed), managed=True))
    user_directory = environ.get("XDG_RUNTIME_DIR", "")
    if user_directory and _belongs_to(user_directory, uid):
        found.append(Directory(Path(user_directory, "outrider")))
    if uid != 0:
        found.append(Directory(Path(f"/tmp/outrider-{uid}")))  # noqa: S108  # `open` and `find_socket` check whose it is
    found.append(Directory(Path(_SYSTEM_DIRECTORY)))
    return found


def socket_in(directory: Directory, name: str) -> Path:
    """The path of the control socket of the instance `name`.

    Raises:
        ConfigurationError: no instance may have that name, or the path is too long for a socket.
    """
    path = directory.path / f"{check_name(name)}{SUFFIX}"
    length = len(os.fsencode(path))
    if length > MOST_PATH:
        raise ConfigurationError(
            f"control socket: {path} has {length} bytes, {MOST_PATH} are allowed; "
            "choose a shorter --name or RUNTIME_DIRECTORY"
        )
    return path


def find_socket(name: str | None, environ: Mapping[str, str], uid: int) -> Path:
    """The control socket that a client should talk to.

    With a name it is where that instance lives, else where it is dead, else where it would be. Without one it is
    that of the only instance that lives. Of several with the same name it is that in `$RUNTIME_DIRECTORY`.

    Raises:
        ConfigurationError: the name is not allowed, or none was given and there is not exactly one instance; or what
            there is belongs to somebody else; or several have the same name.
    """
    places = directories(environ, uid)
    trusted = [each.path for each in places if uid == 0 or _belongs_to(each.path, uid, 0)]
    instances = _instance_directories()
    ours = [path for path in instances if uid == 0 or _belongs_to(path, uid, 0)]
    trusted = list(dict.fromkeys([*trusted, *ours]))
    others = [path.name for path in instances if path not in ours]
    if name is not None:
        paths = [socket_in(each, name) for each in places]
        found = [path for each in trusted if identify(path := each / f"{name}{SUFFIX}")]
        there = [path for path in found if not _is_anothers_name(path, instances)]
        if not there and name in others:
            raise ConfigurationError(
                f"the supervisor named {name} ({_SYSTEM_DIRECTORY}/{name}) is another user's: run this as that user, "
                "or as root"
            )
        living = [path for path in there if _lives(path)]
        return _one_of(living, places[0]) if living else next(iter(there), paths[0])
    living = [
        path
        for directory in trusted
        for path in sorted(directory.glob(f"*{SUFFIX}"))
        if identify(path) and not _is_anothers_name(path, instances) and _lives(path)
    ]
    names = {path.stem for path in living}
    if len(names) == 1:
        return _one_of(living, places[0])
    if names:
        raise ConfigurationError(f"several supervisors run here: choose one with --name ({', '.join(sorted(names))})")
    if others:
        raise ConfigurationError(
            f"what runs here is other users' ({', '.join(others)} in {_SYSTEM_DIRECTORY}): run this as root"
        )
    looked = ", ".join(str(each.path) for each in places)
    raise ConfigurationError(
        f"no supervisor runs here (no living control socket in {looked}); start one with `outrider run`"
    )


def _one_of(living: Sequence[Path], first: Directory) -> Path:
    """The socket of the only instance of a name, or of the one in the directory that the environment names."""
    if len(living) > 1 and not (first.managed and living[0].parent == first.path):
        where = ", ".join(str(path.parent) for path in living)
        raise ConfigurationError(
            f"several supervisors named {living[0].stem} run here: choose one with RUNTIME_DIRECTORY ({where}) "
            "in the environment"
        )
    return living[0]


def _instance_directories() -> list[Path]:
    """The directories of single instances below the system's, which nobody but root may make."""
    system = Path(_SYSTEM_DIRECTORY)
    try:
        found = sorted(system.iterdir()) if _is_roots_alone(system) else []
        return [path for path in found if path.suffix != SUFFIX]
    except OSError:
        return []


def _is_anothers_name(path: Path, instances: Collection[Path]) -> bool:
    """Whether an instance has put in a socket that is called as another one, which has a directory of its own."""
    home = Path(_SYSTEM_DIRECTORY, path.stem)
    return path.parent in instances and path.parent != home and home in instances


def _is_roots_alone(path: Path) -> bool:
    mode = _mode(path, 0)
    return stat.S_ISDIR(mode) and not mode & _OPEN_TO_WRITERS


def _is_roots_link(path: Path) -> bool:
    return stat.S_ISLNK(_mode(path, 0))


def _lives(path: Path) -> bool:
    try:
        return listener_behind(path) is not None
    except OSError:
        return True  # somebody else's; the client will say so


def _belongs_to(path: str | Path, *uids: int) -> bool:
    return stat.S_ISDIR(_mode(path, *uids))


def _mode(path: str | Path, *uids: int) -> int:
    """Type and permissions of what is there, links not followed; 0 without anything that is one of these users'."""
    try:
        found = os.lstat(path)
    except OSError:
        return 0
    return found.st_mode if found.st_uid in uids else 0
