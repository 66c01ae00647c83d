"""Machines of a test: network namespaces, alone or joined by a switch. It takes root, iproute2 and util-linux.

Each `Host` has ports of its own, and its own empty /run and /srv, so that a test can use the fixed ports, the
paths and the control sockets of the documentation. A process of the test holds the namespaces, and takes along what
runs in them when the test ends, even by SIGKILL; then the kernel removes them, with their links and mounts.

    with isolated() as host:
        process = host.start("nginx", "-c", str(config), stdout=log)
        with host.entered():
            response = fetch(("127.0.0.1", 80), "/")

    with network(proxy="10.0.0.10", shop1="10.0.0.11") as hosts:
        hosts["proxy"].run("curl", "-fsS", "http://10.0.0.11:8000/")
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from outrider_testing.namespaces import in_network_of
from outrider_testing.processes import processes
from outrider_testing.programs import DEADLINE, check_programs, check_root, run_program
from outrider_testing.waiting import until

PRIVATE = ("/run", "/srv")
"""Directories that each host has for itself."""
INTERFACE = "eth0"
_NEEDED = {"unshare": "util-linux", "nsenter": "util-linux", "ip": "iproute2"}

# It holds the namespaces until its input ends, as it does when the test is killed: then it kills all that is here, and
# twice more, for what was forked meanwhile. `Host.close` kills for itself, and sees that it is done.
_HOLD = f"""
set -e
ip link set lo up
for each in {" ".join(PRIVATE)}; do mount -t tmpfs tmpfs "$each"; done
echo ready
set +e
read -r _
own=$(stat -L -c %i /proc/self/ns/net)
for round in 1 2 3; do
    for each in $(stat -L -c %i:%n /proc/[0-9]*/ns/net); do
        pid=${{each#*/proc/}} pid=${{pid%%/*}}
        [ "${{each%%:*}}" != "$own" ] || [ "$pid" = $$ ] || kill -KILL "$pid"
    done
done 2>/dev/null
"""


class Host:
    """One machine: a network and a mount namespace. `address` is where others reach it, and itself."""

    def __init__(self, name: str, address: str = "127.0.0.1") -> None:
        """Make it, with its loopback interface up. Use as in `isolated` and `network`, which end it."""
        self.name = name
        self.address = address
        self._started: list[subprocess.Popen[bytes]] = []
        command = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", _HOLD]
        self._holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"ready\n":
            self.close()
            raise AssertionError(f"no namespaces could be made for {name}: see the errors above")

    # Running something

    @property
    def pid(self) -> int:
        """Of a process in its namespaces: what `nsenter --target` takes."""
        return self._holder.pid

    def command(self, *words: str, directory: Path | str = "/") -> list[str]:
        """The command line that runs `words` here, in this directory of its own.

        The process that it starts becomes the one asked for (execve), and can be signalled.
        """
        return ["nsenter", "--target", str(self.pid), "--net", "--mount", f"--wdns={directory}", "--", *words]

    def start(self, *words: str, directory: Path | str = "/", **options: Any) -> subprocess.Popen[bytes]:
        """Start a program, with the options of Popen; `close` kills it with everything else that runs here."""
        options = {"stdin": subprocess.DEVNULL, "start_new_session": True, **options}
        process = subprocess.Popen(self.command(*words, directory=directory), **options)
        self._started.append(process)
        return process

    def run(self, *words: str, directory: Path | str = "/", check: bool = True) -> str:
        """Run a command to its end; return what it wrote. With `check` it must end with 0."""
        done = run_program(self.command(*words, directory=directory))
        assert not check or done.returncode == 0, f"{self.name}: {words}: status {done.returncode}\n{done.stdout}"
        return done.stdout

    def entered(self) -> contextlib.AbstractContextManager[None]:
        """Have this thread, and those it starts meanwhile, open their sockets here."""
        return in_network_of(self.pid)

    def path(self, path: Path | str) -> Path:
        """What the host calls so, such as /run/outrider/shop.sock, by a path that everybody has."""
        return Path(f"/proc/{self.pid}/root") / str(path).lstrip("/")

    # What happens to it

    def processes(self) -> list[int]:
        """The pids of what runs here."""
        namespace = Path(f"/proc/{self.pid}/ns/net").readlink()
        found = [each.pid for each in processes() if each.pid != self.pid]
        return [pid for pid in found if _namespace(pid) == namespace]

    def kill_processes(self, deadline: float = DEADLINE) -> None:
        """Kill all that runs here at once, as the loss of the machine would."""

        def is_empty() -> bool:
            pids = self.processes()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not pids

        until(is_empty, deadline, what=f"the end of all processes of {self.name}")

    def set_link(self, *, up: bool) -> None:
        """Plug its cable in or pull it out."""
        self.run("ip", "link", "set", INTERFACE, "up" if up else "down")

    def close(self) -> None:
        """Kill what runs here, and let the namespaces go."""
        try:
            if self._holder.poll() is None:
                self.kill_processes()
        finally:
            self._holder.kill()
            self._holder.communicate()
            for process in self._started:
                process.wait(DEADLINE)


@contextlib.contextmanager
def isolated(name: str = "host") -> Iterator[Host]:
    """One machine with nothing but its loopback interface: for fixed ports, and paths below /run and /srv."""
    check_root()
    check_programs(_NEEDED)
    host = Host(name)
    try:
        yield host
    finally:
        host.close()


@contextlib.contextmanager
def network(**addresses: str) -> Iterator[dict[str, Host]]:
    """Machines by their names, which reach one another at these addresses, all of one /24."""
    with contextlib.ExitStack() as stack:
        switch = stack.enter_context(isolated("switch"))
        switch.run("ip", "link", "add", "bridge", "type", "bridge")
        switch.run("ip", "link", "set", "bridge", "up")
        hosts = {}
        for number, (name, address) in enumerate(addresses.items()):
            host = hosts[name] = Host(name, address)
            stack.callback(host.close)
            port = f"port{number}"
            switch.run(*f"ip link add {port} type veth peer name {INTERFACE} netns {host.pid}".split())
            switch.run(*f"ip link set {port} master bridge up".split())
            host.run(*f"ip address add {address}/24 dev {INTERFACE}".split())
            host.run(*f"ip link set {INTERFACE} up".split())
        yield hosts


def _namespace(pid: int) -> Path | None:
    try:
        return Path(f"/proc/{pid}/ns/net").readlink()
    except OSError:  # it has ended, or is none of ours
        return None
