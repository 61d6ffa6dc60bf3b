"""Podman in Docker's place for tests: Debian's packages, unpacked, and a base image made of this Python."""

from __future__ import annotations

import ast
import configparser
import contextlib
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.serving.proxies import find_program

PACKAGES = ("podman", "runc", "slirp4netns")  # runc: crun refuses machines whose control groups are of both versions
UNPACKED = Path(sys.prefix) / "containers"  # goes with the environment
NAME = "service"  # of the container that runs: there is one at a time
# What the real slim image has beside the interpreter, and wheels may ask of a Linux: glibc's and GCC's libraries.
_LIBRARIES = ("libstdc++.so.6", "libgcc_s.so.1", "librt.so.1", "libpthread.so.0", "libdl.so.2", "libutil.so.1")
_LEFT_OUT = ("site-packages", "dist-packages", "test", "idlelib", "*tkinter*", "turtledemo", "ensurepip",
             "config-*", "__pycache__", "EXTERNALLY-MANAGED")  # fmt: skip
_PIP_KEYS = {"index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "cert", "client-cert", "proxy",
             "constraint", "timeout", "default-timeout", "retries"}  # fmt: skip
_START_SECONDS = 60.0


def get_programs() -> None:
    """Unpacks Debian's packages and what they need: nothing is installed.

    Raises:
        OSError: They cannot be had here.
    """
    if (UNPACKED / "usr" / "bin" / "podman").exists():
        return
    if not shutil.which("apt-get") or os.geteuid():
        raise OSError(f"{', '.join(PACKAGES)} come as Debian's packages, and only root can get and run them.")
    with tempfile.TemporaryDirectory() as scratch:
        get = ["apt-get", "install", "-q", "-y", "--no-install-recommends", "--reinstall", "--download-only"]
        get += ["-o", f"Dir::Cache::archives={scratch}", *PACKAGES]
        for command in (["apt-get", "update", "-q"], get):
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise OSError(f"apt-get gives no {' and no '.join(PACKAGES)}: {ended.stderr[-500:]}")
        part = UNPACKED.with_name(f"containers-{os.getpid()}")
        for package in Path(scratch).glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, part], check=True)
        part.rename(UNPACKED)


