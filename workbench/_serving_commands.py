"""Commands for a running service: watch what it does, and send it load."""

# No `from __future__ import annotations`: the signatures hold classes made at run time, which tyro reads.

from pathlib import Path
from typing import Annotated, Any

import tyro

from workbench._flags import flags, show_progress
from workbench.exporters import read_package
from workbench.importers import load_dataset
from workbench.options import to_builtins
from workbench.service.load import ServiceLoadOptions
from workbench.service.load import load_service as send_load
from workbench.service.report import SERVICE_HEADINGS, facts_text, service_facts, service_load_text, service_row
from workbench.service.watch import Moment, WatchOptions, read_key, watch_service

ServiceLoadFlags: Any = flags(ServiceLoadOptions)
WatchFlags: Any = flags(WatchOptions)

_WIDTH = 10  # of a column

Url = Annotated[tyro.conf.Positional[str], tyro.conf.arg(help="Address of a service, e.g. http://127.0.0.1:8000.")]
KeyVariable = Annotated[
    str, tyro.conf.arg(help="Environment variable that holds the service's API key, if it has one.")
]


def watch(
    url: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help="Address of a service, or of a Prometheus.")],
    options: Annotated[WatchFlags, tyro.conf.OmitArgPrefixes, tyro.conf.arg(name="watch")] = WatchFlags(),
    key_variable: KeyVariable = "",
) -> None:
    """Watch a running service: requests, latency, errors, batches, as they come."""
    seen: list[Moment] = []

    def show(moment: Moment) -> None:
        if not seen:  # not before it is known that there is a service
            print("  ".join(heading.rjust(_WIDTH) for heading in SERVICE_HEADINGS))
        seen.append(moment)
        print("  ".join(cell.text.rjust(_WIDTH) for cell in service_row(moment)), flush=True)

    moments = watch_service(url, to_builtins(options), key=read_key(key_variable), watch=show)
    if moments:
        print(f"\n{facts_text(service_facts(moments[-1]))}")


def load_service(
    url: Url,
    options: Annotated[ServiceLoadFlags, tyro.conf.OmitArgPrefixes, tyro.conf.arg(name="load")] = ServiceLoadFlags(),
    data: Annotated[str, tyro.conf.arg(help="Samples to send: an .npz file, or sample:digits.")] = "",
    package: Annotated[Path | None, tyro.conf.arg(help="Package whose sample request is sent, without data.")] = None,
    key_variable: KeyVariable = "",
) -> None:
    """Send load to a running service: so many connections, or arrivals at a rate. Ends with 1 if a request was lost."""
    found = send_load(
        url,
        to_builtins(options),
        dataset=load_dataset(data, "evaluation") if data else None,
        package=read_package(package) if package else None,
        key=read_key(key_variable),
        progress=show_progress(),
    )
    print(service_load_text(found))
    if found.lost:
        raise SystemExit(1)
