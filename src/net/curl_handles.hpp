// Owners of libcurl's handles, and its initialization.
#pragma once

#include <curl/curl.h>
#include <signal.h>

#include <memory>

#if LIBCURL_VERSION_NUM < 0x075700
#error "mana_ai needs libcurl 7.87 or later"  // for CURLOPT_QUICK_EXIT
#endif

namespace mana_ai::net::detail {

struct CurlEasyDeleter {
    void operator()(CURL* easy) const noexcept { curl_easy_cleanup(easy); }
};
struct CurlMultiDeleter {
    void operator()(CURLM* multi) const noexcept { curl_multi_cleanup(multi); }
};
struct CurlShareDeleter {
    void operator()(CURLSH* share) const noexcept { curl_share_cleanup(share); }
};

using CurlEasy = std::unique_ptr<CURL, CurlEasyDeleter>;
using CurlMulti = std::unique_ptr<CURLM, CurlMultiDeleter>;
using CurlShare = std::unique_ptr<CURLSH, CurlShareDeleter>;

// Initializes libcurl once per process. Throws std::runtime_error.
void start_curl_once();

// Blocks all asynchronous signals of this thread for its lifetime, so that a resolver thread that
// libcurl starts in this time inherits a full mask: the process's handlers must run in the main
// thread. Signals of faults are not blocked. Two system calls.
class SignalsBlocked {
 public:
    SignalsBlocked() noexcept;
    ~SignalsBlocked();
    SignalsBlocked(const SignalsBlocked&) = delete;
    SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
    bool active_;
    sigset_t previous_;
};

}  // namespace mana_ai::net::detail
