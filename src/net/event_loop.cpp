#include "mana_ai/net/event_loop.hpp"

#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace mana_ai::net {

namespace {

// Iterations of one run_ready: enough for a coroutine to start a request and for the request to be
// written, few enough for the owner to check its latch.
constexpr int kMaxPasses = 8;
constexpr size_t kMaxEvents = 512;

int64_t steady_now_us() {
    return std::chrono::duration_cast<std::chrono::microseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

class FlagGuard {
 public:
    explicit FlagGuard(bool& flag) noexcept : flag_(flag) { flag_ = true; }
    ~FlagGuard() { flag_ = false; }
    FlagGuard(const FlagGuard&) = delete;
    FlagGuard& operator=(const FlagGuard&) = delete;

 private:
    bool& flag_;
};

}  // namespace

void Waiter::unlink() noexcept {
    if (next_ == nullptr) {
        return;
    }
    previous_->next_ = next_;
    next_->previous_ = previous_;
    previous_ = next_ = nullptr;
}

// A coroutine that the loop owns, from spawn to its end or cancellation.
struct EventLoop::Spawned final : detail::TaskEnd {
    Spawned(EventLoop& owner, TaskId task_id, Task<void> owned_task, OnDone done)
        : loop(owner), id(task_id), task(std::move(owned_task)), on_done(std::move(done)) {}

    void on_task_end() noexcept override {
        if (cancelled) {
            return;
        }
        next_ended = loop.ended_;
        loop.ended_ = this;
    }

    EventLoop& loop;
    TaskId id;
    Task<void> task;
    OnDone on_done;
    Waiter start;
    bool cancelled = false;
    Spawned* next_ended = nullptr;
    std::unique_ptr<Spawned> next_cancelled;
};

// One registration of a descriptor. A new registration of the same number is a new Watch, so an
// event fetched for the old one is recognised and dropped.
struct EventLoop::Watch {
    OnFd callback;
    bool retired = false;
    std::unique_ptr<Watch> next_retired;
};

EventLoop::EventLoop() : EventLoop(steady_now_us) {}

EventLoop::EventLoop(Clock clock) : clock_(std::move(clock)) {
    ready_.next_ = ready_.previous_ = &ready_;
    epoll_fd_ = ::epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd_ < 0) {
        throw std::system_error(errno, std::generic_category(),
                                "could not create epoll descriptor");
    }
}

EventLoop::~EventLoop() {
    while (!tasks_.empty() || cancelled_) {
        cancel_all();
        drop_cancelled();
    }
    while (Waiter* waiter = first_ready()) {
        waiter->unlink();
        if (waiter->owned_by_loop_) {
            delete waiter;
        }
    }
    drop_retired();
    ::close(epoll_fd_);
}

// ---- running -----------------------------------------------------------------------------------

std::optional<int64_t> EventLoop::next_timeout_us() const {
    if (first_ready() != nullptr) {
        return 0;
    }
    if (timers_.empty()) {
        return std::nullopt;
    }
    return std::max<int64_t>(0, timers_.front()->deadline_us_ - clock_());
}

size_t EventLoop::run_ready() {
    if (running_) {
        throw std::logic_error("event loop run from within itself");
    }
    FlagGuard running(running_);
    size_t total = dispatch_fds();
    for (int pass = 0; pass < kMaxPasses; ++pass) {
        const size_t done = fire_due_timers() + resume_ready();
        if (done == 0) {
            break;
        }
        total += done;
    }
    return total;
}

void EventLoop::run_until_idle(int64_t limit_us) {
    const int64_t give_up = steady_now_us() + limit_us;
    while (true) {
        run_ready();
        if (active() == 0) {
            return;
        }
        const int64_t left = give_up - steady_now_us();
        if (left <= 0) {
            throw std::runtime_error("event loop still busy after its time limit");
        }
        const int64_t wait_us = std::min(left, next_timeout_us().value_or(left));
        epoll_event event;
        ::epoll_wait(epoll_fd_, &event, 1, static_cast<int>((wait_us + 999) / 1000));
    }
}

