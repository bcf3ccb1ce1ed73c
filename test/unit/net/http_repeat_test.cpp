// What happens when a kept connection has died: nothing that changes state is sent twice.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include "http_test_support.hpp"

namespace mana_ai::net {
namespace {

using test::fetch;
using test::ok_answer;
using test::Peer;
using test::post_to;
using test::RudeServer;

// Answers the first request of the first connection; reads the second and drops the connection, as
// a server that crashes while it works. Later connections behave.
RudeServer::Script drops_the_second(std::atomic<int>& requests, bool reset) {
    return [&requests, reset](Peer& peer) {
        for (int i = 0; !peer.read_request().empty(); ++i) {
            ++requests;
            if (peer.number() == 1 && i == 1) {
                if (reset) {
                    peer.reset_on_close();
                }
                return;
            }
            peer.send(ok_answer("done"));
        }
    };
}

TEST(HttpRepeat, APostThatTheServerMayHaveSeenIsNotSentTwice) {
    for (const bool reset : {false, true}) {
        for (const std::string& body : {std::string("{}"), std::string(2 << 20, 'b')}) {
            for (const char* method : {"POST", "PATCH", "DELETE"}) {
                std::atomic<int> requests{0};
                RudeServer server(drops_the_second(requests, reset));
                EventLoop loop;
                HttpClient client(loop);
                EXPECT_EQ(fetch(loop, client, post_to(server.url())).body, "done");
                HttpRequest request = post_to(server.url(), body);
                request.method = method;
                const HttpResponse response = fetch(loop, client, std::move(request));
                EXPECT_EQ(response.error, TransportError::Unreachable) << response.error_detail;
                std::this_thread::sleep_for(std::chrono::milliseconds(10));
                EXPECT_EQ(requests, 2);
                EXPECT_EQ(fetch(loop, client, post_to(server.url())).body, "done");
                EXPECT_EQ(requests, 3);
            }
        }
    }
}

TEST(HttpRepeat, AGetIsSentAgain) {
    std::atomic<int> requests{0};
    RudeServer server(drops_the_second(requests, true));
    EventLoop loop;
    HttpClient client(loop);
    EXPECT_EQ(fetch(loop, client, post_to(server.url())).body, "done");
    HttpRequest request;
    request.method = "GET";
    request.url = server.url();
    EXPECT_EQ(fetch(loop, client, std::move(request)).body, "done");
    EXPECT_EQ(requests, 3);
    EXPECT_EQ(server.connections(), 2);
}

TEST(HttpRepeat, AConnectionFoundDeadBeforehandIsReplaced) {
    for (const bool reset : {false, true}) {
        std::atomic<int> requests{0};
        RudeServer server([&requests, reset](Peer& peer) {
            if (!peer.read_request().empty()) {
                ++requests;
                peer.send(ok_answer("done"));
                std::this_thread::sleep_for(std::chrono::milliseconds(20));
                if (reset) {
                    peer.reset_on_close();
                }
            }
        });
        EventLoop loop;
        HttpClient client(loop);
        for (int i = 1; i <= 3; ++i) {
            const HttpResponse response = fetch(loop, client, post_to(server.url()));
            EXPECT_EQ(response.body, "done") << response.error_detail;
            EXPECT_EQ(requests, i);
            EXPECT_EQ(server.connections(), i);
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
        }
    }
}

TEST(HttpRepeat, AFreshConnectionThatDiesIsNotTriedAgain) {
    std::atomic<int> requests{0};
    RudeServer server([&requests](Peer& peer) {
        if (!peer.read_request().empty()) {
            ++requests;
        }
    });
    EventLoop loop;
    HttpClient client(loop);
    EXPECT_EQ(fetch(loop, client, post_to(server.url())).error, TransportError::Unreachable);
    EXPECT_EQ(requests, 1);
    EXPECT_EQ(server.connections(), 1);
}

}  // namespace
}  // namespace mana_ai::net
