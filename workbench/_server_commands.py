"""Commands about exported servers: another version of a model for one that may be running."""

# No `from __future__ import annotations`: tyro reads the signatures.

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from workbench.exporters import read_package
from workbench.provenance import PASSWORD_VARIABLE, PENDING, SIGNATURE, fingerprint_of
from workbench.served_versions import add_version as put_version
from workbench.served_versions import check_service, reload_service, versions_of

PackageFolder = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="A package of the exporter server; changed.")]
NewerFolder = Annotated[
    tyro.conf.Positional[Path], tyro.conf.arg(help="Another one, of the same model in another version.")
]


def add_version(
    package: PackageFolder,
    newer: NewerFolder,
    drop_old: Annotated[
        bool, tyro.conf.arg(help="Serve the newer version alone; the files of the others stay where they are.")
    ] = False,
    pid: Annotated[
        int, tyro.conf.arg(help="Process of the running service, which is told to take it up; 0 for none.")
    ] = 0,
    sign_key: Annotated[
        Path | None,
        tyro.conf.arg(
            help=f"Private key (PEM, elliptic curve) to sign with; its password is read from ${PASSWORD_VARIABLE}."
        ),
    ] = None,
) -> None:
    """Put a newer version of a model into the package of a server, which takes it up while it answers."""
    if pid:
        check_service(pid)  # said now, not when the package is changed already
    old = read_package(package)
    was_signed = (old.directory / SIGNATURE).exists()
    if (old.directory / PENDING).exists():
        print("An add-version of this package was cut off: what it had begun is finished or undone first.")
    done = put_version(old, read_package(newer), keep_old=not drop_old, sign_key=sign_key)
    print(f"{done.directory} serves {_served(*versions_of(done))}.")
    print(f"Fingerprint: sha256:{fingerprint_of(done.directory)}")
    if was_signed and not (done.directory / SIGNATURE).exists():
        print("Its signature was dropped, as it was of other files. --sign-key signs it again.")
    if pid:
        reload_service(pid)
        print(f"Process {pid} was told; its log says when it has changed.")
    else:
        print("A running service takes it up on SIGHUP: kill -HUP PID")


def _served(name: str, versions: Sequence[str]) -> str:
    *others, newest = versions
    if not others:
        return f"{name} {newest} now, and no other version of it"
    return f"{name} {', '.join(others)} and {newest} now; requests that name none get {newest}"
