"""Ganeti's own client modules, unmodified, and what the scripts beside this one share.

The first argument of each script is the path of luxid's socket.
"""

import sys

sys.path.insert(0, "/usr/share/ganeti/3.0")

from ganeti import cli, constants, errors, luxi, opcodes, pathutils  # noqa: E402

SOCKET = sys.argv[1]
# Where Ganeti's commands look when nobody names a socket.
pathutils.QUERY_SOCKET = SOCKET

FINAL = constants.JOBS_FINALIZED


def client():
    """A new connection."""
    return luxi.Client(address=SOCKET)


def check(good, what):
    """Ends the script with `what` unless `good`."""
    if not good:
        raise SystemExit("FAILED: %s" % (what,))


def same(got, want, what):
    """Ends the script unless both are the same."""
    check(got == want, "%s: got %r, want %r" % (what, got, want))


def raises(cls, call, *args):
    """The error of this class that the call must raise."""
    try:
        got = call(*args)
    except cls as err:
        return err
    except Exception as err:
        raise SystemExit("FAILED: wanted %s, got %r" % (cls.__name__, err))
    raise SystemExit("FAILED: wanted %s, got the answer %r" % (cls.__name__, got))


def delay(seconds, **more):
    """A test-delay opcode, without locks unless asked for."""
    given = {"duration": seconds, "on_master": True, "on_nodes": [], "no_locks": True, "reason": []}
    given.update(more)
    return opcodes.OpTestDelay(**given)


def wait(cl, job, *wanted):
    """Follows a job by WaitForJobChange until its status is one of `wanted` (any final one, if none is
    named); the status."""
    wanted = wanted or FINAL
    values, serial = None, None
    while True:
        answer = cl.WaitForJobChangeOnce(job, ["status"], values, serial, timeout=30)
        if answer == constants.JOB_NOTCHANGED:
            continue
        values, log = answer
        if log:
            serial = log[-1][0]
        if values[0] in wanted:
            return values[0]
        check(values[0] not in FINAL, "job %s is %s, waited for %s" % (job, values[0], wanted))


def killed(cl, job):
    """Ends a running job at once."""
    ok, text = cl.CancelJob(job, kill=True)
    check(ok, "kill of job %s: %s" % (job, text))
    same(wait(cl, job), "error", "status of killed job %s" % job)


class Quiet(cli.JobPollReportCbBase):
    """Collects what Ganeti's polling loop reports."""

    def __init__(self):
        cli.JobPollReportCbBase.__init__(self)
        self.entries = []

    def ReportLogMessage(self, job_id, serial, timestamp, log_type, log_msg):
        self.entries.append((serial, log_type, log_msg))

    def ReportNotChanged(self, job_id, status):
        pass
