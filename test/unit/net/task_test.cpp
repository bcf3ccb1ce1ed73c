#include "mana_ai/net/task.hpp"

#include <gtest/gtest.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "mana_ai/net/event_loop.hpp"

namespace mana_ai::net {
namespace {

Task<int> answer() {
    co_return 42;
}

Task<std::string> join(std::string a, std::string b) {
    co_return a + b;
}

Task<std::unique_ptr<int>> boxed(int value) {
    co_return std::make_unique<int>(value);
}

Task<int> fail_at(int depth) {
    if (depth == 0) {
        throw std::runtime_error("from the bottom");
    }
    Task<int> below = fail_at(depth - 1);
    co_return co_await std::move(below) + 1;
}

struct CountsDestruction {
    explicit CountsDestruction(int& counter) : counter_(&counter) {}
    CountsDestruction(CountsDestruction&& other) noexcept : counter_(other.counter_) {
        other.counter_ = nullptr;
    }
    CountsDestruction(const CountsDestruction&) = delete;
    CountsDestruction& operator=(const CountsDestruction&) = delete;
    CountsDestruction& operator=(CountsDestruction&&) = delete;
    ~CountsDestruction() {
        if (counter_ != nullptr) {
            ++*counter_;
        }
    }
    int* counter_;
};

Task<void> sleep_below(EventLoop& loop, int depth, CountsDestruction probe) {
    if (depth == 0) {
        co_await loop.sleep_for(3'600'000'000);
    } else {
        CountsDestruction next(*probe.counter_);
        Task<void> below = sleep_below(loop, depth - 1, std::move(next));
        co_await std::move(below);
    }
}

// Runs a test's coroutine to its end and throws what it threw.
void run(EventLoop& loop, Task<void> task) {
    std::exception_ptr failure;
    bool ended = false;
    loop.spawn(std::move(task), [&](std::exception_ptr exception) {
        failure = exception;
        ended = true;
    });
    loop.run_until_idle(10'000'000);
    EXPECT_TRUE(ended);
    if (failure) {
        std::rethrow_exception(failure);
    }
}

TEST(Task, DoesNothingUntilAwaited) {
    bool started = false;
    auto body = [](bool& flag) -> Task<void> {
        flag = true;
        co_return;
    };
    {
        Task<void> task = body(started);
        EXPECT_FALSE(started);
        EXPECT_FALSE(task.done());
    }
    EXPECT_FALSE(started);
}

TEST(Task, ValuesComeBackFromNestedTasks) {
    EventLoop loop;
    auto body = []() -> Task<void> {
        const int number = co_await answer();
        EXPECT_EQ(number, 42);
        std::string left = "long enough not to be stored in place: ";
        std::string right = "and neither is this one";
        const std::string both = co_await join(std::move(left), std::move(right));
        EXPECT_EQ(both, "long enough not to be stored in place: and neither is this one");
        const std::unique_ptr<int> box = co_await boxed(7);
        EXPECT_EQ(*box, 7);
    };
    run(loop, body());
}

TEST(Task, ExceptionsPassThroughThreeLevels) {
    EventLoop loop;
    auto body = []() -> Task<void> {
        Task<int> below = fail_at(3);
        std::string caught;
        try {
            co_await std::move(below);
        } catch (const std::runtime_error& error) {
            caught = error.what();
        }
        EXPECT_EQ(caught, "from the bottom");
        EXPECT_EQ(co_await answer(), 42);  // and the awaiter goes on
    };
    run(loop, body());
    auto uncaught = []() -> Task<void> { (void)co_await fail_at(3); };
    EXPECT_THROW(run(loop, uncaught()), std::runtime_error);
}

TEST(Task, ExceptionsAfterASuspensionReachTheAwaiter) {
    EventLoop loop;
    auto late = [](EventLoop& on) -> Task<int> {
        co_await on.sleep_for(1000);
        throw std::logic_error("late");
    };
    auto body = [](EventLoop& on, Task<int> below) -> Task<void> {
        co_await on.sleep_for(0);
        EXPECT_THROW((void)co_await std::move(below), std::logic_error);
    };
    run(loop, body(loop, late(loop)));
}

TEST(Task, DestroyingItDestroysTheWholeChain) {
    int destroyed = 0;
    EventLoop loop;
    CountsDestruction probe(destroyed);
    const auto id = loop.spawn(sleep_below(loop, 5, std::move(probe)), {});
    loop.run_ready();
    EXPECT_EQ(destroyed, 0);
    EXPECT_TRUE(loop.cancel(id));
    EXPECT_EQ(destroyed, 6);
    EXPECT_FALSE(loop.next_timeout_us().has_value());  // the sleep took its timer along
}

TEST(Task, MovedFromOrEmptyTasksAreRefused) {
    EventLoop loop;
    Task<void> empty;
    EXPECT_FALSE(empty);
    EXPECT_THROW(loop.spawn(std::move(empty), {}), std::logic_error);
    auto body = []() -> Task<void> {
        Task<int> once = answer();
        EXPECT_EQ(co_await std::move(once), 42);
        EXPECT_THROW((void)co_await std::move(once), std::logic_error);
        Task<int> moved = answer();
        Task<int> target = std::move(moved);
        EXPECT_FALSE(moved);
        EXPECT_EQ(co_await std::move(target), 42);
    };
    run(loop, body());
}

TEST(Task, ArgumentsLiveAsLongAsTheCoroutine) {
    int destroyed = 0;
    EventLoop loop;
    auto body = [](EventLoop& on, CountsDestruction probe, int& counter) -> Task<void> {
        co_await on.sleep_for(0);
        EXPECT_EQ(counter, 0);
        EXPECT_NE(probe.counter_, nullptr);
    };
    CountsDestruction probe(destroyed);
    run(loop, body(loop, std::move(probe), destroyed));
    EXPECT_EQ(destroyed, 1);
}

TEST(Task, ManyAwaitsInALoopReuseTheStack) {
    EventLoop loop;
    auto body = []() -> Task<void> {
#if defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__)
        const int rounds = 1'000'000;
#else
        const int rounds = 1'000;  // without optimization g++ grows the stack at each transfer
#endif
        long sum = 0;
        for (int i = 0; i < rounds; ++i) {
            sum += co_await answer();
        }
        EXPECT_EQ(sum, 42L * rounds);
    };
    run(loop, body());
}

}  // namespace
}  // namespace mana_ai::net
