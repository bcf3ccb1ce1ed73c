#include "mana_ai/net/call_gate.hpp"

#include <algorithm>
#include <utility>

namespace mana_ai::net {

using core::CallEnd;

namespace {

constexpr int64_t kShortestPatience = 1'000'000;

}  // namespace

CallGate::Turn::~Turn() {
    if (queued_) {
        leave();
        gate_.serve();
    }
    if (call_) {
        core::CallReport report;
        report.end = CallEnd::Dropped;
        end(report);
    }
    gate_.turns_--;
}

void CallGate::Turn::leave() {
    gate_.waiting_[static_cast<size_t>(order_)].erase(position_);
    queued_ = false;
    if (timer_) {
        timer_->disarm();
    }
}

bool CallGate::Turn::await_ready() {
    const int64_t now = gate_.loop_.now_us();
    patient_until_ = now + patience_.us;
    outage_until_ = now + std::min(patience_.outage_us, patience_.us);
    if (gate_.may_enter(*this, now)) {
        gate_.begin(*this, now);
        return true;
    }
    return gate_.is_in_vain(*this, gate_.gate_.next_permit_at(now));
}

void CallGate::Turn::await_suspend(std::coroutine_handle<> handle) {
    waiter_.set_handle(handle);
    auto& queue = gate_.waiting_[static_cast<size_t>(order_)];
    position_ = queue.insert(queue.end(), this);
    queued_ = true;
    timer_.emplace(gate_.loop_, [this] {
        const int64_t now = gate_.loop_.now_us();
        if (now < patient_until_ && !gate_.is_closed()) {
            timer_->arm(patient_until_ - now);
            return;
        }
        leave();
        gate_.loop_.post(waiter_);
        gate_.serve();
    });
    const bool is_short_for_outage = outage_until_ > gate_.loop_.now_us();
    timer_->arm((is_short_for_outage ? outage_until_ : patient_until_) - gate_.loop_.now_us());
    gate_.serve();
}

void CallGate::Turn::end(core::CallReport report) {
    const auto call = std::exchange(call_, std::nullopt);
    if (!call) {
        return;
    }
    report.caller = caller_;
    gate_.refused_ += report.end == CallEnd::Refused ? 1 : 0;
    gate_.failed_ += report.end == CallEnd::Down || report.end == CallEnd::Suspect ||
                             report.end == CallEnd::KeyRefused || report.end == CallEnd::Forbidden
                         ? 1
                         : 0;
    gate_.gate_.end(*call, report, gate_.loop_.now_us());
    gate_.serve();
}

bool CallGate::may_enter(const Turn& turn, int64_t now) {
    const bool is_next =
        waiting_[0].empty() && (turn.order_ == Order::Begun || waiting_[1].empty());
    return is_next && gate_.may_start(now);
}

bool CallGate::is_in_vain(const Turn& turn, std::optional<int64_t> permit_at) const {
    const int64_t until = gate_.is_closed() ? turn.outage_until_ : turn.patient_until_;
    if (gate_.is_closed() && loop_.now_us() >= until) {
        return true;
    }
    // A probe in flight may end before the next one is sent.
    return permit_at && *permit_at > until && !gate_.is_probing();
}

void CallGate::begin(Turn& turn, int64_t now) {
    turn.call_ = gate_.start(now);
}

// Resumes the callers whose turn it is, and those that would wait in vain.
void CallGate::serve() {
    timer_.disarm();
    if (waiting() == 0) {
        return;
    }
    const int64_t now = loop_.now_us();
    for (auto& queue : waiting_) {
        while (!queue.empty() && gate_.may_start(now)) {
            Turn& turn = *queue.front();
            turn.leave();
            begin(turn, now);
            loop_.post(turn.waiter_);
        }
    }
    if (waiting() == 0) {
        return;
    }
    const auto permit_at = gate_.next_permit_at(now);
    // There may be thousands, and this runs after each call. Callers whose patience ends in a
    // moment time out by themselves.
    if (gate_.is_closed() || (permit_at && *permit_at - now > kShortestPatience)) {
        for (auto& queue : waiting_) {
            for (auto next = queue.begin(); next != queue.end();) {
                Turn& turn = **next++;
                if (is_in_vain(turn, permit_at)) {
                    turn.leave();
                    loop_.post(turn.waiter_);
                }
            }
        }
    }
    if (permit_at && waiting() > 0) {
        timer_.arm(std::max<int64_t>(*permit_at - now, 1));
    }
}

void CallGate::set_limits(const core::GateLimits& limits) {
    gate_.set_limits(limits);
    serve();
}

void CallGate::forget() {
    gate_.forget();
    serve();
}

int CallGate::claimable(size_t coming) {
    return gate_.claimable(loop_.now_us(), static_cast<int>(waiting() + coming));
}

std::optional<int64_t> CallGate::next_claim_at(size_t coming) {
    return gate_.next_claim_at(loop_.now_us(), static_cast<int>(waiting() + coming));
}

}  // namespace mana_ai::net