size_t EventLoop::dispatch_fds() {
    std::array<epoll_event, kMaxEvents> events;
    const int count = ::epoll_wait(epoll_fd_, events.data(), static_cast<int>(events.size()), 0);
    if (count <= 0) {
        return 0;  // EINTR included: the next call finds the same events
    }
    size_t done = 0;
    struct Guard {
        EventLoop& loop;
        FlagGuard flag;
        ~Guard() { loop.drop_retired(); }
    } guard{*this, FlagGuard(dispatching_)};
    for (int i = 0; i < count; ++i) {
        Watch* watch = static_cast<Watch*>(events[static_cast<size_t>(i)].data.ptr);
        if (watch->retired) {
            continue;
        }
        watch->callback(events[static_cast<size_t>(i)].events);
        ++done;
    }
    return done;
}

size_t EventLoop::fire_due_timers() {
    if (timers_.empty()) {
        return 0;
    }
    // Timers armed by a callback wait for the next iteration, even if they are due at once.
    const uint64_t first_new = timer_sequence_;
    const int64_t now = clock_();
    size_t done = 0;
    while (!timers_.empty() && timers_.front()->deadline_us_ <= now &&
           timers_.front()->sequence_ < first_new) {
        Timer* timer = timers_.front();
        disarm_timer(*timer);
        timer->callback_();
        ++done;
    }
    return done;
}

Waiter* EventLoop::first_ready() const noexcept {
    return ready_.next_ == &ready_ ? nullptr : ready_.next_;
}

size_t EventLoop::resume_ready() {
    if (first_ready() == nullptr) {
        return 0;
    }
    // Coroutines that become ready from here on queue behind the marker, for the next iteration. It
    // is not a local variable: GCC 14 warns that its address outlives it, although the destructor
    // removes it from the queue.
    const auto marker = std::make_unique<Waiter>();
    post(*marker);
    size_t done = 0;
    for (Waiter* waiter = first_ready(); waiter != marker.get(); waiter = first_ready()) {
        waiter->unlink();
        const std::coroutine_handle<> handle = waiter->handle_;
        if (waiter->owned_by_loop_) {
            delete waiter;
        }
        ++done;
        resume(handle);
    }
    return done;
}

void EventLoop::resume(std::coroutine_handle<> handle) {
    {
        FlagGuard resuming(resuming_);
        handle.resume();
    }
    drop_cancelled();
    report_ended();
}

// ---- tasks -------------------------------------------------------------------------------------

EventLoop::TaskId EventLoop::spawn(Task<void> task, OnDone on_done) {
    if (!task || task.done()) {
        throw std::logic_error("task to spawn has no coroutine to run");
    }
    const TaskId id = last_id_ + 1;
    auto spawned = std::make_unique<Spawned>(*this, id, std::move(task), std::move(on_done));
    Spawned& entry = *spawned;
    tasks_.emplace(id, std::move(spawned));
    last_id_ = id;
    entry.task.handle().promise().set_end(&entry);
    entry.start.set_handle(entry.task.handle());
    post(entry.start);
    return id;
}

bool EventLoop::cancel(TaskId id) {
    auto node = tasks_.extract(id);
    if (!node) {
        return false;
    }
    std::unique_ptr<Spawned> entry = std::move(node.mapped());
    entry->cancelled = true;
    entry->start.unlink();
    for (Spawned** link = &ended_; *link != nullptr; link = &(*link)->next_ended) {
        if (*link == entry.get()) {
            *link = entry->next_ended;
            break;
        }
    }
    if (resuming_) {
        entry->next_cancelled = std::move(cancelled_);
        cancelled_ = std::move(entry);
    }
    return true;
}

void EventLoop::cancel_all() {
    // Destructors in the frames may cancel or spawn; what they spawn is cancelled too.
    while (!tasks_.empty()) {
        cancel(tasks_.begin()->first);
    }
}

void EventLoop::drop_cancelled() noexcept {
    while (cancelled_) {
        std::unique_ptr<Spawned> entry = std::move(cancelled_);
        cancelled_ = std::move(entry->next_cancelled);
    }
}

