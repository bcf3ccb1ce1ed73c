// One timer of an EventLoop. Arming and disarming cost O(log n), allocate nothing and cannot
// fail.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace mana_ai::net {

class EventLoop;

class Timer {
 public:
    // The callback runs inside EventLoop::run_ready, once per arming; it may arm the timer again
    // but not destroy it. The loop must outlive the timer.
    Timer(EventLoop& loop, std::function<void()> callback);
    ~Timer();
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;

    // Fires once, `delay_us` microseconds from now (0 or less: in the next pass of the loop).
    // Arming an armed timer moves it.
    void arm(int64_t delay_us) noexcept;
    void disarm() noexcept;
    bool armed() const noexcept { return position_ != kNotArmed; }

 private:
    friend class EventLoop;
    static constexpr size_t kNotArmed = static_cast<size_t>(-1);

    EventLoop& loop_;
    std::function<void()> callback_;
    int64_t deadline_us_ = 0;
    uint64_t sequence_ = 0;        // order among equal deadlines
    size_t position_ = kNotArmed;  // index in the loop's heap
};

}  // namespace mana_ai::net
