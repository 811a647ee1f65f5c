"""A process that plans a night for many users, and says what that took: `plan_crowd.py URL N`.

Seconds of the processor are what the answer's bounds are held against: the clock on the
wall also counts what else the machine does.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from crowd import add_crowd

from server import plans
from server.arrangement import Capacity
from server.due import DueRule, due_users
from server.store.database import Database
from server.store.tables.base import now

NIGHT_S = 8 * 3600.0


def main() -> None:
    """Add the crowd, ask who is due, plan the night, and print a JSON object."""
    url, count = sys.argv[1], int(sys.argv[2])
    database = Database(url)
    with tempfile.TemporaryDirectory() as folder:
        database.migrate(Path(folder))
    at = now()
    add_crowd(database, count, at)
    with database.read() as session:
        # Connected and compiled: a worker asks more than once.
        due_users(session, DueRule(min_new_texts=10**6), at)
        asked, asked_cpu = time.perf_counter(), time.process_time()
        due = len(due_users(session, DueRule(), at))
        due_s, due_cpu_s = time.perf_counter() - asked, time.process_time() - asked_cpu
    began, began_cpu = time.perf_counter(), time.process_time()
    plan_id = plans.make_plan(database, "night", DueRule(1, 0, 0), Capacity(NIGHT_S), at)
    plan_s, plan_cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    with database.read() as session:
        states = plans.states(session, plan_id)
    peak_mb = _peak_mb()
    sys.stdout.write(
        json.dumps(
            {
                "due": due,
                "due_s": due_s,
                "due_cpu_s": due_cpu_s,
                "planned": states,
                "plan_s": plan_s,
                "plan_cpu_s": plan_cpu_s,
                "peak_mb": peak_mb,
            }
        )
    )
    database.close()


def _peak_mb() -> float:
    """Most memory that this program held; `getrusage` would count what its parent held, too."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("This kernel does not tell VmHWM.")


if __name__ == "__main__":
    main()
