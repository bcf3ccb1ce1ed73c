// Database steps of mission runs, awaited like a network call (docs/architecture.md, "Group
// commit").
//
// Steps that are ready at the same moment share one short transaction, and so one flush of the
// write-ahead log. When it fails, each step runs again in a transaction of its own, so that one
// bad mission never takes the others' work with it. Steps that run foreign code share none with
// the others: the locks of those are not held for as long as that takes.
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
    // it waits until no other step is ready, or has waited for several batches of them.
    enum class Sharing { Shared, Alone };

    // Of steps that run foreign code. Asked when the step's turn has come: microseconds that it has
    // to wait first, 0 = none. It is then not run, and whoever awaits it queues it again later.
    using Admission = std::function<int64_t()>;

    // A step that puts on record what has been paid for, from before its first try until it has
    // been done: keep() does it also while its run waits to try it again. If it never is, the
    // server's log gets what there was to record.
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
        void await_resume();  // throws what the work threw, after its rollback

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

    // Whether anything of the run's is Owed and not done.
    bool owes(const std::string& run_id) const;

    // Before runs are canceled: does what is Owed by these, without going on with the coroutines.
    // What cannot be done in that time is left out. Throws only for an interrupt; what was done
    // until then is not done again.
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
