#include "mana_ai/extension/run/database_jobs.hpp"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <vector>

#include "mana_ai/pg/error.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/transaction.hpp"

namespace mana_ai {

namespace {

constexpr size_t kMaxBatch = 64;
// A transaction of ours ends well below 50 ms, however slow its single steps are.
constexpr std::chrono::milliseconds kMaxBatchTime{15};
// Steps that run alone get their turn after so many batches.
constexpr int kMaxBatchesBeforeAlone = 16;
// A process that is told to end has two seconds for everything.
constexpr std::chrono::milliseconds kMaxKeepTime{500};
constexpr char kActivity[] = "mana_ai: writing results of mission runs";

}  // namespace

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
    trouble_ |= job.error_ != nullptr;
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
    try {
        pg::Transaction transaction(kActivity);
        for (auto next = queue_.begin(); next != queue_.end();) {
            Job* const job = *next++;
            if (job->sharing_ == Sharing::Alone || !is_admitted(*job))
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
            finish(*job);
    }
}

void DatabaseJobs::keep() {
    std::vector<Job*> kept;
    std::copy_if(queue_.begin(), queue_.end(), std::back_inserter(kept),
                 [](const Job* job) { return job->sharing_ == Sharing::Kept; });
    if (kept.empty())
        return;
    const auto started = std::chrono::steady_clock::now();
    const auto in_time = [&] { return std::chrono::steady_clock::now() - started < kMaxKeepTime; };
    const auto write = [&](auto begin, auto end) {
        pg::Transaction transaction(kActivity);
        auto job = begin;
        for (; job != end && in_time(); ++job)
            (*job)->work_();
        transaction.commit();
        // Not a second time, whatever becomes of the coroutines.
        for (auto done = begin; done != job; ++done) {
            queue_.erase((*done)->position_);
            (*done)->queued_ = false;
        }
    };
    try {
        write(kept.begin(), kept.end());
        return;
    } catch (const pg::PgError& error) {
        if (error.is_interrupt())
            throw;
    }
    for (auto job = kept.begin(); job != kept.end() && in_time(); ++job) {
        try {
            write(job, job + 1);
        } catch (const pg::PgError& error) {
            if (error.is_interrupt())
                throw;
        }
    }
}

}  // namespace mana_ai
