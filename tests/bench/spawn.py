"""Runs a command on one core and prints its wall and CPU seconds and its peak memory in MiB.

It is a small process of its own because Linux counts the memory of the process that forked as the command's own.
"""

import os
import sys
import time

output, errors, *command = sys.argv[1:]
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
streams = [(os.POSIX_SPAWN_OPEN, number, name, write, 0o600) for number, name in ((1, output), (2, errors))]
start = time.perf_counter()
process = os.posix_spawnp(command[0], command, os.environ, file_actions=streams)
_, status, usage = os.wait4(process, 0)
wall = time.perf_counter() - start
print(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10))
sys.exit(os.waitstatus_to_exitcode(status))
