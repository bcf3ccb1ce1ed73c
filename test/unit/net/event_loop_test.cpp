#include "mana_ai/net/event_loop.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace mana_ai::net {
namespace {

struct Pipe {
    Pipe() {
        if (::pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0) {
            throw std::runtime_error("pipe");
        }
    }
    ~Pipe() {
        ::close(ends[0]);
        ::close(ends[1]);
    }
    void fill() { ASSERT_EQ(::write(ends[1], "x", 1), 1); }
    int ends[2];
};

bool readable(int fd) {
    pollfd entry{fd, POLLIN, 0};
    return ::poll(&entry, 1, 0) == 1;
}

// A loop whose clock the test moves.
struct Loop {
    int64_t now = 1'000'000;
    EventLoop loop{[this] { return now; }};
};

Task<void> note(std::vector<std::string>& log, std::string text) {
    log.push_back(std::move(text));
    co_return;
}

Task<void> sleep_and_note(EventLoop& loop, int64_t us, std::vector<std::string>& log,
                          std::string text) {
    co_await loop.sleep_for(us);
    log.push_back(std::move(text));
}

TEST(EventLoop, IsIdleWhenNew) {
    EventLoop loop;
    EXPECT_EQ(loop.run_ready(), 0u);
    EXPECT_EQ(loop.active(), 0u);
    EXPECT_FALSE(loop.next_timeout_us().has_value());
    EXPECT_FALSE(readable(loop.fd()));
}

TEST(EventLoop, SpawnedTasksStartInTheNextPassAndReportTheirEnd) {
    EventLoop loop;
    std::vector<std::string> log;
    const auto id = loop.spawn(note(log, "ran"), [&](std::exception_ptr exception) {
        EXPECT_FALSE(exception);
        log.push_back("done");
    });
    EXPECT_TRUE(log.empty());
    EXPECT_EQ(loop.active(), 1u);
    EXPECT_EQ(loop.next_timeout_us(), 0);
    EXPECT_GT(loop.run_ready(), 0u);
    EXPECT_EQ(log, (std::vector<std::string>{"ran", "done"}));
    EXPECT_EQ(loop.active(), 0u);
    EXPECT_FALSE(loop.cancel(id));
}

TEST(EventLoop, SleepersWakeInTheOrderOfTheirDeadlines) {
    Loop test;
    std::vector<std::string> log;
    test.loop.spawn(sleep_and_note(test.loop, 3000, log, "c"), {});
    test.loop.spawn(sleep_and_note(test.loop, 1000, log, "a"), {});
    test.loop.spawn(sleep_and_note(test.loop, 2000, log, "b1"), {});
    test.loop.spawn(sleep_and_note(test.loop, 2000, log, "b2"), {});
    test.loop.run_ready();
    EXPECT_EQ(test.loop.next_timeout_us(), 1000);
    test.now += 999;
    EXPECT_EQ(test.loop.run_ready(), 0u);
    EXPECT_EQ(test.loop.next_timeout_us(), 1);
    test.now += 1;
    test.loop.run_ready();
    EXPECT_EQ(log, (std::vector<std::string>{"a"}));
    test.now += 5000;
    EXPECT_EQ(test.loop.next_timeout_us(), 0);
    test.loop.run_ready();
    EXPECT_EQ(log, (std::vector<std::string>{"a", "b1", "b2", "c"}));
    EXPECT_FALSE(test.loop.next_timeout_us().has_value());
}

TEST(EventLoop, TimersCanBeMovedDisarmedAndArmedAgainFromTheirCallback) {
    Loop test;
    std::vector<int> fired;
    std::vector<std::unique_ptr<Timer>> timers;
    for (int i = 0; i < 100; ++i) {
        timers.push_back(std::make_unique<Timer>(test.loop, [&fired, i] { fired.push_back(i); }));
        timers.back()->arm((i * 37) % 100);
    }
    for (int i = 0; i < 100; i += 2) {
        timers[static_cast<size_t>(i)]->disarm();
    }
    timers[1]->arm(500);
    timers[3].reset();
    test.now += 100;
    test.loop.run_ready();
    EXPECT_EQ(fired.size(), 48u);
    int last = -1;
    for (const int i : fired) {
        EXPECT_EQ(i % 2, 1);
        EXPECT_LT(last, (i * 37) % 100);
        last = (i * 37) % 100;
    }
    test.now += 400;
    test.loop.run_ready();
    EXPECT_EQ(fired.back(), 1);

    int rounds = 0;
    std::unique_ptr<Timer> again;
    again = std::make_unique<Timer>(test.loop, [&] {
        ++rounds;
        again->arm(0);
    });
    again->arm(0);
    test.loop.run_ready();  // comes back although the timer is always due
    EXPECT_GE(rounds, 1);
    EXPECT_LT(rounds, 100);
}

TEST(EventLoop, ATaskThatIsAlwaysReadyDoesNotKeepTheOwnerOut) {
    EventLoop loop;
    auto endless = [](EventLoop& on) -> Task<void> {
        while (true) {
            co_await on.sleep_for(0);
        }
    };
    loop.spawn(endless(loop), {});
    EXPECT_GT(loop.run_ready(), 0u);
    EXPECT_EQ(loop.next_timeout_us(), 0);
    loop.cancel_all();
    EXPECT_EQ(loop.active(), 0u);
    EXPECT_FALSE(loop.next_timeout_us().has_value());
}

TEST(EventLoop, SpawningFromWithinACoroutine) {
    EventLoop loop;
    std::vector<std::string> log;
    auto parent = [](EventLoop& on, std::vector<std::string>& out) -> Task<void> {
        std::string text = "child";
        Task<void> child = note(out, std::move(text));
        on.spawn(std::move(child), [&out](std::exception_ptr) { out.push_back("child done"); });
        out.push_back("parent goes on");
        co_await on.sleep_for(0);
        out.push_back("parent again");
    };
    loop.spawn(parent(loop, log), {});
    loop.run_until_idle(1'000'000);
    ASSERT_EQ(log.size(), 4u);
    EXPECT_EQ(log[0], "parent goes on");
    EXPECT_EQ(log[1], "child");
    EXPECT_EQ(log[2], "child done");
}

TEST(EventLoop, OnDoneMayCancelAndSpawn) {
    EventLoop loop;
    std::vector<std::string> log;
    const auto sleeper = loop.spawn(sleep_and_note(loop, 3'600'000'000, log, "never"),
                                    [&](std::exception_ptr) { log.push_back("never either"); });
    EventLoop::TaskId first = 0;
    first = loop.spawn(note(log, "first"), [&](std::exception_ptr) {
        EXPECT_FALSE(loop.cancel(first));  // it has ended already
        EXPECT_TRUE(loop.cancel(sleeper));
        loop.spawn(note(log, "second"), {});
    });
    loop.run_until_idle(1'000'000);
    EXPECT_EQ(log, (std::vector<std::string>{"first", "second"}));
}

TEST(EventLoop, ACoroutineMayCancelItselfAndOthers) {
    EventLoop loop;
    std::vector<std::string> log;
    EventLoop::TaskId self = 0;
    EventLoop::TaskId other = 0;
    auto body = [](EventLoop& on, EventLoop::TaskId& me, EventLoop::TaskId& them,
                   std::vector<std::string>& out) -> Task<void> {
        EXPECT_TRUE(on.cancel(them));
        EXPECT_FALSE(on.cancel(them));
        EXPECT_TRUE(on.cancel(me));
        out.push_back("goes on until it suspends");
        co_await on.sleep_for(0);
        out.push_back("never");
    };
    const auto never = [&](std::exception_ptr) { log.push_back("on_done"); };
    self = loop.spawn(body(loop, self, other, log), never);
    other = loop.spawn(note(log, "other"), never);
    loop.run_until_idle(1'000'000);
    EXPECT_EQ(log, (std::vector<std::string>{"goes on until it suspends"}));
    EXPECT_FALSE(loop.next_timeout_us().has_value());
}

TEST(EventLoop, ACoroutineThatCancelsItselfMayEndAtOnce) {
    EventLoop loop;
    EventLoop::TaskId self = 0;
    bool reported = false;
    auto body = [](EventLoop& on, EventLoop::TaskId& me) -> Task<void> {
        on.cancel_all();
        EXPECT_FALSE(on.cancel(me));
        co_return;
    };
    self = loop.spawn(body(loop, self), [&](std::exception_ptr) { reported = true; });
    loop.run_ready();
    EXPECT_EQ(loop.active(), 0u);
    EXPECT_FALSE(reported);
}

TEST(EventLoop, CancellingFromADestructorInACancelledFrame) {
    EventLoop loop;
    std::vector<std::string> log;
    struct Canceller {
        EventLoop& loop;
        EventLoop::TaskId victim;
        ~Canceller() { EXPECT_TRUE(loop.cancel(victim)); }
    };
    auto body = [](EventLoop& on, EventLoop::TaskId victim) -> Task<void> {
        Canceller canceller{on, victim};
        co_await on.sleep_for(3'600'000'000);
    };
    const auto victim = loop.spawn(sleep_and_note(loop, 3'600'000'000, log, "never"), {});
    const auto id = loop.spawn(body(loop, victim), {});
    loop.run_ready();
    EXPECT_TRUE(loop.cancel(id));
    EXPECT_EQ(loop.active(), 0u);
}

TEST(EventLoop, CancellingTheTaskThatEndsInTheSamePass) {
    // A frame destroyed by a deferred cancellation cancels the task that ended meanwhile.
    EventLoop loop;
    EventLoop::TaskId ending = 0;
    EventLoop::TaskId cancelled = 0;
    bool reported = false;
    struct Canceller {
        EventLoop& loop;
        EventLoop::TaskId& victim;
        ~Canceller() { loop.cancel(victim); }
    };
    auto holder = [](EventLoop& on, EventLoop::TaskId& victim) -> Task<void> {
        Canceller canceller{on, victim};
        co_await on.sleep_for(3'600'000'000);
    };
    auto ender = [](EventLoop& on, EventLoop::TaskId& victim) -> Task<void> {
        on.cancel(victim);
        co_return;
    };
    cancelled = loop.spawn(holder(loop, ending), {});
    ending = loop.spawn(ender(loop, cancelled), [&](std::exception_ptr) { reported = true; });
    loop.run_ready();
    EXPECT_EQ(loop.active(), 0u);
    EXPECT_FALSE(reported);
}

TEST(EventLoop, WhatOnDoneThrowsLeavesRunReadyAndTheLoopGoesOn) {
    EventLoop loop;
    std::vector<std::string> log;
    loop.spawn(note(log, "a"), [](std::exception_ptr) { throw std::runtime_error("on_done"); });
    loop.spawn(note(log, "b"), {});
    EXPECT_THROW(loop.run_ready(), std::runtime_error);
    loop.run_until_idle(1'000'000);
    EXPECT_EQ(log, (std::vector<std::string>{"a", "b"}));
}

TEST(EventLoop, RunningItFromWithinItselfIsRefused) {
    EventLoop loop;
    std::exception_ptr failure;
    auto body = [](EventLoop& on) -> Task<void> {
        on.run_ready();
        co_return;
    };
    loop.spawn(body(loop), [&](std::exception_ptr exception) { failure = exception; });
    loop.run_ready();
    ASSERT_TRUE(failure);
    EXPECT_THROW(std::rethrow_exception(failure), std::logic_error);
}

TEST(EventLoop, DestroyingItDestroysWhatStillRuns) {
    std::vector<std::string> log;
    auto loop = std::make_unique<EventLoop>();
    loop->spawn(sleep_and_note(*loop, 3'600'000'000, log, "never"), {});
    loop->spawn(note(log, "never started"), {});
    loop.reset();
    EXPECT_TRUE(log.empty());
}

TEST(EventLoop, PostedHandlesRunUnlessTakenBack) {
    EventLoop loop;
    struct Park {
        std::coroutine_handle<>& slot;
        bool await_ready() const noexcept { return false; }
        void await_suspend(std::coroutine_handle<> handle) noexcept { slot = handle; }
        void await_resume() const noexcept {}
    };
    std::coroutine_handle<> parked;
    int resumed = 0;
    auto body = [](std::coroutine_handle<>& slot, int& count) -> Task<void> {
        while (true) {
            co_await Park{slot};
            ++count;
        }
    };
    loop.spawn(body(parked, resumed), {});
    loop.run_ready();
    ASSERT_TRUE(parked);
    loop.post(parked);
    EXPECT_EQ(loop.next_timeout_us(), 0);
    loop.run_ready();
    EXPECT_EQ(resumed, 1);
    loop.post(parked);
    loop.unpost(parked);
    EXPECT_EQ(loop.run_ready(), 0u);
    EXPECT_EQ(resumed, 1);
    loop.post(parked);  // still queued when the loop goes
}

TEST(EventLoop, ReadyDescriptorsMakeItReadable) {
    EventLoop loop;
    Pipe pipe;
    int calls = 0;
    loop.add_fd(pipe.ends[0], EPOLLIN, [&](uint32_t events) {
        EXPECT_TRUE(events & EPOLLIN);
        ++calls;
    });
    EXPECT_FALSE(readable(loop.fd()));
    pipe.fill();
    EXPECT_TRUE(readable(loop.fd()));
    EXPECT_FALSE(loop.next_timeout_us().has_value());
    EXPECT_EQ(loop.run_ready(), 1u);
    EXPECT_EQ(calls, 1);
    loop.modify_fd(pipe.ends[0], 0);
    EXPECT_EQ(loop.run_ready(), 0u);
    loop.modify_fd(pipe.ends[0], EPOLLIN);
    EXPECT_EQ(loop.run_ready(), 1u);
    loop.remove_fd(pipe.ends[0]);
    EXPECT_FALSE(loop.watches_fd(pipe.ends[0]));
    EXPECT_EQ(loop.run_ready(), 0u);
    loop.remove_fd(pipe.ends[0]);
    EXPECT_THROW(loop.modify_fd(pipe.ends[0], EPOLLIN), std::system_error);
    EXPECT_THROW(loop.add_fd(-1, EPOLLIN, {}), std::system_error);
    EXPECT_THROW(loop.add_fd(9999, EPOLLIN, {}), std::system_error);
}

TEST(EventLoop, ADescriptorClosedWithoutNoticeMayComeBackWithItsNumber) {
    EventLoop loop;
    int old_calls = 0;
    int new_calls = 0;
    auto first = std::make_unique<Pipe>();
    const int number = first->ends[0];
    loop.add_fd(number, EPOLLIN, [&](uint32_t) { ++old_calls; });
    first.reset();
    Pipe second;
    ASSERT_EQ(second.ends[0], number);
    loop.add_fd(number, EPOLLIN, [&](uint32_t) { ++new_calls; });
    second.fill();
    loop.run_ready();
    EXPECT_EQ(old_calls, 0);
    EXPECT_EQ(new_calls, 1);
}

TEST(EventLoop, EventsAlreadyFetchedDoNotReachAReusedDescriptor) {
    // Two descriptors are ready. The first callback closes the other one and opens a new one, which
    // gets its number; the event that was fetched for the closed one must not reach the new one.
    EventLoop loop;
    auto a = std::make_unique<Pipe>();
    auto b = std::make_unique<Pipe>();
    std::unique_ptr<Pipe> replacement;
    int wrong = 0;
    int first_calls = 0;
    const auto swap_other = [&](std::unique_ptr<Pipe>& other) {
        if (++first_calls > 1) {
            return;
        }
        const int number = other->ends[0];
        loop.remove_fd(number);
        other.reset();
        replacement = std::make_unique<Pipe>();
        ASSERT_EQ(replacement->ends[0], number);
        loop.add_fd(number, EPOLLIN, [&](uint32_t) { ++wrong; });
    };
    loop.add_fd(a->ends[0], EPOLLIN, [&](uint32_t) { swap_other(b); });
    loop.add_fd(b->ends[0], EPOLLIN, [&](uint32_t) { swap_other(a); });
    a->fill();
    b->fill();
    loop.run_ready();
    EXPECT_EQ(first_calls, 1);
    EXPECT_EQ(wrong, 0);
}

TEST(EventLoop, ACallbackMayRemoveItsOwnDescriptor) {
    EventLoop loop;
    Pipe pipe;
    int calls = 0;
    std::string captured = "still there after the removal, and too long to be stored in place";
    loop.add_fd(pipe.ends[0], EPOLLIN, [&, captured](uint32_t) {
        loop.remove_fd(pipe.ends[0]);
        EXPECT_EQ(captured.size(), 65u);
        ++calls;
    });
    pipe.fill();
    loop.run_ready();
    loop.run_ready();
    EXPECT_EQ(calls, 1);
}

TEST(EventLoop, RunUntilIdleGivesUpAfterItsLimit) {
    EventLoop loop;
    std::vector<std::string> log;
    loop.spawn(sleep_and_note(loop, 3'600'000'000, log, "never"), {});
    EXPECT_THROW(loop.run_until_idle(20'000), std::runtime_error);
}

}  // namespace
}  // namespace mana_ai::net
