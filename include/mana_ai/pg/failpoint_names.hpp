// All failpoints, in the order of a mission's life. This list is the coverage of the crash matrix
// (test/tap/037_crash_matrix.pl): every name is used in the source (test/packaging_test), and every
// one is reached, killed at, failed at and delayed at.
#pragma once

#include <string_view>

namespace mana_ai::pg {

inline constexpr std::string_view kFailpointNames[] = {
    // A client's insert, in its own session.
    "trigger.row",     // before the row is folded
    "trigger.folded",  // the snapshot is written, the subtransaction is open
    "trigger.mark",    // before a record is marked
    "trigger.marked",  // after

    // attach() and refresh_snapshots().
    "fold.begin",     // nothing is folded yet
    "fold.record",    // the rows of a record are read
    "fold.folded",    // the history is folded
    "fold.repaired",  // and marked records are repaired; the fold is not recorded yet
    "attach.trigger_created",

    // A fold in batches, by the worker.
    "batch.read",           // a part of the log is read, nothing of it is stored
    "batch.before_commit",  // it is stored, and how far the fold is
    "batch.after_commit",

    // A pass of the worker or of a manual tick.
    "worker.started",
    "repair.record",  // a marked record is replayed, in its subtransaction
    "repair.before_commit",
    "repair.after_commit",
    "house.before_commit",
    "house.after_commit",
    "erasure.before_commit",  // an erasure is settled
    "erasure.after_commit",
    "claim.before_commit",
    "claim.after_commit",
    "claim.announced",          // a mission with large records is leased, and not read yet
    "claim.read",               // its records are read, not judged
    "claim_one.before_commit",  // run_mission()
    "claim_one.after_commit",
    "tools.before_commit",
    "tools.after_commit",
    "tick.before_commit",  // the record of a tick's end
    "tick.after_commit",
    "hand.started",  // a manual tick, before it does anything
    "hand.before_answer",
    "hand.after_answer",

    // A run's database steps: in a shared transaction, and alone.
    "jobs.step_done",  // a step has been carried out, its transaction is open
    "jobs.before_commit",
    "jobs.after_commit",
    "jobs.alone_before_commit",
    "jobs.alone_after_commit",
    "jobs.resumed",  // a run continues after its step
    "jobs.retry",    // a step has failed and is retried

    // A run.
    "run.begin",
    "run.fetched",      // its records are read
    "run.opened",       // and opened; the audit is not written yet
    "audit.recorded",   // the audit's rows are inserted, not committed
    "audit.committed",  // and committed
    "inputs.recorded",  // the references of the run are inserted, not committed
    "run.read",         // all that was to be read is read
    "run.before_unreadable",
    "run.after_unreadable",
    "run.before_put_off",  // nothing has changed since the last plan
    "run.after_put_off",
    "run.reserved",     // what its first call may cost
    "run.turn",         // its turn at the gate of the model service has come, or will not come
    "run.before_call",  // of the model
    "run.after_call",
    "run.retry_call",  // after the pause before a retry
    "run.after_compaction",
    "usage.recorded",  // what a reply cost is inserted, not committed
    "usage.committed",
    "run.before_write_back",
    "run.after_write_back",
    "run.before_failure",
    "run.after_failure",
    "run.before_budget_end",
    "run.after_budget_end",
    "run.before_notice",  // the user is to be told why the mission is held back
    "run.after_notice",
    "notice.inserted",         // the failed iteration is in the log
    "run.before_service_end",  // its call was turned away
    "run.after_service_end",
    "write_back.locked",    // the newest record and the lease are held
    "write_back.inserted",  // the change is in the log
    "write_back.finished",  // run and lease are written, nothing is committed
    "run.ended",

    // A plan that a device has removed is put back.
    "restore.inserted",  // the change is in the log
    "restore.committed",

    // Research.
    "research.intended",  // committed; the order is not sent yet
    "research.answered",  // the service has accepted the order, its id is not stored
    "research.stored",    // the id is committed
    "research.before_wait",
    "research.after_wait",
    "research.offered",  // committed; the answer is not fetched
    "research.fetched",  // by the run
    "research.given_up",
    "research.charged",    // web research is on the ledger, if it may be made
    "research.settled",    // its charge stays or was taken back; not committed
    "research.web",        // it has been answered
    "poll.before_commit",  // of taking jobs to poll
    "poll.after_commit",
    "poll.answered",
    "poll.recorded",

    // Runs that are ended early release their leases.
    "abandon.before_commit",
    "abandon.after_commit",
    "stop.before_commit",
    "stop.after_commit",
};

constexpr bool is_failpoint(std::string_view name) {
    for (const std::string_view known : kFailpointNames)
        if (known == name)
            return true;
    return false;
}

}  // namespace mana_ai::pg
