// libcurl's resolver threads: no signals for them, and no waiting for one that hangs.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <netdb.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <thread>

#include "http_test_support.hpp"

namespace {

std::atomic<bool> release_slow{false};
std::atomic<int> slow_running{0};
std::atomic<int> slow_started{0};
std::atomic<int> open_signals{-1};

}  // namespace

// Stands in for the C library's resolver: libcurl finds this definition first.
extern "C" int getaddrinfo(const char* node, const char* service, const addrinfo* hints,
                           addrinfo** result) {
    if (node != nullptr && std::strcmp(node, "slow.test") == 0) {
        ++slow_running;
        ++slow_started;
        while (!release_slow) {
            std::this_thread::sleep_for(std::chrono::milliseconds(5));
        }
        --slow_running;
        return EAI_NONAME;
    }
    if (node != nullptr && std::strcmp(node, "signals.test") == 0) {
        sigset_t mask;
        pthread_sigmask(SIG_SETMASK, nullptr, &mask);
        int open = 0;
        for (const int number : {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM,
                                 SIGCHLD, SIGURG, SIGIO, SIGPIPE}) {
            open += sigismember(&mask, number) == 0;
        }
        open_signals = open;
        return EAI_NONAME;
    }
    using Real = int (*)(const char*, const char*, const addrinfo*, addrinfo**);
    static const Real real = reinterpret_cast<Real>(::dlsym(RTLD_NEXT, "getaddrinfo"));
    return real(node, service, hints, result);
}

namespace mana_ai::net {
namespace {

using test::fetch;
using test::post_to;

class HttpResolver : public testing::Test {
 protected:
    void SetUp() override {
        release_slow = false;
        slow_started = 0;
    }
    void TearDown() override {
        release_slow = true;
        while (slow_running > 0) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(20));  // the thread frees its data
    }
};

int64_t elapsed_us(std::chrono::steady_clock::time_point since) {
    return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() -
                                                                 since)
        .count();
}

TEST_F(HttpResolver, RunsWithAllSignalsBlocked) {
    EventLoop loop;
    HttpClient client(loop);
    const HttpResponse response = fetch(loop, client, post_to("http://signals.test/"));
    EXPECT_EQ(response.error, TransportError::Unreachable);
    EXPECT_EQ(open_signals, 0);
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    EXPECT_FALSE(sigismember(&mask, SIGTERM));  // and ours are open again
}

TEST_F(HttpResolver, ATimeoutDoesNotWaitForAResolverThatHangs) {
    EventLoop loop;
    HttpClient client(loop);
    for (const bool connect_timeout : {false, true}) {
        const auto start = std::chrono::steady_clock::now();
        HttpRequest request = post_to("http://slow.test/");
        (connect_timeout ? request.connect_timeout_us : request.timeout_us) = 100'000;
        const HttpResponse response = fetch(loop, client, std::move(request));
        EXPECT_EQ(response.error, TransportError::Timeout) << response.error_detail;
        EXPECT_LT(elapsed_us(start), 2'000'000);
    }
    EXPECT_GT(slow_running, 0);
}

TEST_F(HttpResolver, CancellingDoesNotWaitForAResolverThatHangs) {
    test::FastServer server;
    EventLoop loop;
    auto client = std::make_unique<HttpClient>(loop);
    HttpResponse responses[2];
    const auto id =
        loop.spawn(test::exchange(*client, post_to("http://slow.test/"), responses[0]), {});
    loop.spawn(test::exchange(*client, post_to("http://slow.test/"), responses[1]), {});
    while (slow_started == 0) {
        loop.run_ready();
    }
    HttpResponse other;
    bool answered = false;
    loop.spawn(test::exchange(*client, post_to(server.url()), other),
               [&](std::exception_ptr) { answered = true; });
    while (!answered) {
        loop.run_ready();
    }
    EXPECT_EQ(other.status, 200);  // others go on
    const auto start = std::chrono::steady_clock::now();
    EXPECT_TRUE(loop.cancel(id));
    EXPECT_LT(elapsed_us(start), 1'000'000);
    client.reset();
    loop.run_until_idle(1'000'000);
    EXPECT_LT(elapsed_us(start), 1'000'000);
    EXPECT_EQ(responses[1].error, TransportError::Cancelled);
}

}  // namespace
}  // namespace mana_ai::net
