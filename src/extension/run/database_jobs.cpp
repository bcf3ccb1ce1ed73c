#include "mana_ai/extension/run/database_jobs.hpp"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <vector>

#include "mana_ai/pg/error.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/postgres.hpp"
#include "mana_ai/pg/transaction.hpp"

extern "C" {
#include "storage/proc.h"
}

namespace mana_ai {

namespace {

constexpr size_t kMaxBatch = 64;
// A transaction of ours ends well below 50 ms, however slow its single steps are.
constexpr std::chrono::milliseconds kMaxBatchTime{15};
// Steps that run alone get their turn after so many batches.
constexpr int kMaxBatchesBeforeAlone = 16;
// A process that is told to end has two seconds for everything.
constexpr std::chrono::milliseconds kMaxKeepTime{500};
constexpr int kKeepAllPatience = 100;  // milliseconds, for a lock
constexpr int kKeepOnePatience = 10;
constexpr char kActivity[] = "mana_ai: writing results of mission runs";

class LockPatience {
 public:
    explicit LockPatience(int milliseconds) : previous_(LockTimeout) { LockTimeout = milliseconds; }
    ~LockPatience() { LockTimeout = previous_; }
    LockPatience(const LockPatience&) = delete;
    LockPatience& operator=(const LockPatience&) = delete;

