// Requests that are given up, and clients and loops that are destroyed, at every stage; many
// requests at once; limits. Run under AddressSanitizer these also prove that nothing leaks.
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "http_test_support.hpp"

namespace mana_ai::net {
namespace {

using test::FastServer;
using test::fetch;
using test::ok_answer;
using test::Peer;
using test::post_to;
using test::RudeServer;

size_t open_descriptors() {
    const std::filesystem::directory_iterator entries("/proc/self/fd");
    return static_cast<size_t>(std::distance(begin(entries), end(entries)));
}

// Runs the loop until the condition holds (or 5 seconds have passed).
template <class Condition>
bool run_until(EventLoop& loop, Condition condition) {
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(5);
    while (!condition()) {
        if (std::chrono::steady_clock::now() > give_up) {
            return false;
        }
        if (loop.run_ready() == 0) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    }
    return true;
}

RudeServer::Script silent_after(std::string bytes, std::atomic<int>& reached) {
    return [bytes = std::move(bytes), &reached](Peer& peer) {
        if (peer.read_request().empty()) {
            return;
        }
        peer.send(bytes);
        ++reached;
        peer.wait_for_close();
    };
}

TEST(HttpCancel, BeforeItStarts) {
    FastServer server;
    EventLoop loop;
    HttpClient client(loop);
    {
        HttpClient::Send never_awaited = client.send(post_to(server.url()));
        HttpClient::Send moved = std::move(never_awaited);
    }
    HttpResponse response;
    const auto id = loop.spawn(test::exchange(client, post_to(server.url()), response), {});
    EXPECT_TRUE(loop.cancel(id));
    loop.run_ready();
    EXPECT_EQ(client.in_flight(), 0u);
    EXPECT_EQ(server.requests(), 0u);
}

TEST(HttpCancel, RightAfterItStarted) {
    FastServer server;
    EventLoop loop;
    HttpClient client(loop);
    HttpResponse response;
    auto starter = [](EventLoop& on, HttpClient& http, std::string url,
                      HttpResponse& out) -> Task<void> {
        const auto id = on.spawn(test::exchange(http, post_to(std::move(url)), out), {});
        co_await on.sleep_for(0);
        EXPECT_EQ(http.in_flight(), 1u);
        EXPECT_TRUE(on.cancel(id));
    };
    loop.spawn(starter(loop, client, server.url(), response), {});
    loop.run_until_idle(2'000'000);
    EXPECT_EQ(client.in_flight(), 0u);
    EXPECT_EQ(fetch(loop, client, post_to(server.url())).status, 200);
}

TEST(HttpCancel, WhileItWaitsForAConnection) {
    std::atomic<int> reached{0};
    RudeServer server(silent_after("", reached));
    EventLoop loop;
    HttpClientOptions options;
    options.max_connections_total = 1;
    HttpClient client(loop, options);
    HttpResponse first;
    HttpResponse second;
    HttpResponse third;
    loop.spawn(test::exchange(client, post_to(server.url()), first), {});
    const auto id = loop.spawn(test::exchange(client, post_to(server.url()), second), {});
    loop.spawn(test::exchange(client, post_to(server.url()), third), {});
    ASSERT_TRUE(run_until(loop, [&] { return reached == 1; }));
    EXPECT_EQ(client.in_flight(), 1u);
    EXPECT_EQ(client.waiting(), 2u);
    EXPECT_TRUE(loop.cancel(id));
    EXPECT_EQ(client.waiting(), 1u);
    loop.cancel_all();
    EXPECT_EQ(client.waiting(), 0u);
    EXPECT_EQ(client.in_flight(), 0u);
    EXPECT_EQ(server.connections(), 1);
}

TEST(HttpCancel, WhileTheServerThinksOrSends) {
    for (const char* bytes :
         {"", "HTTP/1.1 200 OK\r\nContent-", "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nabc"}) {
        std::atomic<int> reached{0};
        RudeServer server(silent_after(bytes, reached));
        EventLoop loop;
        HttpClient client(loop);
        HttpResponse response;
        const auto id = loop.spawn(test::exchange(client, post_to(server.url()), response),
                                   [](std::exception_ptr) { ADD_FAILURE(); });
        ASSERT_TRUE(run_until(loop, [&] { return reached == 1; }));
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        loop.run_ready();
        EXPECT_EQ(client.in_flight(), 1u);
        EXPECT_TRUE(loop.cancel(id));
        EXPECT_EQ(client.in_flight(), 0u);
        loop.run_ready();
        FastServer other;
        EXPECT_EQ(fetch(loop, client, post_to(other.url())).status, 200);
    }
}

TEST(HttpCancel, BetweenTheAnswerAndTheCoroutine) {
    // Both answers are there; whichever coroutine comes first cancels the other.
    FastServer server("{}", 2);
    EventLoop loop;
    HttpClient client(loop);
    EventLoop::TaskId ids[2] = {};
    int finished = 0;
    auto racer = [](EventLoop& on, HttpClient& http, std::string url, EventLoop::TaskId& other,
                    int& count) -> Task<void> {
        HttpRequest request = post_to(std::move(url));
        const HttpResponse response = co_await http.send(std::move(request));
        EXPECT_EQ(response.status, 200);
        EXPECT_TRUE(on.cancel(other));
        ++count;
    };
    ids[0] = loop.spawn(racer(loop, client, server.url(), ids[1], finished), {});
    ids[1] = loop.spawn(racer(loop, client, server.url(), ids[0], finished), {});
    ASSERT_TRUE(run_until(loop, [&] { return server.requests() == 2; }));
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    loop.run_until_idle(1'000'000);
    EXPECT_EQ(finished, 1);
    EXPECT_EQ(client.in_flight(), 0u);
}

TEST(HttpCancel, DestroyingTheClientEndsWhatIsInFlightOrWaiting) {
    std::atomic<int> reached{0};
    RudeServer server(silent_after("HTTP/1.1 200 OK\r\n", reached));
    EventLoop loop;
    HttpClientOptions options;
    options.max_connections_total = 2;
    auto client = std::make_unique<HttpClient>(loop, options);
    std::vector<HttpResponse> responses(5);
    for (HttpResponse& response : responses) {
        loop.spawn(test::exchange(*client, post_to(server.url()), response), {});
    }
    HttpClient::Send not_started = client->send(post_to(server.url()));
    ASSERT_TRUE(run_until(loop, [&] { return reached == 2; }));
    client.reset();
    loop.run_until_idle(1'000'000);
    for (const HttpResponse& response : responses) {
        EXPECT_EQ(response.error, TransportError::Cancelled);
        EXPECT_FALSE(response.error_detail.empty());
    }
    auto late = [](HttpClient::Send send, HttpResponse& out) -> Task<void> { out = co_await send; };
    HttpResponse response;
    loop.spawn(late(std::move(not_started), response), {});
    loop.run_until_idle(1'000'000);
    EXPECT_EQ(response.error, TransportError::Cancelled);
}

TEST(HttpCancel, DestroyingClientAndLoopWithoutRunningThem) {
    std::atomic<int> reached{0};
    RudeServer server(silent_after("", reached));
    auto loop = std::make_unique<EventLoop>();
    auto client = std::make_unique<HttpClient>(*loop);
    std::vector<HttpResponse> responses(5);
    for (HttpResponse& response : responses) {
        loop->spawn(test::exchange(*client, post_to(server.url()), response), {});
    }
    ASSERT_TRUE(run_until(*loop, [&] { return reached == 5; }));
    client.reset();
    loop.reset();
    EXPECT_EQ(responses[0].error, TransportError::None);  // nobody was told any more
}

TEST(HttpCancel, HundredsAtRandomTimesLeaveNothingBehind) {
    std::atomic<int> reached{0};
    FastServer fast;
    RudeServer slow(silent_after("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", reached));
    const size_t before = open_descriptors();
    {
        EventLoop loop;
        HttpClientOptions options;
        options.max_connections_total = 20;
        HttpClient client(loop, options);
        std::vector<HttpResponse> responses(600);
        std::vector<EventLoop::TaskId> ids;
        unsigned state = 12345;
        for (size_t i = 0; i < responses.size(); ++i) {
            HttpRequest request = post_to(i % 3 == 0 ? slow.url() : fast.url());
            ids.push_back(loop.spawn(test::exchange(client, std::move(request), responses[i]), {}));
            state = state * 1103515245 + 12345;
            if (i % 2 == 1) {
                loop.cancel(ids[(state >> 8) % ids.size()]);
            }
            loop.run_ready();
        }
        for (size_t i = 0; i < ids.size(); i += 3) {
            loop.cancel(ids[i]);  // the slow ones
        }
        loop.run_until_idle(10'000'000);
        EXPECT_EQ(client.in_flight(), 0u);
        EXPECT_EQ(client.waiting(), 0u);
        EXPECT_EQ(fetch(loop, client, post_to(fast.url())).status, 200);
    }
    EXPECT_TRUE([&] {
        for (int i = 0; i < 1000; ++i) {
            if (open_descriptors() <= before) {
                return true;
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
        }
        return false;
    }());
}

TEST(HttpLimits, FiveHundredRequestsAtOnce) {
    FastServer server("{\"ok\":true}", 500);  // answers nobody before all are there
    EventLoop loop;
    HttpClient client(loop);
    std::vector<HttpResponse> responses(500);
    for (HttpResponse& response : responses) {
        loop.spawn(test::exchange(client, post_to(server.url()), response), {});
    }
    loop.run_until_idle(20'000'000);
    for (const HttpResponse& response : responses) {
        ASSERT_EQ(response.status, 200) << response.error_detail;
        ASSERT_EQ(response.body, "{\"ok\":true}");
    }
    EXPECT_EQ(server.connections(), 500u);
}

TEST(HttpLimits, ConnectionsAreReusedAndNeverMoreThanAllowed) {
    FastServer server;
    EventLoop loop;
    HttpClientOptions options;
    options.max_connections_total = 4;
    HttpClient client(loop, options);
    std::vector<HttpResponse> responses(300);
    for (HttpResponse& response : responses) {
        loop.spawn(test::exchange(client, post_to(server.url()), response), {});
    }
    loop.run_until_idle(10'000'000);
    for (const HttpResponse& response : responses) {
        ASSERT_EQ(response.status, 200) << response.error_detail;
    }
    EXPECT_EQ(server.connections(), 4u);
}

TEST(HttpLimits, IdleConnectionsToOneHostMakeRoomForAnother) {
    FastServer first("{}", 3);
    FastServer second("{}", 4);  // never answers
    EventLoop loop;
    HttpClientOptions options;
    options.max_connections_total = 3;
    HttpClient client(loop, options);
    std::vector<HttpResponse> responses(6);
    for (size_t i = 0; i < 3; ++i) {
        loop.spawn(test::exchange(client, post_to(first.url()), responses[i]), {});
    }
    loop.run_until_idle(5'000'000);
    EXPECT_EQ(first.open_connections(), 3u);
    for (size_t i = 3; i < 6; ++i) {
        loop.spawn(test::exchange(client, post_to(second.url()), responses[i]), {});
    }
    ASSERT_TRUE(run_until(loop, [&] { return second.requests() == 3; }));
    EXPECT_TRUE(run_until(loop, [&] { return first.open_connections() == 0; }));
    loop.cancel_all();
}

TEST(HttpLimits, ABusyHostDoesNotHoldUpAnother) {
    std::atomic<int> reached{0};
    RudeServer stuck(silent_after("", reached));
    FastServer fast;
    EventLoop loop;
    HttpClientOptions options;
    options.max_connections_total = 4;
    options.max_connections_per_host = 2;
    HttpClient client(loop, options);
    std::vector<HttpResponse> stuck_responses(10);
    for (HttpResponse& response : stuck_responses) {
        loop.spawn(test::exchange(client, post_to(stuck.url()), response), {});
    }
    std::vector<HttpResponse> responses(50);
    size_t answered = 0;
    for (HttpResponse& response : responses) {
        loop.spawn(test::exchange(client, post_to(fast.url()), response),
                   [&](std::exception_ptr) { ++answered; });
    }
    EXPECT_TRUE(run_until(loop, [&] { return answered == responses.size(); }));
    EXPECT_EQ(client.in_flight(), 2u);
    EXPECT_EQ(client.waiting(), 8u);
    EXPECT_TRUE(run_until(loop, [&] { return stuck.connections() == 2; }));
    EXPECT_LE(fast.connections(), 2u);
    loop.cancel_all();
}

TEST(HttpLimits, WaitingForAConnectionCountsAgainstTheTimeout) {
    std::atomic<int> reached{0};
    RudeServer server(silent_after("", reached));
    EventLoop loop;
    HttpClientOptions options;
    options.max_connections_total = 1;
    HttpClient client(loop, options);
    HttpResponse first;
    HttpResponse second;
    loop.spawn(test::exchange(client, post_to(server.url()), first), {});
    HttpRequest request = post_to(server.url());
    request.timeout_us = 50'000;
    bool ended = false;
    loop.spawn(test::exchange(client, std::move(request), second),
               [&](std::exception_ptr) { ended = true; });
    ASSERT_TRUE(run_until(loop, [&] { return ended; }));
    EXPECT_EQ(second.error, TransportError::Timeout);
    EXPECT_NE(second.error_detail.find("free connection"), std::string::npos);
    EXPECT_EQ(client.waiting(), 0u);
    loop.cancel_all();
}

TEST(HttpLimits, ManyHostsAreForgottenAgain) {
    FastServer server;
    EventLoop loop;
    HttpClientOptions options;
    options.max_connections_total = 8;
    options.proxy = server.url();
    HttpClient client(loop, options);
    std::vector<HttpResponse> responses(300);
    for (size_t i = 0; i < responses.size(); ++i) {
        HttpRequest request = post_to("http://host" + std::to_string(i) + ".invalid/");
        loop.spawn(test::exchange(client, std::move(request), responses[i]), {});
    }
    loop.run_until_idle(10'000'000);
    for (const HttpResponse& response : responses) {
        EXPECT_EQ(response.status, 200) << response.error_detail;
    }
}

}  // namespace
}  // namespace mana_ai::net
