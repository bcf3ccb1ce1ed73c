// A single-threaded event loop for coroutines, driven by its owner: it never blocks by itself.
//
// The owner waits until fd() is readable or next_timeout_us() has passed, whichever is first,
// together with its other events (a PostgreSQL latch, postmaster death), and then calls
// run_ready(). The loop starts no threads and does not touch signals.
//
// Units: all times are microseconds of the loop's clock (steady by default).
// Lifetime: objects that use the loop (timers, HttpClient) are destroyed before it; tasks that
// still run are destroyed by its destructor.
#pragma once

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "mana_ai/net/task.hpp"
#include "mana_ai/net/timer.hpp"

namespace mana_ai::net {

// A coroutine's place in the queue of those that are ready. An awaitable holds one as a member, so
// that destroying the awaitable takes the coroutine out of the queue.
class Waiter {
 public:
    Waiter() noexcept = default;
    ~Waiter() { unlink(); }
    Waiter(const Waiter&) = delete;
    Waiter& operator=(const Waiter&) = delete;

    void set_handle(std::coroutine_handle<> handle) noexcept { handle_ = handle; }
    bool queued() const noexcept { return next_ != nullptr; }
    void unlink() noexcept;

 private:
    friend class EventLoop;
    Waiter* previous_ = nullptr;
    Waiter* next_ = nullptr;
    std::coroutine_handle<> handle_;
    bool owned_by_loop_ = false;
};

class EventLoop {
 public:
    using Clock = std::function<int64_t()>;  // microseconds, never going back
    using TaskId = uint64_t;                 // never 0, never used twice
    using OnDone = std::function<void(std::exception_ptr)>;
    using OnFd = std::function<void(uint32_t epoll_events)>;

    // Throws std::system_error if no epoll descriptor can be created.
    EventLoop();
    explicit EventLoop(Clock clock);
    ~EventLoop();
    EventLoop(const EventLoop&) = delete;
    EventLoop& operator=(const EventLoop&) = delete;

    // The epoll descriptor: readable when a watched descriptor is ready. Timers and ready
    // coroutines do not make it readable; they show in next_timeout_us().
    int fd() const noexcept { return epoll_fd_; }

    // Microseconds until something is due: 0 = now, nullopt = nothing but descriptors to wait for.
    // Round up when the wait has a coarser unit.
    std::optional<int64_t> next_timeout_us() const;

    // Handles ready descriptors, due timers and ready coroutines, in a bounded number of passes,
    // and returns the number of things done. Never blocks. What a coroutine throws goes to its
    // on_done; what on_done or another callback throws leaves run_ready, with the loop still
    // usable. Must not be called from within itself (std::logic_error).
    size_t run_ready();

    // Takes over a coroutine; it starts in a later pass of run_ready, never inside spawn. `on_done`
    // (may be empty) is called from run_ready after the coroutine's frame is gone, with null or the
    // exception that left it. It may spawn and cancel.
    TaskId spawn(Task<void> task, OnDone on_done);

    // Destroys a spawned coroutine with all that it awaits; its on_done is dropped without a call.
    // False when it has already ended or been cancelled. From within a coroutine (even the one that
    // is cancelled) the destruction happens when that coroutine next suspends, before any other
    // coroutine runs.
    bool cancel(TaskId id);
    void cancel_all();

    // Spawned coroutines that have neither ended nor been cancelled.
    size_t active() const noexcept { return tasks_.size(); }

    int64_t now_us() const { return clock_(); }

    // Suspends the awaiting coroutine for at least `us` microseconds; 0 lets others run first.
    class Sleep {
     public:
        Sleep(EventLoop& loop, int64_t us)
            : loop_(loop), us_(us), timer_(loop, [this] { loop_.post(waiter_); }) {}
        bool await_ready() const noexcept { return false; }
        void await_suspend(std::coroutine_handle<> handle);
        void await_resume() const noexcept {}

     private:
        EventLoop& loop_;
        int64_t us_;
        Waiter waiter_;
        Timer timer_;
    };
    Sleep sleep_for(int64_t us) { return Sleep(*this, us); }

    // Makes a suspended coroutine ready. The form with a Waiter is for awaitables: no allocation,
    // and safe against cancellation. The form with a bare handle is for code that knows that the
    // coroutine lives until it is resumed; who destroys it earlier calls unpost first.
    void post(Waiter& waiter) noexcept;
    void post(std::coroutine_handle<> handle);
    void unpost(std::coroutine_handle<> handle) noexcept;

    // Watches a descriptor for EPOLLIN, EPOLLOUT (level-triggered; EPOLLERR and EPOLLHUP always).
    // A descriptor that was closed without remove_fd and whose number is reused is handled: adding
    // replaces the old registration, and no event of the old one reaches the new callback.
    // Throw std::system_error when the kernel refuses.
    void add_fd(int fd, uint32_t epoll_events, OnFd callback);
    void modify_fd(int fd, uint32_t epoll_events);
    void remove_fd(int fd) noexcept;
    bool watches_fd(int fd) const noexcept;

    // For tests and separate programs: runs, blocking in epoll_wait, until active() is 0.
    // Throws std::runtime_error when that takes longer than `limit_us` of real time.
    void run_until_idle(int64_t limit_us = 60'000'000);

 private:
    friend class Timer;
    struct Spawned;
    struct Watch;

    size_t dispatch_fds();
    size_t fire_due_timers();
    size_t resume_ready();
    void resume(std::coroutine_handle<> handle);
    void report_ended();
    void drop_cancelled() noexcept;
    void drop_retired() noexcept;
    Waiter* first_ready() const noexcept;

    void place(Timer* timer, size_t position) noexcept;
    void sift_up(size_t position) noexcept;
    void sift_down(size_t position) noexcept;
    void register_timer();
    void arm_timer(Timer& timer, int64_t delay_us) noexcept;
    void disarm_timer(Timer& timer) noexcept;

    Clock clock_;
    int epoll_fd_ = -1;
    bool running_ = false;   // inside run_ready
    bool resuming_ = false;  // inside a coroutine: frames must not be destroyed now
    bool dispatching_ = false;

    std::vector<Timer*> timers_;    // binary heap of those that are armed
    size_t registered_timers_ = 0;  // the heap has room for them all, so that arming cannot fail
    uint64_t timer_sequence_ = 0;

    Waiter ready_;  // head of the ring of ready coroutines

    std::vector<std::unique_ptr<Watch>> watches_;  // by descriptor
    std::unique_ptr<Watch> retired_;               // list; events not yet handled may name them

    TaskId last_id_ = 0;
    std::unordered_map<TaskId, std::unique_ptr<Spawned>> tasks_;
    Spawned* ended_ = nullptr;            // list of those whose on_done is due
    std::unique_ptr<Spawned> cancelled_;  // list of those to destroy once no coroutine runs
};

}  // namespace mana_ai::net
