"""Jobs as Ganeti's client sees them: submit, wait, poll, cancel, priority, archive, drain.

Arguments: SOCKET NODE (a node's name, for locks).
"""

import sys

from common import (Quiet, check, cli, client, constants, delay, errors, killed, opcodes, raises, same, wait)

NODE = sys.argv[2]


def rows(cl, job, *fields):
    """The wanted fields of one job."""
    answer = cl.QueryJobs([job], list(fields))
    same(len(answer), 1, "rows of job %s" % job)
    return answer[0]


def submit_and_wait(cl):
    job = cl.SubmitJob([delay(0.1)])
    check(isinstance(job, int) and job > 0, "id %r" % (job,))
    same(wait(cl, job), "success", "status")
    same(rows(cl, job, "id", "status", "opstatus", "opresult"), [job, "success", ["success"], [None]], "row")
    times = rows(cl, job, "received_ts", "start_ts", "end_ts")
    check(all(isinstance(t, list) and len(t) == 2 for t in times), "times %r" % (times,))
    check(times[0] <= times[1] <= times[2], "times in order: %r" % (times,))
    same(rows(cl, job, "summary")[0], ["TEST_DELAY(0.1)"], "summary")
    trail = rows(cl, job, "ops")[0][0]["reason"]
    check(any(entry[0] == "gnt:opcode:test_delay" and entry[1] == "job=%d;index=0" % job for entry in trail),
          "reason trail %r" % (trail,))
    following = cl.SubmitJob([delay(0)])
    check(following > job, "ids rise: %s after %s" % (following, job))


def wait_for_change(cl):
    check(isinstance(raises(errors.JobLost, cl.WaitForJobChangeOnce, 999999, ["status"], None, None, 1),
                     errors.JobLost), "lost")
    job = cl.SubmitJob([delay(0.05, repeat=2)])
    values, serial, messages = None, None, []
    while True:
        answer = cl.WaitForJobChange(job, ["status", "opstatus"], values, serial)
        values, log = answer
        for entry in log or []:
            check(serial is None or entry[0] > serial, "serial %r after %r" % (entry[0], serial))
            serial = entry[0]
            messages.append(entry[3])
        if values[0] in constants.JOBS_FINALIZED and not log:
            break
    same(values, ["success", ["success"]], "last values")
    check(len(messages) >= 3, "log of three rounds: %r" % (messages,))
    # A final job is answered at once, whatever the client knows.
    same(cl.WaitForJobChangeOnce(job, ["status"], ["success"], serial, 60), [["success"], []], "final job")


def polling(cl):
    """The loop of Ganeti's commands."""
    job = cli.SendJob([delay(0.05, repeat=1)], cl=cl)
    reporter = Quiet()
    same(cli.PollJob(job, cl=cl, reporter=reporter), [None], "results")
    check(reporter.entries, "log entries were reported")
    bad = cl.SubmitJob([opcodes.OpNodeSetParams(node_name="nosuch.gantry.test", offline=True, reason=[])])
    err = raises(errors.OpPrereqError, cli.PollJob, bad, cl, None, Quiet())
    same(err.args[1], errors.ECODE_NOENT, "ecode of %r" % (err.args,))
    raises(errors.JobLost, cli.PollJob, 999999, cl, None, Quiet())
    executor = cli.JobExecutor(cl=cl, verbose=False, feedback_fn=lambda *_: None)
    for name in ("a", "b", "c"):
        executor.QueueJob(name, delay(0.01))
    same(executor.GetResults(), [(True, [None])] * 3, "results of the executor")


def many(cl):
    same(cl.SubmitManyJobs([]), [], "no jobs")
    answer = cl.SubmitManyJobs([[delay(0.01)], [delay(0.01), delay(0.01)], [delay(0)]])
    check(all(ok for ok, _ in answer) and len(answer) == 3, "answers %r" % (answer,))
    ids = [job for _, job in answer]
    same(ids, list(range(ids[0], ids[0] + 3)), "ids in a row")
    for job in ids:
        same(wait(cl, job), "success", "job %s" % job)
    same(cl.QueryJobs(ids, ["id", "opstatus"]),
         [[ids[0], ["success"]], [ids[1], ["success"] * 2], [ids[2], ["success"]]], "rows in the order asked for")
    same(cl.QueryJobs([999999], ["id", "status"]), [[999999, None]], "an unknown job")


def failing_opcode(cl):
    job = cl.SubmitJob([delay(0), opcodes.OpNodeSetParams(node_name="nosuch", offline=True, reason=[]), delay(0)])
    same(wait(cl, job), "error", "status")
    opstatus, opresult = rows(cl, job, "opstatus", "opresult")
    same(opstatus, ["success", "error", "error"], "opstatus")
    same(opresult[1][0], "OpPrereqError", "class of %r" % (opresult[1],))
    same(opresult[2], ["OpExecError", ["Preceding opcode failed"]], "result of the third")


def cancel_finished(cl):
    job = cl.SubmitJob([delay(0)])
    wait(cl, job)
    same(cl.CancelJob(job), [False, "Job %d not found in queue" % job], "cancel of a finished job")
    same(cl.CancelJob(999999), [False, "Job 999999 not found in queue"], "cancel of no job")


def cancel_running(cl):
    job = cl.SubmitJob([delay(60)])
    wait(cl, job, "running")
    same(cl.CancelJob(job), [False, "Job no longer waiting, can't cancel (informed it anyway)"], "cancel")
    ok, _ = cl.CancelJob(job, kill=True)
    check(ok, "kill")
    check(wait(cl, job) in ("error", "canceled"), "a killed job is over")