@dataclass
class Docker:
    """The command `docker`, which is Podman with images of its own, told to do as Docker does."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """With `docker` first on the path."""
        return {**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}"}

    def __call__(self, *words: str | Path) -> str:
        """Runs one command to its end; gives what it wrote."""
        ended = self.try_(*words)
        assert ended.returncode == 0, f"docker {words[0]}: {ended.stdout[-2000:]}{ended.stderr[-2000:]}"
        return ended.stdout

    def try_(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Runs one command that may fail."""
        command = [self.folder / "docker", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def inspect(self, kind: str, name: str) -> dict[str, Any]:
        """What it knows of an image or a container."""
        [found] = json.loads(self(kind, "inspect", name))
        return dict(found)

    @contextlib.contextmanager
    def running(self, command: str, log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """Runs a line of a shell that says `docker run`, until the block ends; it is ready when the block begins.

        Args:
            command: The line.
            log: Where its output goes.
            **environment: Variables for it.
        """
        words = ["sh", "-c", f"exec {command}"]
        with (
            log.open("wb") as output,
            subprocess.Popen(words, stdout=output, stderr=output, env={**self.environment, **environment}) as process,
        ):
            try:
                end = time.monotonic() + _START_SECONDS
                while '"event.action":"start"' not in log.read_text():
                    assert process.poll() is None, f"it ended: {log.read_text()[-2000:]}"
                    assert time.monotonic() < end, f"it does not start: {log.read_text()[-2000:]}"
                    time.sleep(0.1)
                yield process
            finally:
                self.try_("rm", "--force", "--ignore", NAME)
                process.kill()


@contextlib.contextmanager
def docker() -> Iterator[Docker]:
    """A Docker without images until the block ends; what it stored goes with it."""
    with tempfile.TemporaryDirectory(prefix="docker") as place:  # not pytest's folder: paths of sockets must be short
        folder = Path(place)
        script = folder / "docker"
        script.write_text(_script(folder), encoding="utf-8")
        script.chmod(0o755)
        command = Docker(folder)
        try:
            yield command
        finally:
            command.try_("rm", "--all", "--force")
            command.try_("rmi", "--all", "--force")


def _script(folder: Path) -> str:
    """Podman's settings, and where it differs from Docker by itself: the form of images, /tmp of read-only ones."""
    usr = UNPACKED / "usr"
    libraries = ":".join(str(path) for path in (*usr.glob("lib/*-linux-gnu*"), *UNPACKED.glob("lib/*-linux-gnu*")))
    systemless = {"LD_LIBRARY_PATH": libraries, "DISABLE_HC_SYSTEMD": "true"}  # no timers: tests ask for the check
    limits = (
        (name, 4096 if most < 0 else min(most, 4096))  # not Podman's, which may be more than root has here
        for name, most in (
            ("nofile", resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
            ("nproc", resource.getrlimit(resource.RLIMIT_NPROC)[1]),
        )
    )
    tables: dict[str, dict[str, Any]] = {
        "containers": {"default_ulimits": [f"{name}={most}:{most}" for name, most in limits]},
        "engine": {
            "cgroup_manager": "cgroupfs",
            "events_logger": "file",
            "runtime": "runc",
            "conmon_path": [str(usr / "bin" / "conmon"), "/usr/bin/conmon"],
            "conmon_env_vars": [f"{name}={value}" for name, value in systemless.items()],
            "helper_binaries_dir": [str(usr / "lib" / "podman")],
        },
        "engine.runtimes": {"runc": [str(usr / "sbin" / "runc")]},
        "network": {"network_config_dir": str(folder / "networks")},
    }
    profile = usr / "share" / "containers" / "seccomp.json"
    if profile.exists():
        tables["containers"]["seccomp_profile"] = str(profile)
    settings = "\n".join(
        f"[{table}]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
        for table, values in tables.items()
    )
    policy = folder / ".config" / "containers" / "policy.json"
    policy.parent.mkdir(parents=True)
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}', encoding="utf-8")  # the base image is ours
    (folder / "containers.conf").write_text(settings, encoding="utf-8")
    (folder / "registries.conf").write_text("", encoding="utf-8")  # none: nothing may come from elsewhere
    variables = {
        **systemless,
        "HOME": folder,
        "CONTAINERS_CONF": folder / "containers.conf",
        "CONTAINERS_REGISTRIES_CONF": folder / "registries.conf",
        "PATH": f"{usr / 'bin'}:{os.environ['PATH']}:/usr/sbin:/sbin",
    }
    places = [f"--{name}={folder / name}" for name in ("root", "runroot", "tmpdir")]
    build = ["--format=docker", "--pull=never", "--network=host", *_pip_volumes(folder)]
    run = ["--read-only-tmpfs=false", "--network=slirp4netns", "--http-proxy=false", f"--name={NAME}"]
    return "\n".join(
        [
            "#!/bin/sh",
            *(f"export {name}={shlex.quote(str(value))}" for name, value in variables.items()),
            'command="$1"; shift',
            'case "$command" in',
            f'build) set -- {shlex.join(build)} "$@" ;;',
            f'run) set -- {shlex.join(run)} "$@" ;;',
            "esac",
            f'exec podman {shlex.join(places)} --storage-driver=overlay "$command" "$@"',
            "",
        ]
    )


def _pip_volumes(folder: Path) -> list[str]:
    """What pip needs here to find packages, for the time of a build only: its settings and the files that they name."""
    ended = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    found: dict[str, str] = {}
    for line in sorted(ended.stdout.splitlines(), key=lambda line: line.startswith(":env:")):  # variables come last
        name, _, value = line.partition("=")
        if (key := name.rpartition(".")[2]) in _PIP_KEYS:
            found[key] = str(ast.literal_eval(value))
    for variable in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        if variable in os.environ:
            found.setdefault("cert", os.environ[variable])
    settings = configparser.RawConfigParser()
    settings["global"] = {name: value.replace("\n", "\n\t") for name, value in found.items()}
    with (folder / "pip.conf").open("w", encoding="utf-8") as file:
        settings.write(file)
    volumes = {str(folder / "pip.conf"): "/etc/pip.conf"}
    for word in " ".join(found.values()).split():
        parts = urllib.parse.urlsplit(word)
        # A folder of pages leads to files beside it.
        path = Path(urllib.parse.unquote(parts.path)).parent if parts.scheme == "file" else Path(word)
        if path.is_absolute() and path.exists():
            volumes[str(path)] = str(path)
    return [f"--volume={source}:{target}:ro" for source, target in volumes.items()]


def import_base(command: Docker, name: str) -> None:
    """Makes a local image of this interpreter, pip, the libraries that it loads, and a shell that can find and chmod.

    Args:
        command: Where it is wanted.
        name: What Docker's own registry calls the image that it stands in for.
    """
    root = command.folder / "base"
    programs = {"usr/local/bin/python": Path(sys.executable).resolve()}
    programs.update((f"bin/{name}", Path(find_program(name)).resolve()) for name in ("sh", "find", "chmod"))
    library = root / "usr/local/lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copytree(sysconfig.get_path("stdlib"), library, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    # By its path: importing it would have setuptools fall back to the standard library's distutils in this process.
    pip = Path(sysconfig.get_path("purelib"), "pip")
    shutil.copytree(pip, library / "site-packages" / "pip", ignore=shutil.ignore_patterns("__pycache__"))
    for place, program in programs.items():
        _copy(program, root / place)
    start = root / "usr/local/bin/pip"
    start.write_text('#!/bin/sh\nexec python -m pip "$@"\n', encoding="utf-8")
    start.chmod(0o755)
    places = {"/usr/local/lib"}
    for path in _loaded([*programs.values(), *library.rglob("*.so")]):
        own = path.is_relative_to(sys.base_prefix) and sys.base_prefix != "/usr"
        target = Path("/usr/local/lib", path.name) if own else path
        places.add(str(target.parent))
        _copy(path, root / target.relative_to("/"))
    for folder, mode in (("etc", 0o755), ("root", 0o700), ("tmp", 0o1777)):
        (root / folder).mkdir()
        (root / folder).chmod(mode)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n", encoding="utf-8")
    (root / "etc/ld.so.conf").write_text("".join(f"{place}\n" for place in sorted(places)), encoding="utf-8")
    subprocess.run([find_program("ldconfig"), "-r", root], check=True)
    with tarfile.open(command.folder / "base.tar", "w") as archive:
        archive.add(root, ".")
    path_of_python = "ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
    command("import", "--change", path_of_python, command.folder / "base.tar", f"docker.io/library/{name}")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def _loaded(programs: Sequence[Path]) -> set[Path]:
    """The libraries that programs and libraries load, and those that any wheel may."""
    listed = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    found = {Path(path) for path in re.findall(r"(/\S+) \(0x", listed)}
    known = subprocess.run([find_program("ldconfig"), "-p"], capture_output=True, text=True, check=True).stdout
    machine = {path.parent for path in found if path.name.startswith("libc.so")}
    for name in _LIBRARIES:
        places = (Path(place) for place in re.findall(rf"^\s*{re.escape(name)} .* => (\S+)$", known, re.M))
        found.update(place for place in places if place.parent in machine)
    return found
