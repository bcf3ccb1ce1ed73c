// Task<T>: a lazy coroutine with one awaiter.
//
// Ownership: a Task owns its coroutine frame. The frame holds everything that the coroutine awaits,
// so destroying an unfinished Task destroys the whole chain of frames below it. This cancels a run;
// every awaitable therefore removes itself from the loop in its destructor.
//
// Errors: an exception that leaves the coroutine is thrown again in the awaiter.
//
// Rules for coroutines in this tree:
//  - g++ 12 destroys some temporaries of a co_await expression twice or too early (arguments built
//    in place by aggregate initialisation, braced lists, conditional operators). Build every
//    argument with a non-trivial destructor as a named local and pass it with std::move:
//        HttpRequest request; request.url = ...;
//        HttpResponse response = co_await client.send(std::move(request));
//    and never `co_await client.send({.url = ...})`.
//  - A coroutine's parameters are taken by value, or by a reference to something that outlives it.
//  - A lambda that is a coroutine has no captures: its closure may be destroyed before it resumes.
//  - A catch block cannot co_await; remember the error and await after the block.
//  - Only the loop resumes coroutines; other code posts to it.
#pragma once

#include <coroutine>
#include <exception>
#include <optional>
#include <stdexcept>
#include <type_traits>
#include <utility>

namespace mana_ai::net {

template <class T = void>
class Task;

namespace detail {

// Notified when a coroutine that nobody awaits has ended (see EventLoop::spawn).
class TaskEnd {
 public:
    virtual void on_task_end() noexcept = 0;

 protected:
    ~TaskEnd() = default;
};

class TaskPromiseBase {
 public:
    struct FinalAwaiter {
        bool await_ready() const noexcept { return false; }
        template <class Promise>
        std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> self) const noexcept {
            TaskPromiseBase& promise = self.promise();
            if (promise.end_ != nullptr)
                promise.end_->on_task_end();
            return promise.continuation_ ? promise.continuation_ : std::noop_coroutine();
        }
        void await_resume() const noexcept {}
    };

    std::suspend_always initial_suspend() const noexcept { return {}; }
    FinalAwaiter final_suspend() const noexcept { return {}; }
    void unhandled_exception() noexcept { exception_ = std::current_exception(); }

    void set_continuation(std::coroutine_handle<> continuation) noexcept {
        continuation_ = continuation;
    }
    void set_end(TaskEnd* end) noexcept { end_ = end; }
    std::exception_ptr exception() const noexcept { return exception_; }

 protected:
    void rethrow_if_failed() const {
        if (exception_)
            std::rethrow_exception(exception_);
    }

 private:
    std::coroutine_handle<> continuation_;
    TaskEnd* end_ = nullptr;
    std::exception_ptr exception_;
};

template <class T>
class TaskPromise final : public TaskPromiseBase {
 public:
    Task<T> get_return_object() noexcept;

    template <class U>
    requires std::is_constructible_v<T, U&&>
    void return_value(U&& value) { value_.emplace(std::forward<U>(value)); }

    T take_result() {
        rethrow_if_failed();
        return std::move(*value_);
    }

 private:
    std::optional<T> value_;
};

template <>
class TaskPromise<void> final : public TaskPromiseBase {
 public:
    Task<void> get_return_object() noexcept;
    void return_void() const noexcept {}
    void take_result() const { rethrow_if_failed(); }
};

}  // namespace detail

template <class T>
class [[nodiscard]] Task {
    static_assert(!std::is_reference_v<T>, "a Task returns a value");

 public:
    using promise_type = detail::TaskPromise<T>;
    using Handle = std::coroutine_handle<promise_type>;

    Task() noexcept = default;
    explicit Task(Handle handle) noexcept : handle_(handle) {}
    Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, {})) {}
    Task& operator=(Task&& other) noexcept {
        if (this != &other) {
            reset();
            handle_ = std::exchange(other.handle_, {});
        }
        return *this;
    }
    Task(const Task&) = delete;
    Task& operator=(const Task&) = delete;
    ~Task() { reset(); }

    // Whether the Task owns a coroutine (false after a move or reset).
    explicit operator bool() const noexcept { return static_cast<bool>(handle_); }
    bool done() const noexcept { return handle_ && handle_.done(); }

    // Destroys the coroutine with all that it awaits. Must not be called from inside of it.
    void reset() noexcept {
        if (Handle handle = std::exchange(handle_, {}))
            handle.destroy();
    }

    // Starts the coroutine and waits for its end; at most once: `co_await std::move(task)`.
    auto operator co_await() && {
        struct Awaiter {
            Handle handle;
            bool await_ready() const noexcept { return false; }
            std::coroutine_handle<> await_suspend(std::coroutine_handle<> awaiting) const noexcept {
                handle.promise().set_continuation(awaiting);
                return handle;
            }
            T await_resume() const { return handle.promise().take_result(); }
        };
        if (!handle_ || handle_.done())
            throw std::logic_error("task has nothing to await");
        return Awaiter{handle_};
    }

    // For the loop only; the frame stays owned by the Task.
    Handle handle() const noexcept { return handle_; }

 private:
    Handle handle_;
};

namespace detail {

template <class T>
Task<T> TaskPromise<T>::get_return_object() noexcept {
    return Task<T>(std::coroutine_handle<TaskPromise<T>>::from_promise(*this));
}

inline Task<void> TaskPromise<void>::get_return_object() noexcept {
    return Task<void>(std::coroutine_handle<TaskPromise<void>>::from_promise(*this));
}

}  // namespace detail

}  // namespace mana_ai::net