def cancel_before_the_next_opcode(cl):
    job = cl.SubmitJob([delay(1.5), delay(60)])
    wait(cl, job, "running")
    cl.CancelJob(job)
    same(wait(cl, job), "canceled", "status")
    opstatus, opresult = rows(cl, job, "opstatus", "opresult")
    same(opstatus[1], "canceled", "opstatus %r" % (opstatus,))
    same(opresult[1], "Job canceled by request", "result")


def cancel_waiting(cl):
    holder = cl.SubmitJob([delay(60, on_nodes=[NODE], no_locks=False)])
    wait(cl, holder, "running")
    waiter = cl.SubmitJob([delay(0, on_nodes=[NODE], no_locks=False)])
    wait(cl, waiter, "waiting")
    ok, text = cl.CancelJob(waiter)
    check(ok, "cancel of a waiting job: %s" % text)
    same(wait(cl, waiter), "canceled", "status")
    same(rows(cl, waiter, "opresult")[0], ["Job canceled by request"], "result")
    killed(cl, holder)
    after = cl.SubmitJob([delay(0, on_nodes=[NODE], no_locks=False)])
    same(wait(cl, after), "success", "the lock is free after the kill")


def modify(cl, **changes):
    job = cl.SubmitJob([opcodes.OpClusterSetParams(reason=[], **changes)])
    same(wait(cl, job), "success", "change of %r: %r" % (changes, rows(cl, job, "opresult")))


def queued(cl):
    """One job may run: others stay queued, and can be cancelled, moved and reordered."""
    modify(cl, max_running_jobs=1)
    try:
        holder = cl.SubmitJob([delay(60)])
        wait(cl, holder, "running")
        first = cl.SubmitJob([delay(0)])
        same(rows(cl, first, "status"), ["queued"], "status")
        same(cl.CancelJob(first), [True, "Dequeued job %d" % first], "cancel of a queued job")
        same(rows(cl, first, "status", "opresult"), ["canceled", ["Job canceled by request"]], "row")

        slow, fast = cl.SubmitJob([delay(0.01)]), cl.SubmitJob([delay(0.01)])
        same(cl.ChangeJobPriority(fast, -15),
             [True, "Priorities of pending opcodes for job %d have been changed to -15" % fast], "priority")
        same(rows(cl, fast, "priority", "oppriority"), [-15, [-15]], "priorities")
        same(cl.ChangeJobPriority(first, 0), [False, "Job %d not found in queue" % first], "priority of the dead")
        ok, text = cl.ChangeJobPriority(holder, 5)
        check(ok and ("Job %d with pid " % holder) in text, "priority of a running job: %r" % text)

        dependent = cl.SubmitJob([delay(0, depends=[[holder, ["success"]]])])
        killed(cl, holder)
        same(wait(cl, slow), "success", "slow")
        same(wait(cl, fast), "success", "fast")
        begun = [rows(cl, job, "start_ts")[0] for job in (fast, slow)]
        check(begun[0] <= begun[1], "the more urgent job began first: %r" % (begun,))
        same(wait(cl, dependent), "error", "a job whose dependency failed")
    finally:
        modify(cl, max_running_jobs=20)


def dependencies(cl):
    first = cl.SubmitJob([delay(0.3)])
    second = cl.SubmitJob([delay(0, depends=[[-1, ["success"]]])])
    same(wait(cl, second), "success", "status")
    ended, begun = rows(cl, first, "end_ts")[0], rows(cl, second, "start_ts")[0]
    check(ended <= begun, "the second began %r after the first ended %r" % (begun, ended))
    same(rows(cl, second, "ops")[0][0]["depends"], [[first, ["success"]]], "relative ids are made absolute")


def archive(cl):
    job = cl.SubmitJob([delay(0)])
    wait(cl, job)
    same(cl.ArchiveJob(job), True, "archive")
    same(cl.ArchiveJob(job), False, "archive again")
    same(cl.ArchiveJob(999999), False, "archive of no job")
    check([job] not in cl.QueryJobs(None, ["id"]), "an archived job is not listed")
    same(rows(cl, job, "id", "status"), [job, "success"], "an archived job is found by its id")
    check([job, True] in cl.QueryJobs(None, ["id", "archived"]), "and listed when the field is asked for")
    running = cl.SubmitJob([delay(60)])
    wait(cl, running, "running")
    same(cl.ArchiveJob(running), False, "archive of a running job")
    killed(cl, running)
    before = len(cl.QueryJobs(None, ["id"]))
    same(cl.AutoArchiveJobs(3600), [0, 0], "autoarchive of old jobs: there are none")
    same(cl.AutoArchiveJobs(-1), [before, 0], "autoarchive of all")
    same(cl.QueryJobs(None, ["id"]), [], "no live job is left")


def drain(cl):
    same(cl.SetQueueDrainFlag(True), True, "set")
    try:
        same(cl.QueryConfigValues(["drain_flag"]), [True], "flag")
        raises(errors.JobQueueDrainError, cl.SubmitJob, [delay(0)])
        raises(errors.JobQueueDrainError, cl.SubmitManyJobs, [[delay(0)]])
        same(wait(cl, cl.SubmitJobToDrainedQueue([delay(0)])), "success", "a job past the drain flag")
    finally:
        cl.SetQueueDrainFlag(False)
    same(cl.QueryConfigValues(["drain_flag"]), [False], "flag")
    same(wait(cl, cl.SubmitJob([delay(0)])), "success", "a job after the drain")


def main():
    for step in (submit_and_wait, wait_for_change, polling, many, failing_opcode, cancel_finished, cancel_running,
                 cancel_before_the_next_opcode, cancel_waiting, queued, dependencies, archive, drain):
        print(step.__name__, flush=True)
        step(client())


main()
