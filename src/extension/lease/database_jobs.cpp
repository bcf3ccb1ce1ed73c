#include "mana_ai/extension/lease/database_jobs.hpp"

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
// Keeps transactions well below 50 ms, however slow their single steps are.
constexpr std::chrono::milliseconds kMaxBatchTime{15};
// Steps that run alone get their turn after this many batches.
constexpr int kMaxBatchesBeforeAlone = 16;
// Milliseconds, for a lock: before others have been tried, and after that.
constexpr int kKeepFirstPatience = 2;
constexpr int kKeepAgainPatience = 10;
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

DatabaseJobs::Owed::Owed(DatabaseJobs& jobs, std::string run_id, Work work, std::string what)
    : jobs_(jobs), run_id_(std::move(run_id)), work_(std::move(work)), what_(std::move(what)) {
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

// A job that is not admitted is returned to its run.
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
    bool committed = false;  // an error after that must not repeat the step
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

// The step to run alone now; null: a batch comes first.
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
    finish_done();
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

// The result of a batch of Owed steps.
struct DatabaseJobs::KeepResult {
    size_t tried = 0;             // its first ones; the last of them failed, if one did
    bool failed = false;          // nothing was done then
    bool failed_at_end = false;   // not one of them, but their commit
    bool waits_for_lock = false;  // others' transactions have locked what the last one needs
};

DatabaseJobs::KeepResult DatabaseJobs::keep_batch(const std::vector<Owed*>& batch,
                                                  std::chrono::steady_clock::time_point end,
                                                  int lock_timeout_ms) {
    KeepResult result;
    try {
        pg::Transaction transaction(kActivity);
        const LockPatience patience(lock_timeout_ms);
        for (Owed* const owed : batch) {
            if (std::chrono::steady_clock::now() >= end)
                break;
            result.tried++;
            owed->work_();
        }
        result.failed_at_end = true;
        transaction.commit();
        result.failed_at_end = false;
    } catch (const pg::PgError& error) {
        if (error.is_interrupt())
            throw;
        result.failed = true;
        result.waits_for_lock = error.sqlstate == ERRCODE_LOCK_NOT_AVAILABLE;
    } catch (const std::exception&) {
        result.failed = true;
    }
    if (!result.failed)
        std::for_each(batch.begin(), batch.begin() + static_cast<std::ptrdiff_t>(result.tried),
                      [](Owed* owed) { owed->done_ = true; });
    return result;
}

// In batches. A step at which a batch fails is moved to the end and retried after all others, and
// repeatedly while others' transactions block it.
void DatabaseJobs::keep_all(std::list<Owed*> left, std::chrono::steady_clock::time_point end) {
    int patience = kKeepFirstPatience;
    size_t batch_size = kMaxBatch;
    std::list<Owed*> stuck;
    while (std::chrono::steady_clock::now() < end) {
        if (left.empty()) {
            if (stuck.empty())
                return;
            left.swap(stuck);
            patience = kKeepAgainPatience;
        }
        const auto size = static_cast<std::ptrdiff_t>(std::min(batch_size, left.size()));
        const std::vector<Owed*> batch(left.begin(), std::next(left.begin(), size));
        const KeepResult result = keep_batch(batch, end, patience);
        if (!result.failed) {
            left.erase(left.begin(),
                       std::next(left.begin(), static_cast<std::ptrdiff_t>(result.tried)));
            continue;
        }
        // Smaller batches show which step makes the commit fail.
        if (result.failed_at_end && batch.size() > 1) {
            batch_size = batch.size() / 2;
            continue;
        }
        if (result.tried == 0)
            return;  // not even a transaction can be started
        const auto failed = std::next(left.begin(), static_cast<std::ptrdiff_t>(result.tried) - 1);
        if (result.waits_for_lock)
            stuck.push_back(*failed);
        left.erase(failed);
    }
}

// Jobs whose work is done must not run again. Runs that are not canceled continue.
void DatabaseJobs::finish_done() {
    for (auto next = queue_.begin(); next != queue_.end();) {
        Job* const job = *next++;
        if (job->owed_ != nullptr && job->owed_->done_)
            finish(*job);
    }
}

bool DatabaseJobs::owes(const std::string& run_id) const {
    return std::any_of(owed_.begin(), owed_.end(),
                       [&](const Owed* owed) { return !owed->done_ && owed->run_id_ == run_id; });
}

void DatabaseJobs::keep(const std::function<bool(const std::string& run_id)>& which,
                        std::chrono::milliseconds longest) {
    const auto end = std::chrono::steady_clock::now() + longest;
    std::list<Owed*> left;
    std::copy_if(owed_.begin(), owed_.end(), std::back_inserter(left),
                 [&](const Owed* owed) { return !owed->done_ && which(owed->run_id_); });
    try {
        keep_all(std::move(left), end);
    } catch (...) {
        finish_done();
        throw;
    }
    finish_done();
}

}  // namespace mana_ai
