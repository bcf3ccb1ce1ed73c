// All calls to a service go through its CallGate, where coroutines wait for their turn.
//
// core::ServiceGate decides when a call may be sent; this class queues the callers.
#pragma once

#include <array>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <list>
#include <optional>

#include "mana_ai/core/service/service_gate.hpp"
#include "mana_ai/net/event_loop.hpp"
#include "mana_ai/net/timer.hpp"

namespace mana_ai::net {

class CallGate {
 public:
    // Runs that have begun go before new ones; within each group, first come, first served.
    enum class Order { Begun, New };

    // How long a caller waits. A wait that is known in advance to take longer is not begun.
    struct Patience {
        int64_t us = 0;
        int64_t outage_us = 0;  // while the service is unavailable
    };

    // One call, from the wait for its turn to its end.
    //     CallGate::Turn turn(gate, caller, order, patience);
    //     if (co_await turn) { … send …; turn.end(report); }
    // Destroying it removes it from the queue, or tells the gate that the call's result is unknown.
    // The gate outlives it.
    class [[nodiscard]] Turn {
     public:
        Turn(CallGate& gate, uint64_t caller, Order order, Patience patience)
            : gate_(gate), caller_(caller), order_(order), patience_(patience) {
            gate_.turns_++;
        }
        ~Turn();
        Turn(const Turn&) = delete;
        Turn& operator=(const Turn&) = delete;

        bool await_ready();
        void await_suspend(std::coroutine_handle<> handle);
        // Whether the call may be sent, and counts as in flight; false = the patience was not
        // enough.
        bool await_resume() const noexcept { return call_.has_value(); }

        void end(core::CallReport report);

     private:
        friend class CallGate;
        void leave();

        CallGate& gate_;
        uint64_t caller_;
        Order order_;
        Patience patience_;
        int64_t patient_until_ = 0;
        int64_t outage_until_ = 0;
        std::optional<core::ServiceGate::Call> call_;
        Waiter waiter_;
        std::optional<Timer> timer_;
        bool queued_ = false;
        std::list<Turn*>::iterator position_;
    };

    // The loop outlives the gate.
    CallGate(EventLoop& loop, const core::GateLimits& limits)
        : loop_(loop), gate_(limits), timer_(loop, [this] { serve(); }) {}
    CallGate(const CallGate&) = delete;
    CallGate& operator=(const CallGate&) = delete;

    void set_limits(const core::GateLimits& limits);
    // For another key: forgets what was learned with the old one.
    void forget();

    size_t waiting() const noexcept { return waiting_[0].size() + waiting_[1].size(); }
    // Unused: there is no Turn, not even one that has left the queue and not resumed yet.
    bool is_idle() const noexcept { return turns_ == 0; }

    // As in ServiceGate; `coming` calls are on their way to the queue.
    int claimable(size_t coming);
    // On the loop's clock.
    std::optional<int64_t> next_claim_at(size_t coming);
    bool is_closed() const noexcept { return gate_.is_closed(); }
    bool has_answered_since(int64_t us) const { return gate_.has_answered_since(us); }
    bool has_failed_others(uint64_t caller) const {
        return gate_.has_failed_others(caller, loop_.now_us());
    }
    core::GateView view() { return gate_.view(loop_.now_us()); }

    uint64_t refused() const noexcept { return refused_; }
    uint64_t failed() const noexcept { return failed_; }

 private:
    bool is_in_vain(const Turn& turn, std::optional<int64_t> permit_at) const;
    bool may_enter(const Turn& turn, int64_t now);
    void begin(Turn& turn, int64_t now);
    void serve();

    EventLoop& loop_;
    core::ServiceGate gate_;
    Timer timer_;
    std::array<std::list<Turn*>, 2> waiting_;  // by Order
    int turns_ = 0;
    uint64_t refused_ = 0;
    uint64_t failed_ = 0;
};

}  // namespace mana_ai::net
