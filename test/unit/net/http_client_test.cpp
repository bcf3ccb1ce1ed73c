// Answers of all kinds, well-formed and not.
#include "mana_ai/net/http_client.hpp"

#include <gtest/gtest.h>

#include <chrono>
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

// A server that answers each request of a connection with the same bytes, and a client for it.
struct Fixture {
    explicit Fixture(std::string answer)
        : server([answer, this](Peer& peer) {
              while (true) {
                  const std::string request = peer.read_request();
                  if (request.empty()) {
                      return;
                  }
                  seen = request;
                  if (!peer.send(answer)) {
                      return;
                  }
              }
          }) {}
    HttpResponse post(std::string body = "{}") {
        return fetch(loop, client, post_to(server.url(), std::move(body)));
    }
    std::string seen;  // the last request; read it when the answer is there
    RudeServer server;
    EventLoop loop;
    HttpClient client{loop};
};

TEST(HttpClient, PostsAndReadsTheAnswer) {
    Fixture test(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
        "Content-Length: 11\r\n\r\n{\"ok\":true}");
    const HttpResponse response = test.post("{\"a\":1}");
    EXPECT_EQ(response.error, TransportError::None);
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(response.body, "{\"ok\":true}");
    EXPECT_EQ(response.content_type, "application/json; charset=utf-8");
    EXPECT_EQ(response.retry_after, "");
    EXPECT_GT(response.duration_us, 0);
    EXPECT_EQ(test.seen.find("POST / HTTP/1.1\r\n"), 0u);
    EXPECT_NE(test.seen.find("Authorization: Bearer hunter2-is-the-key\r\n"), std::string::npos);
    EXPECT_NE(test.seen.find("Content-Type: application/json\r\n"), std::string::npos);
    EXPECT_NE(test.seen.find("\r\n\r\n{\"a\":1}"), std::string::npos);
    EXPECT_EQ(test.seen.find("Expect"), std::string::npos);
    EXPECT_EQ(test.seen.find("Accept-Encoding"), std::string::npos);
}

TEST(HttpClient, SendsLargeAndEmptyBodiesWithoutWaitingForAContinue) {
    Fixture test(ok_answer("x"));
    const std::string large(3 << 20, 'b');
    EXPECT_EQ(test.post(large).status, 200);
    EXPECT_EQ(test.seen.find("Expect"), std::string::npos);
    EXPECT_EQ(test.seen.size() - test.seen.find("\r\n\r\n") - 4, large.size());
    EXPECT_EQ(test.post("").status, 200);
    EXPECT_NE(test.seen.find("Content-Length: 0\r\n"), std::string::npos);
}

TEST(HttpClient, SendsABodyThatIsLentToIt) {
    Fixture test(ok_answer("x"));
    const std::string lent = "{\"lent\":1}";
    HttpRequest request;
    request.url = test.server.url("/path");
    request.body = "not sent";
    request.lent_body = &lent;
    const HttpResponse response = fetch(test.loop, test.client, std::move(request));
    EXPECT_EQ(response.status, 200) << response.error_detail;
    EXPECT_TRUE(test.seen.ends_with("\r\n\r\n{\"lent\":1}")) << test.seen;
    EXPECT_EQ(lent, "{\"lent\":1}") << "it is the lender's";
}

TEST(HttpClient, KeepsMethodsApartWhenHandlesAreReused) {
    Fixture test(ok_answer(""));
    for (const char* method : {"POST", "GET", "PUT", "DELETE", "POST", "OPTIONS", "PATCH", "GET"}) {
        HttpRequest request;
        request.method = method;
        request.url = test.server.url("/path");
        const bool with_body = request.method[0] == 'P';
        if (with_body) {
            request.body = "data";
        }
        const HttpResponse response = fetch(test.loop, test.client, std::move(request));
        EXPECT_EQ(response.status, 200) << response.error_detail;
        EXPECT_EQ(test.seen.find(std::string(method) + " /path HTTP/1.1\r\n"), 0u) << test.seen;
        EXPECT_EQ(test.seen.find("Content-Length: 4\r\n") != std::string::npos, with_body);
        EXPECT_EQ(test.seen.find("Content-Type"), std::string::npos);
        EXPECT_EQ(test.seen.find("hunter2"), std::string::npos);
    }
    EXPECT_EQ(test.server.connections(), 1);
    HttpRequest head;
    head.method = "HEAD";
    head.url = test.server.url();
    EXPECT_EQ(fetch(test.loop, test.client, std::move(head)).status, 200);
    EXPECT_EQ(test.post().status, 200);
}

