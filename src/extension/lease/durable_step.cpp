#include "mana_ai/extension/lease/durable_step.hpp"

#include <algorithm>

#include "mana_ai/pg/call_watch.hpp"
#include "mana_ai/pg/crash_watch.hpp"
#include "mana_ai/pg/error.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/postgres.hpp"
#include "mana_ai/pg/time.hpp"

namespace mana_ai {

namespace {

// Only the SQLSTATE: the message of a foreign trigger might quote a user's text.
void log_database_trouble(const ClaimedMission& claimed, const std::exception_ptr& cause) {
    std::string what = "internal error";
    try {
        std::rethrow_exception(cause);
    } catch (const pg::PgError& error) {
        what = "SQLSTATE " + error.sqlstate_text();
    } catch (const std::exception&) {
    }
    pg::log_warning("results of run " + claimed.run_id + " of mission " +
                    pg::printable(claimed.mission_id) +
                    " could not be written and are tried again: " + what);
}

// Whether the same statement is likely to succeed later: locks, full disks, shutdowns and the like.
// A constraint or a trigger refuses it until somebody has fixed that.
bool may_pass(const std::exception_ptr& failure) {
    try {
        std::rethrow_exception(failure);
    } catch (const pg::PgError& error) {
        if (error.sqlstate == ERRCODE_LOCK_NOT_AVAILABLE)
            return true;
        const int category = ERRCODE_TO_CATEGORY(error.sqlstate);
        return category == ERRCODE_TO_CATEGORY(ERRCODE_CONNECTION_EXCEPTION) ||
               category == ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK) ||
               category == ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES) ||
               category == ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION) ||
               category == ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR);
    } catch (...) {
        return false;
    }
}

// With the note to which a crash of the process is attributed. Both outlive it.
DatabaseJobs::Work named(const ClaimedMission& claimed, const DatabaseJobs::Work& work) {
    return [&claimed, &work] {
        pg::crash_watch::note_mission(claimed.user_id, claimed.mission_id);
        work();
    };
}

struct Try {
    DatabaseJobs::Work work;
    DatabaseJobs::Sharing sharing = DatabaseJobs::Sharing::Shared;
    DatabaseJobs::Admission admission;
    std::optional<core::Instant> until;
    DatabaseJobs::Owed* owed = nullptr;
};

net::Task<void> try_until_done(RunServices& services, const ClaimedMission& claimed,
                               const Try& how) {
    constexpr core::Instant kFirstPause = 250'000;
    constexpr core::Instant kLongestPause = 30 * core::kMicrosPerSecond;
    constexpr core::Instant kMargin = 5 * core::kMicrosPerSecond;
    const core::Instant give_up_at = pg::monotonic_now() + 30 * core::kMicrosPerSecond;
    const std::optional<core::Instant>& until = how.until;
    for (core::Instant pause = kFirstPause;;) {
        std::exception_ptr failure;
        core::Instant wait = 0;
        try {
            DatabaseJobs::Job job(services.jobs, how.work, how.sharing, how.admission, how.owed);
            co_await job;
            wait = job.wait_us();
        } catch (...) {
            failure = std::current_exception();
        }
        if (!failure && wait == 0) {
            MANA_AI_FAILPOINT("jobs.resumed");
            co_return;
        }
        if (!failure) {
            if (pg::now() + wait + kMargin >= claimed.lease_expires_at ||
                (until && pg::monotonic_now() + wait >= *until))
                throw pg::make_timeout_error();
            co_await services.loop.sleep_for(wait);
            continue;
        }
        if (pause == kFirstPause)
            log_database_trouble(claimed, failure);
        if (pg::now() + pause + kMargin >= claimed.lease_expires_at ||
            (pg::monotonic_now() + pause >= give_up_at && !may_pass(failure)) ||
            (until && pg::monotonic_now() + pause >= *until))
            std::rethrow_exception(failure);
        co_await services.loop.sleep_for(pause);
        MANA_AI_FAILPOINT("jobs.retry");
        // Other runs were canceled, and everything Owed was done.
        if (how.owed != nullptr && how.owed->is_done())
            co_return;
        pause = std::min(pause * 2, kLongestPause);
    }
}

}  // namespace

net::Task<void> write_until_done(RunServices& services, const ClaimedMission& claimed,
                                 DatabaseJobs::Work work, DatabaseJobs::Sharing sharing,
                                 DatabaseJobs::Admission admission,
                                 std::optional<core::Instant> until) {
    const Try how{named(claimed, work), sharing, std::move(admission), until, nullptr};
    co_await try_until_done(services, claimed, how);
}

DatabaseJobs::Work owed_step(const ClaimedMission& claimed, const DatabaseJobs::Work& work) {
    return named(claimed, work);
}

net::Task<void> settle_owed(RunServices& services, const ClaimedMission& claimed,
                            DatabaseJobs::Owed& owed) {
    const Try how{owed.work(), DatabaseJobs::Sharing::Shared, {}, {}, &owed};
    co_await try_until_done(services, claimed, how);
}

net::Task<void> record_paid(RunServices& services, const ClaimedMission& claimed,
                            DatabaseJobs::Work work, std::string what) {
    std::string line = "run=" + claimed.run_id + " user=" + pg::printable(claimed.user_id) +
                       " mission=" + pg::printable(claimed.mission_id) + ' ' + what;
    DatabaseJobs::Owed owed(services.jobs, claimed.run_id, named(claimed, work), std::move(line));
    co_await settle_owed(services, claimed, owed);
}

DatabaseJobs::Admission admit_by_patience(RunServices& services, const ClaimedMission& claimed) {
    return [&services, &claimed] {
        return services.table_patience.wait_us(claimed.user_id, pg::monotonic_now());
    };
}

}  // namespace mana_ai