void EventLoop::report_ended() {
    while (ended_ != nullptr) {
        const TaskId id = ended_->id;
        ended_ = ended_->next_ended;
        auto node = tasks_.extract(id);
        std::unique_ptr<Spawned> entry = std::move(node.mapped());
        const std::exception_ptr exception = entry->task.handle().promise().exception();
        const OnDone on_done = std::move(entry->on_done);
        entry.reset();  // destroys the frame before the end is reported
        if (on_done) {
            on_done(exception);
        }
    }
}

void EventLoop::post(Waiter& waiter) noexcept {
    waiter.unlink();
    waiter.previous_ = ready_.previous_;
    waiter.next_ = &ready_;
    ready_.previous_->next_ = &waiter;
    ready_.previous_ = &waiter;
}

void EventLoop::post(std::coroutine_handle<> handle) {
    auto* waiter = new Waiter;
    waiter->handle_ = handle;
    waiter->owned_by_loop_ = true;
    post(*waiter);
}

void EventLoop::unpost(std::coroutine_handle<> handle) noexcept {
    for (Waiter* waiter = ready_.next_; waiter != &ready_;) {
        Waiter* next = waiter->next_;
        if (waiter->owned_by_loop_ && waiter->handle_ == handle) {
            waiter->unlink();
            delete waiter;
        }
        waiter = next;
    }
}

void EventLoop::Sleep::await_suspend(std::coroutine_handle<> handle) {
    waiter_.set_handle(handle);
    if (us_ <= 0) {
        loop_.post(waiter_);
    } else {
        timer_.arm(us_);
    }
}

// ---- descriptors -------------------------------------------------------------------------------

void EventLoop::add_fd(int fd, uint32_t epoll_events, OnFd callback) {
    if (fd < 0) {
        throw std::system_error(EBADF, std::generic_category(), "could not watch descriptor");
    }
    const size_t index = static_cast<size_t>(fd);
    if (index >= watches_.size()) {
        watches_.resize(std::max<size_t>(index + 1, watches_.size() * 2));
    }
    auto watch = std::make_unique<Watch>();
    watch->callback = std::move(callback);
    epoll_event event{};
    event.events = epoll_events;
    event.data.ptr = watch.get();
    // The kernel drops a closed descriptor by itself, or still has it if it was not closed.
    if (::epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event) != 0 &&
        (errno != EEXIST || ::epoll_ctl(epoll_fd_, EPOLL_CTL_MOD, fd, &event) != 0)) {
        throw std::system_error(errno, std::generic_category(), "could not watch descriptor");
    }
    if (watches_[index]) {
        watches_[index]->retired = true;
        watches_[index]->next_retired = std::move(retired_);
        retired_ = std::move(watches_[index]);
    }
    watches_[index] = std::move(watch);
    if (!dispatching_) {
        drop_retired();
    }
}

void EventLoop::modify_fd(int fd, uint32_t epoll_events) {
    if (!watches_fd(fd)) {
        throw std::system_error(ENOENT, std::generic_category(), "could not watch descriptor");
    }
    epoll_event event{};
    event.events = epoll_events;
    event.data.ptr = watches_[static_cast<size_t>(fd)].get();
    if (::epoll_ctl(epoll_fd_, EPOLL_CTL_MOD, fd, &event) != 0 &&
        (errno != ENOENT || ::epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event) != 0)) {
        throw std::system_error(errno, std::generic_category(), "could not watch descriptor");
    }
}

void EventLoop::remove_fd(int fd) noexcept {
    if (!watches_fd(fd)) {
        return;
    }
    epoll_event event{};
    ::epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, fd, &event);  // fails if it was closed, which is fine
    std::unique_ptr<Watch>& watch = watches_[static_cast<size_t>(fd)];
    watch->retired = true;
    watch->next_retired = std::move(retired_);
    retired_ = std::move(watch);
    if (!dispatching_) {
        drop_retired();
    }
}

bool EventLoop::watches_fd(int fd) const noexcept {
    return fd >= 0 && static_cast<size_t>(fd) < watches_.size() &&
           watches_[static_cast<size_t>(fd)] != nullptr;
}

void EventLoop::drop_retired() noexcept {
    while (retired_) {
        std::unique_ptr<Watch> watch = std::move(retired_);
        retired_ = std::move(watch->next_retired);
    }
}

}  // namespace mana_ai::net
