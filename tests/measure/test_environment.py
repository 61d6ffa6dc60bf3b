"""The conditions of a measurement are those of this machine."""

import os
import platform

from workbench.measure.environment import Environment, read_environment


def test_it_names_processor_cores_memory_and_versions() -> None:
    here = read_environment()

    assert here.processor
    assert here.cores == len(os.sched_getaffinity(0))
    assert 0.1e9 < here.memory_gb * 1e9 == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert here.system == f"Linux {platform.release()}"
    assert here.python == platform.python_version()
    assert here == read_environment()


def test_in_words_it_tells_what_decides_int8_speed() -> None:
    machine = Environment("A processor", 2, 16.4, "Linux 6", "3.12", ("avx2", "amx_int8"))
    plain = Environment("A processor", 2, 16.4, "Linux 6", "3.12")

    assert str(machine) == "A processor, 2 cores (AMX), 16 GB"
    assert str(plain) == "A processor, 2 cores, 16 GB"
