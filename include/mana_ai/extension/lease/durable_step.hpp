// Database steps of a run that must not get lost.
#pragma once

#include <optional>
#include <string>

#include "mana_ai/extension/lease/claimed_mission.hpp"
#include "mana_ai/extension/lease/database_jobs.hpp"
#include "mana_ai/extension/lease/run_services.hpp"
#include "mana_ai/net/task.hpp"

namespace mana_ai {

// Runs a database step until it succeeds or the lease is about to end: what it writes was paid for,
// and a lock or a failover is temporary. A refusal is retried for a short time only; then the last
// error is thrown. With an admission it waits as long as that says. After `until`, on the monotonic
// clock, it neither retries nor waits.
net::Task<void> write_until_done(RunServices& services, const ClaimedMission& claimed,
                                 DatabaseJobs::Work work,
                                 DatabaseJobs::Sharing sharing = DatabaseJobs::Sharing::Shared,
                                 DatabaseJobs::Admission admission = {},
                                 std::optional<core::Instant> until = {});

// The same for records of what was paid for. The step is done before the run is canceled, or the
// server's log gets its data: what was paid (ids and numbers), and by which run.
net::Task<void> record_paid(RunServices& services, const ClaimedMission& claimed,
                            DatabaseJobs::Work work, std::string what);

// Of a step that is Owed before it can be done: the work with the note to which a crash of the
// process is attributed. Both arguments outlive it. settle_owed() does it when the time has come;
// before that, a run that is canceled.
DatabaseJobs::Work owed_step(const ClaimedMission& claimed, const DatabaseJobs::Work& work);
net::Task<void> settle_owed(RunServices& services, const ClaimedMission& claimed,
                            DatabaseJobs::Owed& owed);

// The admission of steps that run code of the table's owner for the mission's user.
DatabaseJobs::Admission admit_by_patience(RunServices& services, const ClaimedMission& claimed);

}  // namespace mana_ai
