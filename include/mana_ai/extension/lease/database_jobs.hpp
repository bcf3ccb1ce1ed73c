// Database steps of mission runs, awaited like a network call (docs/architecture.md, "Group
// commit").
//
// Steps that are ready at the same moment share one short transaction, and so one flush of the
// write-ahead log. If it fails, each step runs again in a separate transaction, so that one bad
// mission does not affect the others' work. Steps that run foreign code share no transaction with
// others, so that the others' locks are not held during that code.
#pragma once

#include <chrono>
#include <coroutine>
#include <cstdint>
#include <exception>
#include <functional>
#include <list>
#include <string>
#include <utility>
#include <vector>

#include "mana_ai/net/event_loop.hpp"

namespace mana_ai {

class DatabaseJobs {
 public:
    // Work runs inside a transaction and may run twice (the first time is then rolled back): it
    // assigns results and does not accumulate them.
    using Work = std::function<void()>;

    // Alone: a step that takes long. Its transaction does not keep the locks of others' steps, and
    // it waits until no other step is ready, or several batches of them have run.
    enum class Sharing { Shared, Alone };

    // For steps that run foreign code. Called when the step's turn has come; returns the
    // microseconds that it has to wait first, 0 = none. If it must wait, it is not run, and its
    // awaiter queues it again later.
    using Admission = std::function<int64_t()>;

    // A durable step, from before its first attempt until it is done: keep() also does it while its
    // run waits for a retry. If it is never done, its data go to the server's log.
    class [[nodiscard]] Owed {
     public:
        Owed(DatabaseJobs& jobs, std::string run_id, Work work, std::string what);
        ~Owed();
        Owed(const Owed&) = delete;
        Owed& operator=(const Owed&) = delete;

        const Work& work() const noexcept { return work_; }
        bool is_done() const noexcept { return done_; }

     private:
        friend class DatabaseJobs;
        DatabaseJobs& jobs_;
        std::string run_id_;
        Work work_;
        std::string what_;
        bool done_ = false;
        std::list<Owed*>::iterator position_;
    };

    class [[nodiscard]] Job {
     public:
        Job(DatabaseJobs& jobs, Work work, Sharing sharing = Sharing::Shared,
            Admission admission = {}, Owed* owed = nullptr)
            : jobs_(jobs),
              work_(std::move(work)),
              sharing_(sharing),
              admission_(std::move(admission)),
              owed_(owed) {}
        ~Job();
        Job(const Job&) = delete;
        Job& operator=(const Job&) = delete;

        bool await_ready() const noexcept { return false; }
        void await_suspend(std::coroutine_handle<> handle);
        void await_resume();  // rethrows the work's exception, after its rollback

        // After the await: how long to wait before it is queued again; 0 = it has run.
        int64_t wait_us() const noexcept { return wait_us_; }

     private:
        friend class DatabaseJobs;
        DatabaseJobs& jobs_;
        Work work_;
        Sharing sharing_;
        Admission admission_;
        Owed* owed_;
        int64_t wait_us_ = 0;
        net::Waiter waiter_;
        std::exception_ptr error_;
        bool queued_ = false;
        std::list<Job*>::iterator position_;
    };

    explicit DatabaseJobs(net::EventLoop& loop) : loop_(loop) {}

    bool pending() const noexcept { return !queue_.empty(); }

    // Whether a job has failed since the last call.
    bool take_trouble() noexcept { return std::exchange(trouble_, false); }

    // Runs a bounded number of queued jobs; call again while pending(). A cancel request or another
    // interrupt leaves the jobs queued and is thrown to the caller.
    void flush();

    // Whether anything of the run is Owed and not done.
    bool owes(const std::string& run_id) const;

    // Before runs are canceled: does what is Owed by them, without resuming the coroutines. Stops
    // when the time is over. Throws only for an interrupt; steps done before are not repeated.
    void keep(const std::function<bool(const std::string& run_id)>& which,
              std::chrono::milliseconds longest);

 private:
    bool is_admitted(Job& job);
    Job* next_alone();
    void run_alone(Job& job);
    void finish(Job& job);
    void succeed(Job& job);
    struct KeepResult;
    static KeepResult keep_batch(const std::vector<Owed*>& batch,
                                 std::chrono::steady_clock::time_point end, int lock_timeout_ms);
    void keep_all(std::list<Owed*> left, std::chrono::steady_clock::time_point end);
    void finish_done();

    net::EventLoop& loop_;
    std::list<Job*> queue_;
    std::list<Owed*> owed_;
    bool trouble_ = false;
    int batches_before_alone_ = 0;  // in a row, while a step that runs alone was waiting
};

}  // namespace mana_ai
