#include "mana_ai/net/timer.hpp"

#include <algorithm>
#include <utility>

#include "mana_ai/net/event_loop.hpp"

namespace mana_ai::net {

Timer::Timer(EventLoop& loop, std::function<void()> callback)
    : loop_(loop), callback_(std::move(callback)) {
    loop_.register_timer();
}

Timer::~Timer() {
    disarm();
    --loop_.registered_timers_;
}

void Timer::arm(int64_t delay_us) noexcept {
    loop_.arm_timer(*this, delay_us);
}

void Timer::disarm() noexcept {
    if (armed()) {
        loop_.disarm_timer(*this);
    }
}

// ---- the loop's heap ---------------------------------------------------------------------------

void EventLoop::register_timer() {
    if (registered_timers_ + 1 > timers_.capacity()) {
        timers_.reserve(std::max<size_t>(64, 2 * (registered_timers_ + 1)));
    }
    ++registered_timers_;
}

void EventLoop::arm_timer(Timer& timer, int64_t delay_us) noexcept {
    if (timer.armed()) {
        disarm_timer(timer);
    }
    const int64_t now = clock_();
    const int64_t delay = std::max<int64_t>(0, delay_us);
    timer.deadline_us_ = delay > INT64_MAX - now ? INT64_MAX : now + delay;
    timer.sequence_ = timer_sequence_++;
    timers_.push_back(&timer);  // within the reserved capacity
    timer.position_ = timers_.size() - 1;
    sift_up(timer.position_);
}

void EventLoop::disarm_timer(Timer& timer) noexcept {
    const size_t position = timer.position_;
    Timer* last = timers_.back();
    timers_.pop_back();
    timer.position_ = Timer::kNotArmed;
    if (last != &timer) {
        place(last, position);
        sift_up(position);
        sift_down(last->position_);
    }
}

namespace {

template <class T>
bool earlier(const T& a_deadline, uint64_t a_order, const T& b_deadline, uint64_t b_order) {
    return a_deadline != b_deadline ? a_deadline < b_deadline : a_order < b_order;
}

}  // namespace

void EventLoop::place(Timer* timer, size_t position) noexcept {
    timers_[position] = timer;
    timer->position_ = position;
}

void EventLoop::sift_up(size_t position) noexcept {
    Timer* timer = timers_[position];
    while (position > 0) {
        const size_t parent = (position - 1) / 2;
        Timer* other = timers_[parent];
        if (!earlier(timer->deadline_us_, timer->sequence_, other->deadline_us_,
                     other->sequence_)) {
            break;
        }
        place(other, position);
        position = parent;
    }
    place(timer, position);
}

void EventLoop::sift_down(size_t position) noexcept {
    Timer* timer = timers_[position];
    while (true) {
        size_t child = 2 * position + 1;
        if (child >= timers_.size()) {
            break;
        }
        const auto before = [](const Timer* a, const Timer* b) {
            return earlier(a->deadline_us_, a->sequence_, b->deadline_us_, b->sequence_);
        };
        if (child + 1 < timers_.size() && before(timers_[child + 1], timers_[child])) {
            ++child;
        }
        if (!before(timers_[child], timer)) {
            break;
        }
        place(timers_[child], position);
        position = child;
    }
    place(timer, position);
}

}  // namespace mana_ai::net
