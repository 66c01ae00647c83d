"""Where the control socket of an instance is, and how a client finds it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from outrider.errors import ConfigurationError
from outrider_supervisor import paths
from outrider_supervisor.paths import Directory, check_name, directories, find_socket, socket_in

UID = os.geteuid()
Listen = Callable[[Path], socket.socket]


@pytest.fixture
def alone(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no supervisor that runs on this machine be found."""
    monkeypatch.setattr(paths, "_SYSTEM_DIRECTORY", str(tmp_path_factory.mktemp("system")))


@pytest.fixture
def listen(alone: None) -> Iterator[Listen]:  # noqa: ARG001  # what is made here is all there is
    sockets = []

    def open_at(path: Path) -> socket.socket:
        path.parent.mkdir(parents=True, exist_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(str(path))
        sock.listen(1)
        sockets.append(sock)
        return sock

    yield open_at
    for sock in sockets:
        sock.close()


@pytest.fixture
def environ(tmp_path: Path, alone: None) -> dict[str, str]:  # noqa: ARG001  # as above
    """A service manager's directory and a user's."""
    for name in ("managed", "user"):
        (tmp_path / name).mkdir(mode=0o755)
    return {"RUNTIME_DIRECTORY": str(tmp_path / "managed"), "XDG_RUNTIME_DIR": str(tmp_path / "user")}


# -- names


@pytest.mark.parametrize("name", ["shop", "app:app", "shop-2.blue", "läden", "x" * 64])
def test_ordinary_name_is_allowed(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a\nb", "a\0b", "x" * 65, "ä" * 33])
def test_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^name='.*allowed$"):
        check_name(name)


def test_path_is_the_name_in_the_directory() -> None:
    assert socket_in(Directory(Path("/run/shop")), "app:app") == Path("/run/shop/app:app.sock")


def test_path_too_long_for_a_socket_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="108 bytes, 107 are allowed"):
        socket_in(Directory(Path("/" + "d" * 97)), "shop")
    assert len(str(socket_in(Directory(Path("/" + "d" * 96)), "shop"))) == 107


# -- where


def test_service_managers_directory_comes_first() -> None:
    found = directories({"RUNTIME_DIRECTORY": "/run/shop:/run/other"}, 0)
    assert found == [Directory(Path("/run/shop"), managed=True), Directory(Path("/run/outrider"))]


def test_users_directory_counts_if_it_is_the_users(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert directories(environ, UID)[0] == Directory(tmp_path / "outrider")
    assert Directory(tmp_path / "outrider") not in directories(environ, UID + 1)
    assert Directory(tmp_path / "no" / "outrider") not in directories({"XDG_RUNTIME_DIR": f"{tmp_path}/no"}, UID)


def test_ordinary_user_without_one_has_a_directory_in_tmp() -> None:
    found = directories({}, 1234)
    assert [each.path for each in found] == [Path("/", "tmp", "outrider-1234"), Path("/run/outrider")]


# -- the directory


def test_missing_directory_is_made_private(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "outrider")
    before = os.umask(0)
    try:
        os.close(directory.open(UID))
    finally:
        os.umask(before)
    assert directory.path.stat().st_mode & 0o777 == 0o700
    os.close(directory.open(UID))


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o777])
def test_directory_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(ConfigurationError, match=f"has mode {mode:04o}; allowed is 0700"):
        Directory(tmp_path).open(UID)


def test_managed_directory_may_be_read_but_not_written_by_others(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    os.close(Directory(tmp_path, managed=True).open(UID))
    tmp_path.chmod(0o775)
    with pytest.raises(ConfigurationError, match="has mode 0775"):
        Directory(tmp_path, managed=True).open(UID)


def test_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(ConfigurationError, match=f"belongs to uid {UID}, not to uid {UID + 1}"):
        Directory(tmp_path).open(UID + 1)


def test_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ConfigurationError, match="a symbolic link"):
        Directory(tmp_path / "link").open(UID)


def test_directory_without_a_parent_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"No such file or directory.*set RUNTIME_DIRECTORY"):
        Directory(tmp_path / "no" / "outrider").open(UID)


# -- the client's look


def test_client_finds_the_living_instance_of_a_name(environ: dict[str, str], tmp_path: Path, listen: Listen) -> None:
    dead = listen(tmp_path / "managed/shop.sock")
    dead.close()
    assert find_socket("shop", environ, UID) == tmp_path / "managed/shop.sock"
    living = tmp_path / "user/outrider/shop.sock"
    listen(living)
    assert find_socket("shop", environ, UID) == living