TEST(HttpClient, HeadDoesNotWaitForTheBodyNorCountIt) {
    RudeServer server([](Peer& peer) {
        peer.read_request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n");
        peer.wait_for_close();
    });
    EventLoop loop;
    HttpClient client(loop);
    HttpRequest head;
    head.method = "HEAD";
    head.url = server.url();
    head.timeout_us = 2'000'000;
    const HttpResponse response = fetch(loop, client, std::move(head));
    EXPECT_EQ(response.error, TransportError::None) << response.error_detail;
    EXPECT_EQ(response.status, 200);
}

TEST(HttpClient, ReadsChunkedAnswersWithTrailers) {
    Fixture test(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        "5\r\nhello\r\n7;ext=1\r\n, world\r\n0\r\nX-Trailer: yes\r\n\r\n");
    EXPECT_EQ(test.post().body, "hello, world");
    EXPECT_EQ(test.post().body, "hello, world");
    EXPECT_EQ(test.server.connections(), 1);
}

TEST(HttpClient, ReadsAnAnswerThatEndsWithTheConnection) {
    RudeServer server([](Peer& peer) {
        peer.read_request();
        peer.send("HTTP/1.0 200 OK\r\n\r\nuntil the end");
    });
    EventLoop loop;
    HttpClient client(loop);
    EXPECT_EQ(fetch(loop, client, post_to(server.url())).body, "until the end");
}

TEST(HttpClient, AcceptsNoContentAndSkipsInterimAnswers) {
    Fixture empty("HTTP/1.1 204 No Content\r\n\r\n");
    const HttpResponse no_content = empty.post();
    EXPECT_EQ(no_content.error, TransportError::None);
    EXPECT_EQ(no_content.status, 204);
    EXPECT_EQ(no_content.body, "");
    Fixture interim("HTTP/1.1 103 Early Hints\r\nContent-Type: wrong\r\nRetry-After: 9\r\n\r\n" +
                    ok_answer("real"));
    const HttpResponse response = interim.post();
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(response.body, "real");
    EXPECT_EQ(response.content_type, "");
    EXPECT_EQ(response.retry_after, "");
}

TEST(HttpClient, HandsOverErrorAnswersWithRetryAfterAsSent) {
    Fixture seconds(
        "HTTP/1.1 429 Too Many Requests\r\nretry-after:   17 \r\n"
        "Content-Length: 4\r\n\r\nbusy");
    HttpResponse response = seconds.post();
    EXPECT_EQ(response.error, TransportError::None);
    EXPECT_EQ(response.status, 429);
    EXPECT_EQ(response.retry_after, "17");
    EXPECT_EQ(response.body, "busy");
    Fixture date(
        "HTTP/1.1 503 Unavailable\r\nRetry-After: Fri, 31 Dec 2027 23:59:59 GMT\r\n"
        "Content-Length: 0\r\n\r\n");
    EXPECT_EQ(date.post().retry_after, "Fri, 31 Dec 2027 23:59:59 GMT");
}

TEST(HttpClient, HandsOverTheModelThatAGatewayHasChosen) {
    Fixture test(
        "HTTP/1.1 200 OK\r\nx-mana-llm-resolved:  ollama/gemma3 \r\nContent-Length: 2\r\n\r\n{}");
    EXPECT_EQ(test.post().resolved_model, "ollama/gemma3");
    Fixture interim("HTTP/1.1 103 Early Hints\r\nX-Mana-LLM-Resolved: wrong\r\n\r\n" +
                    ok_answer("real"));
    EXPECT_EQ(interim.post().resolved_model, "");
}

TEST(HttpClient, DoesNotFollowRedirects) {
    Fixture target(ok_answer("secret page"));
    Fixture test("HTTP/1.1 302 Found\r\nLocation: " + target.server.url() +
                 "\r\nContent-Length: 0\r\n\r\n");
    const HttpResponse response = test.post();
    EXPECT_EQ(response.error, TransportError::None);
    EXPECT_EQ(response.status, 302);
    EXPECT_EQ(target.server.connections(), 0);
}

TEST(HttpClient, ReportsARefusedConnectionAsUnreachable) {
    uint16_t port = 0;
    ::close(test::listen_on_loopback(1, port));
    EventLoop loop;
    HttpClient client(loop);
    const HttpResponse response =
        fetch(loop, client, post_to("http://127.0.0.1:" + std::to_string(port) + "/"));
    EXPECT_EQ(response.error, TransportError::Unreachable);
    EXPECT_FALSE(response.may_have_arrived);
    EXPECT_EQ(response.status, 0);
}

