"""Sums up load that was sent to a service, with what is checked of it."""

from __future__ import annotations

import math
import os
from dataclasses import replace

import numpy as np

from workbench.measure._load_stats import Setting, summarize
from workbench.measure._traffic import Traffic
from workbench.measure.load import LoadStats
from workbench.measure.trust import Check, Trust
from workbench.service._traffic import Sent

_SETTLED = 0.15  # halves of the warm-up that agree this well
_BUSY = 0.8  # of one core: above it the sender may be what is measured


def sum_up(sent: Sent, warm: Sent, traffic: Traffic, batch: int) -> LoadStats | None:
    """Latency and throughput of the requests that were answered with 200; None if there was none."""
    log = sent.log
    if not log.callers:
        return None
    count = warm.statuses.total() + warm.lost
    cores = len(os.sched_getaffinity(0))
    setting = Setting(batch, None, cores, count, _settled(warm), {}, "shared")
    found = summarize(log, traffic, setting, sent.peak_memory_mb)
    busy = log.cpu_seconds / sent.seconds  # what the sender did for answers other than 200 is in it
    trust = Trust((*found.trust.checks, _answers(sent), _sender(busy)))
    return replace(found, instances=traffic.concurrency, unfinished=sent.unsent, cores_busy=busy / cores, trust=trust)


def _settled(warm: Sent) -> bool:
    """Whether the two halves of the warm-up took the same time for a request."""
    if not warm.log.callers:
        return False
    notes = np.concatenate(warm.log.callers)
    notes = notes[np.argsort(notes[:, 3])]
    first, second = np.array_split(notes[:, 3] - notes[:, 2], 2)
    return bool(len(second)) and abs(math.log(second.mean() / first.mean())) <= _SETTLED


def _answers(sent: Sent) -> Check:
    bad = {f"status {status}": count for status, count in sent.statuses.items() if status != 200}
    if sent.lost:
        bad["no answer"] = sent.lost
    total = sent.statuses.total() + sent.lost
    if not bad:
        return Check("answers", "ok", f"all {total:,} requests were answered with 200")
    words = ", ".join(
        f"{count:,} with {name}" if name != "no answer" else f"{count:,} lost" for name, count in bad.items()
    )
    return Check("answers", "doubt", f"of {total:,} requests, {words}; latency is that of the others")


def _sender(cores: float) -> Check:
    words = f"the sender took {100 * cores:.0f} % of a core"
    if cores > _BUSY:
        return Check("sender", "doubt", f"{words}, so the service may take more than it could send")
    return Check("sender", "ok", words)