 private:
    int previous_;
};

}  // namespace

DatabaseJobs::Owed::Owed(DatabaseJobs& jobs, Work work, std::string what)
    : jobs_(jobs), work_(std::move(work)), what_(std::move(what)) {
    position_ = jobs_.owed_.insert(jobs_.owed_.end(), this);
}

DatabaseJobs::Owed::~Owed() {
    jobs_.owed_.erase(position_);
    if (done_)
        return;
    try {
        pg::log_warning("what has been paid for could not be recorded: " + what_);
    } catch (const std::exception&) {
    }
}

DatabaseJobs::Job::~Job() {
    if (queued_)
        jobs_.queue_.erase(position_);
}

void DatabaseJobs::Job::await_suspend(std::coroutine_handle<> handle) {
    waiter_.set_handle(handle);
    position_ = jobs_.queue_.insert(jobs_.queue_.end(), this);
    queued_ = true;
}

void DatabaseJobs::Job::await_resume() {
    if (error_)
        std::rethrow_exception(error_);
}

void DatabaseJobs::finish(Job& job) {
    queue_.erase(job.position_);
    job.queued_ = false;
    loop_.post(job.waiter_);
}

void DatabaseJobs::succeed(Job& job) {
    if (job.owed_ != nullptr)
        job.owed_->done_ = true;
    finish(job);
}

// One that is not is given back to its run.
bool DatabaseJobs::is_admitted(Job& job) {
    job.wait_us_ = job.admission_ ? job.admission_() : 0;
    if (job.wait_us_ == 0)
        return true;
    finish(job);
    return false;
}

void DatabaseJobs::run_alone(Job& job) {
    if (!is_admitted(job))
        return;
    bool committed = false;  // what fails then must not carry the step out a second time
    try {
        pg::Transaction transaction(kActivity);
        job.work_();
        MANA_AI_FAILPOINT("jobs.alone_before_commit");
        transaction.commit();
        committed = true;
        MANA_AI_FAILPOINT("jobs.alone_after_commit");
    } catch (const pg::PgError& error) {
        if (error.is_interrupt())
            throw;
        job.error_ = committed ? nullptr : std::current_exception();
    } catch (...) {
        job.error_ = committed ? nullptr : std::current_exception();
    }
    if (!job.error_) {
        succeed(job);
        return;
    }
    trouble_ = true;
    finish(job);
}

// The step that is to run alone now; null: a batch comes first.
DatabaseJobs::Job* DatabaseJobs::next_alone() {
    const auto is_alone = [](const Job* job) { return job->sharing_ == Sharing::Alone; };
    const auto first = std::find_if(queue_.begin(), queue_.end(), is_alone);
    const bool is_its_turn =
        first != queue_.end() && (batches_before_alone_ >= kMaxBatchesBeforeAlone ||
                                  std::all_of(queue_.begin(), queue_.end(), is_alone));
    batches_before_alone_ = first == queue_.end() || is_its_turn ? 0 : batches_before_alone_ + 1;
    return is_its_turn ? *first : nullptr;
}

void DatabaseJobs::flush() {
    if (queue_.empty())
        return;
    if (Job* const job = next_alone(); job != nullptr) {
        run_alone(*job);
        return;
    }
    const auto started = std::chrono::steady_clock::now();
    std::vector<Job*> batch;
    bool failed = false;
    bool committed = false;
    const auto is_foreign = [](const Job* job) { return job->admission_ != nullptr; };
    const bool are_foreign = is_foreign(*std::find_if(
        queue_.begin(), queue_.end(), [](Job* job) { return job->sharing_ != Sharing::Alone; }));
    try {
        pg::Transaction transaction(kActivity);
        for (auto next = queue_.begin(); next != queue_.end();) {
            Job* const job = *next++;
            if (job->sharing_ == Sharing::Alone || is_foreign(job) != are_foreign ||
                !is_admitted(*job))
                continue;
            batch.push_back(job);
            job->work_();
            MANA_AI_FAILPOINT("jobs.step_done");
            if (batch.size() >= kMaxBatch ||
                std::chrono::steady_clock::now() - started >= kMaxBatchTime)
                break;
        }
        MANA_AI_FAILPOINT("jobs.before_commit");
        transaction.commit();
        committed = true;
        MANA_AI_FAILPOINT("jobs.after_commit");
    } catch (const pg::PgError& error) {
        if (error.is_interrupt())
            throw;
        failed = !committed;
    } catch (const std::exception&) {
        failed = !committed;
    }
    for (Job* job : batch) {
        if (failed)
            run_alone(*job);
        else
            succeed(*job);
    }
}

void DatabaseJobs::keep(const std::vector<Owed*>& some, std::chrono::steady_clock::time_point end,
                        int lock_timeout_ms) {
    auto next = some.begin();
    {
        pg::Transaction transaction(kActivity);
        const LockPatience patience(lock_timeout_ms);
        for (; next != some.end() && std::chrono::steady_clock::now() < end; ++next)
            (*next)->work_();
        transaction.commit();
    }
    std::for_each(some.begin(), next, [](Owed* owed) { owed->done_ = true; });
}

void DatabaseJobs::keep() {
    const auto end = std::chrono::steady_clock::now() + kMaxKeepTime;
    const auto left = [&] {
        std::vector<Owed*> some;
        if (std::chrono::steady_clock::now() < end)
            std::copy_if(owed_.begin(), owed_.end(), std::back_inserter(some),
                         [](const Owed* owed) { return !owed->done_; });
        return some;
    };
    const auto is_locked = [&](const std::vector<Owed*>& some, int patience) {
        try {
            keep(some, end, patience);
        } catch (const pg::PgError& error) {
            if (error.is_interrupt())
                throw;
            return error.sqlstate == ERRCODE_LOCK_NOT_AVAILABLE;
        }
        return false;
    };
    // First together, then one by one, time and again as long as others' transactions hold what
    // some of them need.
    bool again = !owed_.empty();
    if (again)
        is_locked(left(), kKeepAllPatience);
    while (again) {
        again = false;
        for (Owed* const owed : left())
            again |= std::chrono::steady_clock::now() < end && is_locked({owed}, kKeepOnePatience);
    }
    // Not a second time. Runs that are not canceled go on.
    for (auto next = queue_.begin(); next != queue_.end();) {
        Job* const job = *next++;
        if (job->owed_ != nullptr && job->owed_->done_)
            finish(*job);
    }
}

}  // namespace mana_ai