TEST(HttpClient, ReportsLostConnectionsAsUnreachable) {
    const std::vector<std::pair<const char*, bool>> cases = {
        {"", false},
        {"", true},
        {"HTTP/1.1 200 OK\r\nContent-Le", false},
        {"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", false},
        {"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", true},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhalf", false},
    };
    for (const auto& [bytes, reset] : cases) {
        const std::string answer = bytes;
        const bool with_reset = reset;
        RudeServer server([answer, with_reset](Peer& peer) {
            peer.read_request();
            peer.send(answer);
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
            if (with_reset) {
                peer.reset_on_close();
            }
        });
        EventLoop loop;
        HttpClient client(loop);
        const HttpResponse response = fetch(loop, client, post_to(server.url()));
        EXPECT_EQ(response.error, TransportError::Unreachable) << answer << response.error_detail;
        EXPECT_TRUE(response.may_have_arrived);
        EXPECT_EQ(response.body, "");
        EXPECT_EQ(server.connections(), 1);
    }
}

TEST(HttpClient, TimesOutInEveryPhaseAndSaysWhich) {
    const std::vector<std::pair<std::string, std::string>> cases = {
        {"", "waiting for the answer"},
        {"HTTP/1.1 200", "waiting for the answer"},
        {"HTTP/1.1 200 OK\r\nX: 1\r\n", "reading the answer"},
        {"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", "reading the answer"},
    };
    for (const auto& [answer, phase] : cases) {
        RudeServer server([bytes = answer](Peer& peer) {
            peer.read_request();
            peer.send(bytes);
            peer.wait_for_close();
        });
        EventLoop loop;
        HttpClient client(loop);
        HttpRequest request = post_to(server.url());
        request.timeout_us = 100'000;
        const HttpResponse response = fetch(loop, client, std::move(request));
        EXPECT_EQ(response.error, TransportError::Timeout) << answer;
        EXPECT_TRUE(response.may_have_arrived);
        EXPECT_NE(response.error_detail.find(phase), std::string::npos) << response.error_detail;
        EXPECT_GE(response.duration_us, 100'000);
        EXPECT_LT(response.duration_us, 2'000'000);
        EXPECT_EQ(client.in_flight(), 0u);
    }
}

TEST(HttpClient, TimesOutOnABodyThatTrickles) {
    RudeServer server([](Peer& peer) {
        peer.read_request();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while (peer.send("1\r\nx\r\n")) {
            std::this_thread::sleep_for(std::chrono::milliseconds(5));
        }
    });
    EventLoop loop;
    HttpClient client(loop);
    HttpRequest request = post_to(server.url());
    request.timeout_us = 150'000;
    EXPECT_EQ(fetch(loop, client, std::move(request)).error, TransportError::Timeout);
}

TEST(HttpClient, TimesOutWhileConnecting) {
    // A full backlog: the kernel drops further SYNs.
    uint16_t port = 0;
    const int listener = test::listen_on_loopback(0, port);
    std::vector<int> fillers;
    for (int i = 0; i < 4; ++i) {
        const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(port);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        (void)::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address);
        fillers.push_back(fd);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EventLoop loop;
    HttpClient client(loop);
    HttpRequest request = post_to("http://127.0.0.1:" + std::to_string(port) + "/");
    request.connect_timeout_us = 100'000;
    HttpResponse response = fetch(loop, client, request);
    EXPECT_EQ(response.error, TransportError::Timeout) << response.error_detail;
    EXPECT_LT(response.duration_us, 2'000'000);
    request.connect_timeout_us = 5'000'000;
    request.timeout_us = 100'000;
    response = fetch(loop, client, std::move(request));
    EXPECT_EQ(response.error, TransportError::Timeout);
    EXPECT_NE(response.error_detail.find("connecting"), std::string::npos) << response.error_detail;
    for (const int fd : fillers) {
        ::close(fd);
    }
    ::close(listener);
}

TEST(HttpClient, ReportsWhatIsNotHttpAsMalformed) {
    for (const std::string& answer :
         {std::string("SSH-2.0-OpenSSH_9.2\r\n"), std::string("{\"ok\":true}\r\n\r\n"),
          std::string("\0\1\2\3\377\376garbage", 13),
          std::string("HTTP/9.9 200 OK\r\nContent-Length: 0\r\n\r\n"),
          std::string("HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n", 28),
          std::string("HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n")}) {
        RudeServer server([answer](Peer& peer) {
            peer.read_request();
            peer.send(answer);
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
        });
        EventLoop loop;
        HttpClient client(loop);
        const HttpResponse response = fetch(loop, client, post_to(server.url()));
        EXPECT_EQ(response.error, TransportError::Malformed)
            << answer << ": " << to_string(response.error) << " " << response.error_detail;
        for (const char c : response.error_detail) {
            EXPECT_TRUE(c >= 0x20 && c <= 0x7e);
        }
    }
}

TEST(HttpClient, FailsOnBrokenChunksWithoutHanging) {
    Fixture test("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n");
    const HttpResponse response = test.post();
    EXPECT_NE(response.error, TransportError::None);
    EXPECT_NE(response.error, TransportError::Timeout);
}

TEST(HttpClient, CapsTheAnswerHoweverItsSizeIsGiven) {
    const std::string kilobyte(1024, 'x');
    std::string chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (int i = 0; i < 8; ++i) {
        chunked += "400\r\n" + kilobyte + "\r\n";
    }
    for (const std::string& answer :
         {ok_answer(std::string(4097, 'x')), chunked,
          "HTTP/1.1 200 OK\r\n\r\n" + std::string(8192, 'x'),
          std::string("HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\n"),
          "HTTP/1.1 200 OK\r\n" + std::string(400'000, 'h') + ": v\r\n\r\n", [] {
              std::string many = "HTTP/1.1 200 OK\r\n";
              for (int i = 0; i < 20'000; ++i) {
                  many += "X-Header-" + std::to_string(i) + ": some value\r\n";
              }
              return many + "\r\n";
          }()}) {
        RudeServer server([answer](Peer& peer) {
            peer.read_request();
            peer.send(answer);
            peer.wait_for_close();
        });
        EventLoop loop;
        HttpClient client(loop);
        HttpRequest request = post_to(server.url());
        request.max_response_bytes = 4096;
        const HttpResponse response = fetch(loop, client, std::move(request));
        EXPECT_EQ(response.error, TransportError::TooLarge)
            << answer.substr(0, 60) << ": " << response.error_detail;
        EXPECT_EQ(response.body, "");
    }
    Fixture exact(ok_answer(std::string(4096, 'x')));
    HttpRequest request = post_to(exact.server.url());
    request.max_response_bytes = 4096;
    EXPECT_EQ(fetch(exact.loop, exact.client, std::move(request)).body.size(), 4096u);
}

TEST(HttpClient, DoesNotUnpackWhatItDidNotAskFor) {
    const std::string packed("\x1f\x8b\x08\0\0\0\0\0\0\3", 10);
    Fixture test("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 10\r\n\r\n" +
                 packed);
    EXPECT_EQ(test.post().body, packed);
}

TEST(HttpClient, ReadsAnAnswerThatComesBeforeTheBodyWasSent) {
    RudeServer server([](Peer& peer) {
        peer.send("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig");
        peer.wait_for_close();
    });
    EventLoop loop;
    HttpClient client(loop);
    const HttpResponse response =
        fetch(loop, client, post_to(server.url(), std::string(16 << 20, 'b')));
    EXPECT_EQ(response.error, TransportError::None) << response.error_detail;
    EXPECT_EQ(response.status, 413);
    EXPECT_EQ(response.body, "big");
}

TEST(HttpClient, RefusesRequestsThatCannotBeWritten) {
    Fixture test(ok_answer("x"));
    std::vector<HttpRequest> bad(9, post_to(test.server.url()));
    bad[0].url = "ftp://127.0.0.1/";
    bad[1].url = "";
    bad[2].url = "http://user:hunter2@127.0.0.1:" + std::to_string(test.server.port()) + "/";
    bad[3].url = test.server.url("/a b");
    bad[4].url = test.server.url("/\r\nX: y");
    bad[5].headers.emplace_back("X-Evil: a\r\nInjected: b");
    bad[6].headers.emplace_back("no colon hunter2");
    bad[7].method = "GE T";
    bad[8].url = "file:///etc/passwd";
    for (HttpRequest& request : bad) {
        const HttpResponse response = fetch(test.loop, test.client, std::move(request));
        EXPECT_EQ(response.error, TransportError::Malformed) << response.error_detail;
    }
    HttpRequest port = post_to("http://127.0.0.1:99999/");
    EXPECT_EQ(fetch(test.loop, test.client, std::move(port)).error, TransportError::Malformed);
    EXPECT_EQ(test.server.connections(), 0);
}

TEST(HttpClient, IgnoresTheProxyOfTheEnvironment) {
    ::setenv("http_proxy", "http://127.0.0.1:1", 1);
    ::setenv("ALL_PROXY", "http://127.0.0.1:1", 1);
    Fixture test(ok_answer("direct"));
    EXPECT_EQ(test.post().body, "direct");
    ::unsetenv("http_proxy");
    ::unsetenv("ALL_PROXY");
}

TEST(HttpClient, UsesTheProxyThatIsSet) {
    Fixture proxy(ok_answer("from the proxy"));
    EventLoop loop;
    HttpClientOptions options;
    options.proxy = proxy.server.url();
    options.user_agent = "mana_ai-test";
    HttpClient client(loop, options);
    EXPECT_EQ(fetch(loop, client, post_to("http://upstream.invalid/x")).body, "from the proxy");
    EXPECT_EQ(proxy.seen.find("POST http://upstream.invalid/x HTTP/1.1\r\n"), 0u);
    EXPECT_NE(proxy.seen.find("User-Agent: mana_ai-test\r\n"), std::string::npos);
}

}  // namespace
}  // namespace mana_ai::net
