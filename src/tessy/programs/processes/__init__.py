"""One run written by several processes, when one core is the limit.

`parent` is what the process that has the run directory open knows of the others, `worker` what each of them does, and
`messages` what they tell one another over a pipe each way. Rows and failures are the parent's; steps stay where they
are written, in a journal for each process.
"""

from tessy.programs.processes.parent import Processes, processes

__all__ = ["Processes", "processes"]
