#include "curl_handles.hpp"

#include <signal.h>

#include <stdexcept>

namespace mana_ai::net::detail {

namespace {

bool resolver_starts_threads() {
    const curl_version_info_data* info = curl_version_info(CURLVERSION_NOW);
    return (info->features & CURL_VERSION_ASYNCHDNS) != 0 && info->ares == nullptr;
}

sigset_t asynchronous_signals() {
    sigset_t set;
    sigfillset(&set);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS}) {
        sigdelset(&set, fault);
    }
    return set;
}

}  // namespace

void start_curl_once() {
    static const CURLcode code = curl_global_init(CURL_GLOBAL_DEFAULT);
    if (code != CURLE_OK) {
        throw std::runtime_error("could not initialize libcurl");
    }
}

SignalsBlocked::SignalsBlocked() noexcept {
    static const bool needed = resolver_starts_threads();
    static const sigset_t set = asynchronous_signals();
    active_ = needed && pthread_sigmask(SIG_BLOCK, &set, &previous_) == 0;
}

SignalsBlocked::~SignalsBlocked() {
    if (active_) {
        pthread_sigmask(SIG_SETMASK, &previous_, nullptr);
    }
}

}  // namespace mana_ai::net::detail
