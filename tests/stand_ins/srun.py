"""A stand-in for srun: two tasks at the same time; the code is the highest of theirs."""

import os
import subprocess
import sys

command = [a for i, a in enumerate(sys.argv) if i and "bash" in sys.argv[1 : i + 1]]
tasks = [subprocess.Popen(command, env={**os.environ, "SLURM_PROCID": str(i)}) for i in range(2)]
codes = [task.wait() for task in tasks]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
