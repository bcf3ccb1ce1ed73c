#include "mana_ai/extension/research/research_polls.hpp"

#include <algorithm>

#include "mana_ai/extension/research/deep_research.hpp"
#include "mana_ai/pg/error.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/time.hpp"
#include "mana_ai/pg/transaction.hpp"

namespace mana_ai {

namespace {

constexpr int kBatch = 100;  // keeps the taking transaction short

void log_end(const DueResearch& due, const char* outcome) {
    pg::log_info("research ended: user=" + pg::printable(due.user_id) +
                 " mission=" + pg::printable(due.mission_id) +
                 " task=" + pg::printable(due.task_id) + " outcome=" + outcome);
}

// A row that a user's transaction has locked is tried again; after that it is left to the next
// poll.
net::Task<bool> record_end(RunServices& services, DatabaseJobs::Work work) {
    constexpr core::Instant kFirstPause = core::kMicrosPerSecond / 10;
    constexpr core::Instant kLongestPause = 2 * core::kMicrosPerSecond;
    for (core::Instant pause = kFirstPause; pause < kLongestPause; pause *= 2) {
        std::exception_ptr failure;
        try {
            DatabaseJobs::Job job(services.jobs, work);
            co_await job;
        } catch (const pg::PgError&) {
            failure = std::current_exception();
        }
        if (!failure)
            co_return true;
        co_await services.loop.sleep_for(pause);
    }
    co_return false;
}

net::Task<void> poll_research(RunServices& services, DueResearch due, bool& freed) {
    SpanScope span =
        services.tracer.start_trace("research.poll", pg::now(), core::SpanKind::Client);
    span.set("mission.id", due.mission_id);
    span.set("user.id", due.user_id);
    const core::ResearchPoll poll =
        co_await ask_for_research(services, due.user_id, due.task_id, std::move(span));
    MANA_AI_FAILPOINT("poll.answered");
    const bool completed = poll.status == core::ResearchStatus::Completed;
    const bool failed = poll.status == core::ResearchStatus::Failed;
    if (!completed && !failed && !has_waited_too_long(due.waiting_since, pg::now()))
        co_return;
    bool done = false;
    DatabaseJobs::Work record = [&] {
        done = completed ? finish_research(due)
                         : give_up_research(due.user_id, due.mission_id, due.task_id);
    };
    const bool recorded = co_await record_end(services, std::move(record));
    MANA_AI_FAILPOINT("poll.recorded");
    if (!recorded || !done)
        co_return;
    freed = true;
    log_end(due, completed ? "ready" : failed ? "failed" : "timeout");
}

}  // namespace

void ResearchPolls::expect(core::Instant now) {
    const core::Instant at = next_poll_after(now);
    next_at_ = next_at_ ? std::min(*next_at_, at) : at;
}

bool ResearchPolls::has_due(core::Instant due_until) const {
    return next_at_ && *next_at_ <= due_until && under_way() < kMaxResearchPolls;
}

std::optional<core::Instant> ResearchPolls::next_at() const {
    if (under_way() >= kMaxResearchPolls)
        return std::nullopt;
    return next_at_;
}

void ResearchPolls::start_due(core::Instant due_until) {
    while (has_due(due_until)) {
        const core::Instant now = pg::now();
        const int limit = std::min(kBatch, kMaxResearchPolls - under_way());
        std::vector<DueResearch> taken;
        {
            pg::Transaction transaction("mana_ai: taking research that is to be asked for");
            taken = take_due_research(due_until, limit, now);
            look();
            MANA_AI_FAILPOINT("poll.before_commit");
            transaction.commit();
            MANA_AI_FAILPOINT("poll.after_commit");
        }
        const bool found_none = taken.empty();
        for (DueResearch& due : taken)
            start(std::move(due));
        if (found_none) {
            // Jobs that still look due are locked by somebody else.
            if (has_due(due_until))
                next_at_ = now + core::kMicrosPerSecond;
            return;
        }
    }
}

void ResearchPolls::start(DueResearch due) {
    // Polled again at its next time; the paid answer is not lost.
    if (services_.stops.all || services_.stops.concern_user(due.user_id))
        return;
    // If polls take longer than their interval, they must not pile up.
    const auto [entry, is_new] = under_way_.try_emplace({due.user_id, due.mission_id});
    if (!is_new)
        return;
    entry->second = services_.loop.spawn(poll_research(services_, std::move(due), freed_),
                                         [this, key = entry->first](std::exception_ptr failure) {
                                             under_way_.erase(key);
                                             if (failure)
                                                 std::rethrow_exception(failure);
                                         });
}

void ResearchPolls::cancel_stopped() {
    for (auto poll = under_way_.begin(); poll != under_way_.end();) {
        if (!services_.stops.all && !services_.stops.concern_user(poll->first.first)) {
            ++poll;
            continue;
        }
        services_.loop.cancel(poll->second);
        poll = under_way_.erase(poll);
    }
}

void ResearchPolls::cancel() {
    for (const auto& [key, task] : under_way_)
        services_.loop.cancel(task);
    under_way_.clear();
}

}  // namespace mana_ai