def test_client_is_told_where_the_instance_would_be(environ: dict[str, str], tmp_path: Path) -> None:
    assert find_socket("absent-test", environ, UID) == tmp_path / "managed/absent-test.sock"


def test_client_needs_no_name_for_a_single_instance(environ: dict[str, str], tmp_path: Path, listen: Listen) -> None:
    listen(tmp_path / "managed/dead.sock").close()
    (tmp_path / "managed/file.sock").write_text("")
    living = tmp_path / "user/outrider/shop.sock"
    listen(living)
    assert find_socket(None, environ, UID) == living


def test_client_is_told_the_names_of_several_instances(environ: dict[str, str], tmp_path: Path, listen: Listen) -> None:
    listen(tmp_path / "managed/shop.sock")
    listen(tmp_path / "user/outrider/blog.sock")
    with pytest.raises(ConfigurationError, match=r"choose one with --name \(blog, shop\)"):
        find_socket(None, environ, UID)


def test_client_is_told_that_nothing_runs(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"no supervisor runs here .* start one with `outrider run`"):
        find_socket(None, environ, UID)


def test_client_does_not_trust_a_strangers_directory(tmp_path: Path, listen: Listen) -> None:
    if UID != 0:  # as root every directory is trusted; as anybody else root's are
        environ = {"RUNTIME_DIRECTORY": "/nonexistent"}
        assert find_socket("shop", environ, UID) == Path("/nonexistent/shop.sock")
        return
    os.chown(tmp_path, 4321, 4321)
    listen(tmp_path / "shop.sock")
    environ = {"RUNTIME_DIRECTORY": str(tmp_path)}
    assert find_socket("shop", environ, 0) == tmp_path / "shop.sock"
    with pytest.raises(ConfigurationError, match="no supervisor runs here"):
        find_socket(None, environ, 1234)


def test_instance_that_cannot_be_connected_to_counts_as_living(
    tmp_path: Path, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 100)  # a path that connect(2) does not take
    deep.mkdir()
    monkeypatch.chdir(deep)
    listen(Path("shop.sock"))
    assert find_socket(None, {"RUNTIME_DIRECTORY": str(deep)}, UID) == deep / "shop.sock"


# -- directories of instances below the system's


