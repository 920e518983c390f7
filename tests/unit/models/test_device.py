"""The device of a process, and its memory of freed tensors."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS_OF_LARGE_TENSORS = """
import resource, torch
from fcn.models.device import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**22), torch.ones(2**24)  # 16 and 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first = faults()
keep_freed_memory(torch.device('cpu'))
faults()
print(first, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the allocator of glibc")
@pytest.mark.parametrize("given", [{}, {"MALLOC_MMAP_THRESHOLD_": "1048576"}], ids=["by default", "set by the user"])
def test_freed_memory_is_used_again_without_page_faults(given):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", FAULTS_OF_LARGE_TENSORS]
    done = subprocess.run(command, env={**environment, **given}, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before > 200  # 10 times 80 MiB, in pages of at most 2 MiB
    assert after > before / 2 if given else after < before / 20
