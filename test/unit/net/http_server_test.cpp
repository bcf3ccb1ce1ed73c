// Requests as they should be, and clients that send too much, too slowly or nothing at all.
#include "mana_ai/net/http_server.hpp"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "mana_ai/net/event_loop.hpp"

namespace mana_ai::net {
namespace {

// Lets the loop work until the condition holds, at most ten seconds.
bool run_until(EventLoop& loop, const std::function<bool()>& condition) {
    const int64_t end = loop.now_us() + 10'000'000;
    while (!condition()) {
        if (loop.now_us() > end) {
            return false;
        }
        pollfd wait{loop.fd(), POLLIN, 0};
        const int64_t pause = std::min<int64_t>(loop.next_timeout_us().value_or(5000), 5000);
        ::poll(&wait, 1, static_cast<int>((pause + 999) / 1000));
        loop.run_ready();
    }
    return true;
}

// A client that sends what it likes.
class RawClient {
 public:
    explicit RawClient(int port, const char* from = "127.0.0.1")
        : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        ::inet_pton(AF_INET, from, &address.sin_addr);
        if (::bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
            throw std::system_error(errno, std::generic_category(), "bind");
        }
        address.sin_port = htons(static_cast<uint16_t>(port));
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        if (::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
            throw std::system_error(errno, std::generic_category(), "connect");
        }
    }
    ~RawClient() {
        if (fd_ >= 0) {
            ::close(fd_);
        }
    }
    RawClient(const RawClient&) = delete;
    RawClient& operator=(const RawClient&) = delete;

    void send(const std::string& text) {
        size_t sent = 0;
        while (sent < text.size()) {
            const ssize_t n = ::send(fd_, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
            if (n <= 0) {
                return;  // the server has closed the connection
            }
            sent += static_cast<size_t>(n);
        }
    }

    // Takes what has arrived.
    void receive() {
        char buffer[65536];
        while (!closed) {
            const ssize_t n = ::recv(fd_, buffer, sizeof(buffer), MSG_DONTWAIT);
            if (n > 0) {
                received.append(buffer, static_cast<size_t>(n));
            } else {
                closed = n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
                return;
            }
        }
    }

    bool contains(const std::string& text) {
        receive();
        return received.find(text) != std::string::npos;
    }
    bool is_closed() {
        receive();
        return closed;
    }
    void close() { ::close(std::exchange(fd_, -1)); }

    std::string received;
    bool closed = false;

 private:
    int fd_;
};

const std::string kGet = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";

struct Fixture {
    explicit Fixture(HttpServerOptions changes = {}) {
        HttpServerOptions options = std::move(changes);
        options.listen = "127.0.0.1:0";
        options.on_served = [this](const HttpServed& s) {
            served.push_back(std::string(s.method) + ' ' + std::string(s.path) + ' ' +
                             std::to_string(s.status));
        };
        server.emplace(loop, std::move(options));
        server->route("GET", "/health", [this](const HttpServerRequest& request, HttpReply reply) {
            seen = request;
            HttpAnswer answer;
            answer.body = "{\"ok\":true}";
            reply.send(std::move(answer));
        });
        server->route("POST", "/echo", [](const HttpServerRequest& request, HttpReply reply) {
            HttpAnswer answer;
            answer.body = request.body;
            answer.headers.emplace_back("Cache-Control", "max-age=5");
            reply.send(std::move(answer));
        });
        server->route("GET", "/later", [this](const HttpServerRequest&, HttpReply reply) {
            waiting.push_back(std::move(reply));
        });
        server->route("GET", "/users/:id",
                      [this](const HttpServerRequest& request, HttpReply reply) {
                          seen = request;
                          HttpAnswer answer;
                          answer.body = request.path_parameter;
                          reply.send(std::move(answer));
                      });
        server->route("GET", "/dropped", [](const HttpServerRequest&, HttpReply) {});
        server->route("GET", "/throws", [](const HttpServerRequest&, HttpReply) {
            throw std::runtime_error("private text");
        });
    }