@pytest.fixture
def system(alone: None, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: ARG001  # its directory
    """The system's directory, root's."""
    directory = Path(paths._SYSTEM_DIRECTORY)
    directory.chmod(0o755)
    lstat = os.lstat

    def lstat_as_roots(path: str | os.PathLike[str]) -> os.stat_result:
        found = lstat(path)
        if str(path) == str(directory):
            return os.stat_result((*found[:4], 0, *found[5:]))
        return found

    monkeypatch.setattr(os, "lstat", lstat_as_roots)
    return directory


def test_client_finds_an_instance_with_a_directory_of_its_own(system: Path, listen: Listen) -> None:
    listen(system / "shop/shop.sock")
    assert find_socket("shop", {}, UID) == system / "shop/shop.sock"
    assert find_socket(None, {}, UID) == system / "shop/shop.sock"
    listen(system / "blog/blog.sock")
    assert find_socket("blog", {}, UID) == system / "blog/blog.sock"
    with pytest.raises(ConfigurationError, match=r"choose one with --name \(blog, shop\)"):
        find_socket(None, {}, UID)


def test_client_prefers_the_instance_that_lives_in_its_own_directory(system: Path, listen: Listen) -> None:
    listen(system / "shop.sock").close()
    listen(system / "shop/shop.sock")
    assert find_socket("shop", {}, 0) == system / "shop/shop.sock"


def test_client_is_told_of_several_instances_with_the_same_name(system: Path, listen: Listen) -> None:
    listen(system / "shop.sock")
    listen(system / "shop/shop.sock")
    complaint = rf"several supervisors named shop run here: .* RUNTIME_DIRECTORY \({system}, {system}/shop\)"
    for name in ("shop", None):
        with pytest.raises(ConfigurationError, match=complaint):
            find_socket(name, {}, 0)
        for chosen in (system, system / "shop"):
            assert find_socket(name, {"RUNTIME_DIRECTORY": str(chosen)}, 0) == chosen / "shop.sock"


def test_instance_cannot_take_the_name_of_one_with_a_directory(system: Path, listen: Listen) -> None:
    listen(system / "blog/shop.sock")
    shop = listen(system / "shop/shop.sock")
    assert find_socket("shop", {}, 0) == system / "shop/shop.sock"
    assert find_socket(None, {}, 0) == system / "shop/shop.sock"
    shop.close()
    assert find_socket("shop", {}, 0) == system / "shop/shop.sock"
    with pytest.raises(ConfigurationError, match="no supervisor runs here"):
        find_socket(None, {}, 0)


def test_instance_may_be_called_otherwise_than_its_directory(system: Path, listen: Listen) -> None:
    listen(system / "site/shop.sock")
    assert find_socket("shop", {}, 0) == system / "site/shop.sock"


def test_root_finds_what_is_behind_the_link_of_a_dynamic_user(system: Path, tmp_path: Path, listen: Listen) -> None:
    listen(tmp_path / "private/shop.sock")
    (system / "shop").symlink_to(tmp_path / "private")
    assert find_socket("shop", {}, 0) == system / "shop/shop.sock"
    assert find_socket(None, {}, 0) == system / "shop/shop.sock"
    with pytest.raises(ConfigurationError, match=r"is other users' \(shop in .*\): run this as root"):
        find_socket(None, {}, 1234)


def test_user_does_not_search_the_instances_of_other_users(system: Path, listen: Listen) -> None:
    if UID == 0:
        listen(system / "shop/shop.sock")
        os.chown(system / "shop", 4321, 4321)
        with pytest.raises(ConfigurationError, match=r"is other users' \(shop in .*\): run this as root"):
            find_socket(None, {}, 1234)
        with pytest.raises(ConfigurationError, match=r"the supervisor named shop \(.*/shop\) is another user's: run"):
            find_socket("shop", {}, 1234)
        assert find_socket("shop", {}, 4321) == system / "shop/shop.sock"
    assert find_socket("other", {}, 1234) == Path("/", "tmp", "outrider-1234", "other.sock")


@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_directory_that_others_may_write_to_has_no_instances(system: Path, listen: Listen, mode: int) -> None:
    listen(system / "shop/shop.sock")
    system.chmod(mode)
    assert find_socket("shop", {}, 1234) == Path("/", "tmp", "outrider-1234", "shop.sock")


def test_directory_that_is_not_roots_has_no_instances(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (system / "shop").mkdir()
    lstat = os.lstat
    monkeypatch.setattr(os, "lstat", lambda path: os.stat_result((*(found := lstat(path))[:4], 4321, *found[5:])))
    assert find_socket("shop", {}, 1234) == Path("/", "tmp", "outrider-1234", "shop.sock")


def test_socket_in_the_systems_directory_is_no_directory_of_an_instance(system: Path, listen: Listen) -> None:
    listen(system / "shop.sock").close()
    with pytest.raises(ConfigurationError, match="no supervisor runs here"):
        find_socket(None, {}, 1234)


def test_instance_in_the_systems_directory_is_found_beside_an_empty_one(system: Path, listen: Listen) -> None:
    listen(system / "shop.sock")
    (system / "shop").mkdir()
    assert find_socket("shop", {}, 0) == system / "shop.sock"
    assert find_socket(None, {}, 0) == system / "shop.sock"


def test_directory_that_cannot_be_listed_has_no_instances(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system.chmod(0o711)

    def refuse(_path: Path) -> Iterator[Path]:
        raise PermissionError

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert find_socket("shop", {}, 1234) == Path("/", "tmp", "outrider-1234", "shop.sock")


def test_system_directory_lets_others_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_SYSTEM_DIRECTORY", str(tmp_path / "outrider"))
    directory = Directory(tmp_path / "outrider")
    before = os.umask(0o022)
    try:
        os.close(directory.open(UID))
    finally:
        os.umask(before)
    assert directory.path.stat().st_mode & 0o777 == 0o755
    directory.path.chmod(0o775)
    with pytest.raises(ConfigurationError, match="has mode 0775"):
        directory.open(UID)


def test_managed_directory_may_be_roots_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "private").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(tmp_path / "private")
    link = Directory(tmp_path / "link", managed=True)
    monkeypatch.setattr(paths, "_is_roots_link", lambda _path: False)
    with pytest.raises(ConfigurationError, match="a symbolic link"):
        link.open(UID)
    monkeypatch.undo()
    if UID == 0:
        os.close(link.open(UID))
        os.lchown(link.path, 4321, 4321)
    with pytest.raises(ConfigurationError, match="a symbolic link"):
        link.open(UID)