    // Sends one request on a connection of its own and returns what came back until it is closed.
    std::string ask(const std::string& request) {
        RawClient client(server->port());
        client.send(request);
        EXPECT_TRUE(run_until(loop, [&] { return client.is_closed(); })) << client.received;
        return client.received;
    }
    std::string get(const std::string& path, const std::string& method = "GET") {
        return ask(method + ' ' + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    }

    EventLoop loop;
    std::vector<HttpReply> waiting;
    std::vector<std::string> served;
    HttpServerRequest seen;
    std::optional<HttpServer> server;
};

std::string status_line(const std::string& answer) {
    return answer.substr(0, answer.find("\r\n"));
}

TEST(HttpServer, GivesARoutesParameterDecoded) {
    Fixture fixture;
    EXPECT_TRUE(fixture.get("/users/anna").ends_with("\r\n\r\nanna"));
    EXPECT_TRUE(fixture.get("/users/a%2Fb%20c?x=1").ends_with("\r\n\r\na/b c"));
    EXPECT_TRUE(fixture.get("/users/:id").ends_with("\r\n\r\n:id"));
    for (const char* path : {"/users", "/users/", "/users/a/", "/users/a/b", "/users//"}) {
        EXPECT_TRUE(fixture.get(path).starts_with("HTTP/1.1 404")) << path;
    }
    EXPECT_TRUE(fixture.get("/users/anna", "POST").starts_with("HTTP/1.1 405"));
    // What is counted has no end otherwise.
    EXPECT_EQ(fixture.served.front(), "GET /users/:id 200");
    EXPECT_EQ(fixture.served[3], "GET other 404");
}

TEST(HttpServer, AnswersARequest) {
    Fixture test;
    const std::string answer = test.get("/health");
    EXPECT_EQ(status_line(answer), "HTTP/1.1 200 OK");
    EXPECT_NE(answer.find("Content-Type: application/json; charset=utf-8\r\n"), std::string::npos);
    EXPECT_NE(answer.find("X-Content-Type-Options: nosniff\r\n"), std::string::npos);
    EXPECT_NE(answer.find("Cache-Control: no-store\r\n"), std::string::npos);
    EXPECT_TRUE(answer.ends_with("\r\n\r\n{\"ok\":true}"));
    EXPECT_EQ(test.served, std::vector<std::string>{"GET /health 200"});
}

TEST(HttpServer, HandsOverHeadersArgumentsAndCookies) {
    Fixture test;
    test.ask(
        "GET /health?missionId=a%20b%2Fc&limit=5&empty=&odd%00name=x HTTP/1.1\r\nHost: x\r\n"
        "X-Service-Key: k\r\nCookie: other=1; ticket=abc; ticket2=d\r\nConnection: close\r\n\r\n");
    EXPECT_EQ(test.seen.method, "GET");
    EXPECT_EQ(test.seen.path, "/health");
    EXPECT_EQ(test.seen.argument("missionId"), "a b/c");
    EXPECT_EQ(test.seen.argument("limit"), "5");
    EXPECT_EQ(test.seen.argument("none"), "");
    EXPECT_EQ(test.seen.header("x-service-key"), "k");
    EXPECT_EQ(test.seen.header("x-none"), "");
    EXPECT_EQ(test.seen.cookie("ticket"), "abc");
    EXPECT_EQ(test.seen.cookie("other"), "1");
    EXPECT_EQ(test.seen.cookie("tick"), "");
}

TEST(HttpServer, HeadHasNoBodyButItsLength) {
    Fixture test;
    const std::string answer = test.get("/health", "HEAD");
    EXPECT_EQ(status_line(answer), "HTTP/1.1 200 OK");
    EXPECT_NE(answer.find("Content-Length: 11\r\n"), std::string::npos);
    EXPECT_TRUE(answer.ends_with("\r\n\r\n"));
    EXPECT_EQ(test.served, std::vector<std::string>{"HEAD /health 200"});
}

TEST(HttpServer, RefusesOtherMethodsAndPaths) {
    Fixture test;
    const std::string wrong_method = test.get("/health", "DELETE");
    EXPECT_EQ(status_line(wrong_method), "HTTP/1.1 405 Method Not Allowed");
    EXPECT_NE(wrong_method.find("Allow: GET, HEAD\r\n"), std::string::npos);
    EXPECT_NE(test.get("/echo").find("Allow: POST\r\n"), std::string::npos);
    for (const char* path : {"/", "/healthz", "/health/", "//health", "/heal%74h", "/../health"}) {
        EXPECT_EQ(status_line(test.get(path)), "HTTP/1.1 404 Not Found") << path;
    }
    test.served.clear();
    test.get("/made-up", "BREW");
    EXPECT_EQ(test.served, std::vector<std::string>{"other other 404"});
}

TEST(HttpServer, TakesABodyInOnePieceOrInChunks) {
    Fixture test;
    const std::string whole = test.ask(
        "POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello");
    EXPECT_TRUE(whole.ends_with("\r\n\r\nhello"));
    EXPECT_NE(whole.find("Cache-Control: max-age=5\r\n"), std::string::npos);
    EXPECT_EQ(whole.find("no-store"), std::string::npos);
    EXPECT_TRUE(test.ask("POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                         "Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n")
                    .ends_with("\r\n\r\nhello"));
}

TEST(HttpServer, RefusesWhatAnotherReaderCouldTakeForTwoRequests) {
    Fixture test;
    const std::string smuggled = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
    for (const std::string headers :
         {"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
          "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
          "Content-Length: 5\r\nContent-Length: 6\r\n",
          "Content-Length: 5\r\nContent-Length: 5\r\n", "Content-Length : 5\r\n",
          "Transfer-Encoding : chunked\r\n", " Content-Length: 5\r\n",
          "X-A: b\r\n Content-Length: 5\r\n", "X-A: b\r\n\tc\r\nContent-Length: 5\r\n",
          "X-A:\r\n b\r\nContent-Length: 0\r\n", "Transfer-Encoding: identity\r\n",
          "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "X\x80: b\r\n",
          "X(a): b\r\n"}) {
        const std::string answer =
            test.ask("POST /echo HTTP/1.1\r\nHost: x\r\n" + headers + "\r\n" + smuggled);
        EXPECT_EQ(answer.substr(0, 13), "HTTP/1.1 400 ") << headers;
        EXPECT_EQ(answer.find("HTTP/1.1 200"), std::string::npos) << headers;
    }
    EXPECT_TRUE(test.ask("POST /echo HTTP/1.1\r\nHost:x\r\nX-Empty:\r\nX-Blanks: \t\r\nX-B:  b\r\n"
                         "Connection: close\r\nContent-Length: \t 2\r\n\r\nok")
                    .ends_with("\r\n\r\nok"));
}

TEST(HttpServer, RefusesLinesThatAnotherReaderCouldEndElsewhere) {
    using namespace std::string_literals;
    const std::string smuggled = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
    for (const std::string& head : std::vector<std::string>{
             "GET /health\0x HTTP/1.1\r\nHost: x\r\n\r\n"s,
             "GET /health\0 HTTP/1.1\r\nHost: x\r\n\r\n"s,
             "GET\0 /health HTTP/1.1\r\nHost: x\r\n\r\n"s,
             "GET  /health HTTP/1.1\r\nHost: x\r\n\r\n"s, "GET /health HTTP/1.1\nHost: x\r\n\r\n"s,
             "GET /health HTTP/1.1\r\nHost: x\n\r\n"s, "GET /health HTTP/1.1\r\nHost: x\r\n\n"s,
             "GET /health HTTP/1.1\r\nHost: x\nX-A: b\r\n\r\n"s,
             "GET /health HTTP/1.1\nHost: x\n\n"s,
             "GET /health HTTP/1.1\r\nHost: x\r\nX-A: b\0c\r\n\r\n"s,
             "GET /health HTTP/1.1\r\nHost: x\r\nX-A: b\0\0\r\n\r\n"s,
             "GET /health HTTP/1.1\r\nHost: x\r\nX-A: \0\r\nX-B: c\r\n\r\n"s,
             "GET /health HTTP/1.1\r\nHost: x\r\nX\0-A: b\r\n\r\n"s,
             "GET /health HTTP/1.1\r\nHost: x\r\nX-A: b\0\r\n\r\n"s,
             "GET /health HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n"s,
             "GET /health HTTP/1.1\r\nHost: x\r\nhost: y\r\n\r\n"s}) {
        Fixture test;
        const std::string answer = test.ask(head + smuggled);
        EXPECT_EQ(answer.find("HTTP/1.1 200"), std::string::npos) << testing::PrintToString(head);
    }
}

// libmicrohttpd may move what it has received when there is more of it.
TEST(HttpServer, TakesALongHeadInSmallPieces) {
    Fixture test;
    std::string request = "GET /health?a=b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    for (int i = 0; i < 40; i++) {
        request += "X-" + std::to_string(i) + ": \t" + std::string(400, 'v') + " \r\n";
    }
    request += "X-Empty:\r\nX-Blank:  \r\nX-Last:y\r\n\r\n";
    RawClient client(test.server->port());
    for (size_t at = 0; at < request.size(); at += 700) {
        client.send(request.substr(at, 700));
        const int64_t end = test.loop.now_us() + 2'000;
        run_until(test.loop, [&] { return test.loop.now_us() >= end; });
    }
    ASSERT_TRUE(run_until(test.loop, [&] { return client.contains("{\"ok\":true}"); }));
    EXPECT_EQ(status_line(client.received), "HTTP/1.1 200 OK");
    EXPECT_EQ(test.seen.header("x-last"), "y");
}

TEST(HttpServer, TellsClientsApart) {
    HttpServerRequest request;
    request.client = std::string("\x7f\0\0\1", 4);
    const std::string here = request.client_behind_proxy();
    request.headers["x-forwarded-for"] = "1.1.1.1, 10.0.0.7";
    const std::string behind = request.client_behind_proxy();
    EXPECT_NE(behind, here);
    request.headers["x-forwarded-for"] = "2.2.2.2, 10.0.0.7";
    EXPECT_EQ(request.client_behind_proxy(),
              behind);  // what a client has sent itself does not count
    request.client = std::string(8, '\0');
    EXPECT_NE(request.client_behind_proxy(), request.client);
    request.client = std::string("\x0a\0\0\x07", 4);
    EXPECT_EQ(request.client_behind_proxy(), request.client);
}

TEST(HttpServer, LetsOnlySoManyRequestsOfOneClientWait) {
    HttpServerOptions options;
    options.max_waiting_per_address = 2;
    Fixture test(options);
    std::vector<std::unique_ptr<RawClient>> clients;
    for (const char* address : {"127.0.0.1", "127.0.0.1", "127.0.0.2"}) {
        clients.push_back(std::make_unique<RawClient>(test.server->port(), address));
        clients.back()->send("GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    ASSERT_TRUE(run_until(test.loop, [&] { return test.waiting.size() == 3; }));
    EXPECT_EQ(status_line(test.get("/later")), "HTTP/1.1 503 Service Unavailable");
    EXPECT_EQ(status_line(test.get("/health")), "HTTP/1.1 200 OK");
    for (const auto& client : clients) {
        EXPECT_EQ(client->received, "");
    }
}

TEST(HttpServer, ANewClientIsNotDisplacedByOneWhoseRequestsAllWait) {
    HttpServerOptions options;
    options.max_connections = 20;
    options.scarce_connections = 6;
    Fixture test(options);
    std::vector<std::unique_ptr<RawClient>> many;
    for (int i = 0; i < 6; i++) {
        many.push_back(std::make_unique<RawClient>(test.server->port()));
        many.back()->send("GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    ASSERT_TRUE(run_until(test.loop, [&] { return test.waiting.size() == 6; }));
    RawClient other(test.server->port(), "127.0.0.2");
    other.send(kGet);
    EXPECT_TRUE(run_until(test.loop, [&] { return other.contains("{\"ok\":true}"); }));
}

TEST(HttpServer, RefusesBodiesThatAreTooLarge) {
    Fixture test;
    EXPECT_EQ(status_line(test.ask("POST /echo HTTP/1.1\r\nHost: x\r\n"
                                   "Content-Length: 65537\r\n\r\n")),
              "HTTP/1.1 413 Content Too Large");
    std::string chunked = "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (int i = 0; i < 20; i++) {
        chunked += "1000\r\n" + std::string(0x1000, 'x') + "\r\n";
    }
    EXPECT_EQ(test.ask(chunked).find("200"), std::string::npos);
}

TEST(HttpServer, RefusesHeadersThatAreTooLarge) {
    Fixture test;
    const std::string answer = test.ask(
        "GET /health HTTP/1.1\r\nHost: x\r\nX-Long: " + std::string(100'000, 'x') + "\r\n\r\n");
    EXPECT_EQ(answer.find("HTTP/1.1 200"), std::string::npos);
    EXPECT_EQ(status_line(test.get("/health")), "HTTP/1.1 200 OK");
}

TEST(HttpServer, TakesHeadersOfTheSizeOfTheLargestToken) {
    Fixture test;
    const std::string answer =
        test.ask("GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer " +
                 std::string(16 * 1024, 'x') + "\r\n\r\n");
    EXPECT_EQ(status_line(answer), "HTTP/1.1 200 OK");
}

TEST(HttpServer, EndsConnectionsThatDoNotSpeakHttp) {
    Fixture test;
    for (const char* garbage :
         {"hello\r\n\r\n", "GET\r\n\r\n", "\x16\x03\x01\r\n\r\n", "GET /health HTTP/1.1\r\n\r\n"}) {
        EXPECT_EQ(test.ask(garbage).find("HTTP/1.1 200"), std::string::npos) << garbage;
    }
    EXPECT_EQ(status_line(test.get("/health")), "HTTP/1.1 200 OK");
}

TEST(HttpServer, SurvivesRequestsWithRandomFaults) {
    Fixture test;
    const std::string whole =
        "POST /echo?a=%41&b HTTP/1.1\r\nHost: x\r\nCookie: a=b; c\r\nContent-Length: 3\r\n"
        "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    std::mt19937 random(1);  // the same faults every time
    for (int i = 0; i < 500; i++) {
        std::string text = whole;
        for (int faults = 0; faults < 4; faults++) {
            const size_t at = random() % text.size();
            switch (random() % 3) {
                case 0:
                    text[at] = static_cast<char>(random());
                    break;
                case 1:
                    text.erase(at, random() % 9);
                    break;
                default:
                    text.insert(at, random() % 3 == 0 ? "\r\n" : "%zz:;,=");
                    break;
            }
        }
        RawClient client(test.server->port());
        client.send(text);
        test.loop.run_ready();
        test.loop.run_ready();
    }
    EXPECT_EQ(status_line(test.get("/health")), "HTTP/1.1 200 OK");
}

TEST(HttpServer, KeepsTheConnectionForTheNextRequest) {
    Fixture test;
    RawClient client(test.server->port());
    for (int i = 1; i <= 3; i++) {
        client.received.clear();
        client.send(kGet);
        ASSERT_TRUE(run_until(test.loop, [&] { return client.contains("{\"ok\":true}"); }));
    }
    EXPECT_EQ(test.served.size(), 3U);
    EXPECT_EQ(test.server->connections(), 1U);
}

TEST(HttpServer, ServesOthersWhileAHandlerWaits) {
    Fixture test;
    RawClient waits(test.server->port());
    waits.send("GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
    ASSERT_TRUE(run_until(test.loop, [&] { return test.waiting.size() == 1; }));
    EXPECT_EQ(status_line(test.get("/health")), "HTTP/1.1 200 OK");
    EXPECT_EQ(waits.received, "");
    HttpAnswer answer;
    answer.status = 503;
    answer.body = "later";
    test.waiting.front().send(std::move(answer));
    ASSERT_TRUE(run_until(test.loop, [&] { return waits.contains("later"); }));
    EXPECT_EQ(status_line(waits.received), "HTTP/1.1 503 Service Unavailable");
    // The connection serves on.
    waits.send(kGet);
    EXPECT_TRUE(run_until(test.loop, [&] { return waits.contains("{\"ok\":true}"); }));
}

TEST(HttpServer, AnAnswerForAClientThatHasLeftHarmsNobody) {
    Fixture test;
    {
        RawClient leaves(test.server->port());
        leaves.send("GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
        ASSERT_TRUE(run_until(test.loop, [&] { return test.waiting.size() == 1; }));
    }
    test.waiting.front().send(HttpAnswer{});
    EXPECT_TRUE(run_until(test.loop, [&] { return test.server->connections() == 0; }));
    EXPECT_EQ(status_line(test.get("/health")), "HTTP/1.1 200 OK");
}

TEST(HttpServer, AHandlerThatFailsBecomes500WithoutDetails) {
    Fixture test;
    for (const char* path : {"/dropped", "/throws"}) {
        const std::string answer = test.get(path);
        EXPECT_EQ(status_line(answer), "HTTP/1.1 500 Internal Server Error") << path;
        EXPECT_EQ(answer.find("private"), std::string::npos);
    }
}

TEST(HttpServer, EndsWithRequestsThatStillWait) {
    auto test = std::make_unique<Fixture>();
    RawClient waits(test->server->port());
    RawClient idle(test->server->port());
    waits.send("GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
    ASSERT_TRUE(run_until(test->loop, [&] { return test->waiting.size() == 1; }));
    test->server.reset();
    test->waiting.front().send(HttpAnswer{});
    EXPECT_TRUE(waits.is_closed());
    EXPECT_TRUE(idle.is_closed());
}

TEST(HttpServer, SlowClientsDoNotHoldUpOthers) {
    Fixture test;
    std::vector<std::unique_ptr<RawClient>> slow;
    for (int i = 0; i < 200; i++) {
        slow.push_back(std::make_unique<RawClient>(test.server->port()));
        slow.back()->send("GET /health HTTP/1.1\r\nHo");
    }
    ASSERT_TRUE(run_until(test.loop, [&] { return test.server->connections() == 200; }));
    EXPECT_EQ(status_line(test.get("/health")), "HTTP/1.1 200 OK");
    for (const auto& client : slow) {
        EXPECT_FALSE(client->is_closed());
    }
}

TEST(HttpServer, WhenConnectionsAreScarceTheLongestWaitingGoesFirst) {
    HttpServerOptions options;
    options.max_connections = 10;
    options.scarce_connections = 5;
    Fixture test(options);
    RawClient waits(test.server->port());
    waits.send("GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
    ASSERT_TRUE(run_until(test.loop, [&] { return test.waiting.size() == 1; }));
    std::vector<std::unique_ptr<RawClient>> slow;
    for (int i = 0; i < 30; i++) {
        slow.push_back(std::make_unique<RawClient>(test.server->port()));
        slow.back()->send("GET");
        test.loop.run_ready();
    }
    EXPECT_EQ(status_line(test.get("/health")), "HTTP/1.1 200 OK");
    EXPECT_TRUE(run_until(test.loop, [&] { return slow.front()->is_closed(); }));
    EXPECT_FALSE(waits.is_closed());  // a handler works for it
    EXPECT_LE(test.server->connections(), 10U);
}

TEST(HttpServer, AClientWithManyConnectionsDisplacesItselfAndNotTheOthers) {
    HttpServerOptions options;
    options.max_connections = 20;
    options.scarce_connections = 6;
    Fixture test(options);
    RawClient other(test.server->port(), "127.0.0.2");
    other.send("GET");
    ASSERT_TRUE(run_until(test.loop, [&] { return test.server->connections() == 1; }));
    std::vector<std::unique_ptr<RawClient>> many;
    for (int i = 0; i < 40; i++) {
        many.push_back(std::make_unique<RawClient>(test.server->port()));
        many.back()->send("GET");
        test.loop.run_ready();
    }
    EXPECT_TRUE(run_until(test.loop, [&] { return many[30]->is_closed(); }));
    EXPECT_FALSE(other.is_closed());
    EXPECT_FALSE(many.back()->is_closed());
}

TEST(HttpServer, EndsIdleConnections) {
    HttpServerOptions options;
    options.idle_timeout_s = 1;
    Fixture test(options);
    RawClient client(test.server->port());
    EXPECT_TRUE(run_until(test.loop, [&] { return client.is_closed(); }));
}

TEST(HttpServer, EndsRequestsThatComeByteByByte) {
    HttpServerOptions options;
    options.request_timeout_us = 300'000;
    Fixture test(options);
    RawClient client(test.server->port());
    EXPECT_TRUE(run_until(test.loop, [&] {
        client.send("x");
        return client.is_closed();
    }));
}

TEST(HttpServer, DoesNotCountTheTimeOfAHandler) {
    HttpServerOptions options;
    options.request_timeout_us = 200'000;
    Fixture test(options);
    RawClient waits(test.server->port());
    waits.send("GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
    const int64_t start = test.loop.now_us();
    ASSERT_TRUE(run_until(test.loop, [&] { return test.loop.now_us() > start + 1'200'000; }));
    HttpAnswer answer;
    answer.body = "later";
    test.waiting.front().send(std::move(answer));
    EXPECT_TRUE(run_until(test.loop, [&] { return waits.contains("later"); }));
}

TEST(HttpServer, SaysWhenItCannotListen) {
    Fixture test;
    HttpServerOptions options;
    options.listen = "127.0.0.1:" + std::to_string(test.server->port());
    EXPECT_THROW(HttpServer(test.loop, options), std::system_error);
    options.listen = "localhost:1";
    EXPECT_THROW(HttpServer(test.loop, options), std::invalid_argument);
}

TEST(HttpServer, ListensOnIpv6) {
    EventLoop loop;
    HttpServerOptions options;
    options.listen = "[::1]:0";
    try {
        const HttpServer server(loop, options);
        EXPECT_GT(server.port(), 0);
    } catch (const std::system_error&) {
        GTEST_SKIP() << "there is no IPv6 here";
    }
}

TEST(HttpServer, HasItsPortBackAtOnce) {
    auto first = std::make_unique<Fixture>();
    const int port = first->server->port();
    RawClient client(port);
    client.send(kGet);
    ASSERT_TRUE(run_until(first->loop, [&] { return client.contains("{\"ok\":true}"); }));
    first->server.reset();  // closes first, so its side lingers in TIME_WAIT
    EventLoop loop;
    HttpServerOptions options;
    options.listen = "127.0.0.1:" + std::to_string(port);
    EXPECT_NO_THROW(HttpServer(loop, options));
}

}  // namespace
}  // namespace mana_ai::net
