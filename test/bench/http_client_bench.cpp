// Measures HttpClient: calls a second, CPU per call of the client's thread, and memory over time.
//
//   http_client_bench [calls] [in flight] [url]
//
// Without a URL it starts a server thread and talks to that. Each caller is one coroutine that
// sends one request after the other, as mission runs do.
#include <malloc.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <memory>
#include <string>

#include "../unit/net/fast_server.hpp"
#include "mana_ai/net/event_loop.hpp"
#include "mana_ai/net/http_client.hpp"

namespace {

using namespace mana_ai::net;

struct Totals {
    size_t left;
    size_t ok = 0;
    size_t failed = 0;
    std::string first_error;
};

Task<void> caller(HttpClient& client, std::string url, Totals& totals) {
    while (totals.left > 0) {
        --totals.left;
        HttpRequest request;
        request.url = url;
        request.headers = {"Authorization: Bearer 0123456789abcdef0123456789abcdef",
                           "Content-Type: application/json"};
        request.body = R"({"model":"m","messages":[{"role":"user","content":"hello"}]})";
        request.timeout_us = 120'000'000;
        HttpResponse response = co_await client.send(std::move(request));
        if (response.error == TransportError::None && response.status == 200) {
            ++totals.ok;
        } else {
            ++totals.failed;
            if (totals.first_error.empty()) {
                totals.first_error = std::string(to_string(response.error)) + " " +
                                     std::to_string(response.status) + " " + response.error_detail;
            }
        }
    }
}

double thread_cpu_seconds() {
    timespec now{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

long resident_kib() {
    std::ifstream file("/proc/self/statm");
    long size = 0;
    long resident = 0;
    file >> size >> resident;
    return resident * (::sysconf(_SC_PAGESIZE) / 1024);
}

}  // namespace

int main(int argc, char** argv) {
    const size_t calls = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 100'000;
    const size_t in_flight = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 64;
    std::unique_ptr<test::FastServer> server;
    std::string url;
    if (argc > 3) {
        url = argv[3];
    } else {
        server = std::make_unique<test::FastServer>();
        url = server->url("/v1/chat/completions");
    }
    EventLoop loop;
    HttpClientOptions options;
    options.max_connections_total = options.max_connections_per_host = 512;
    options.user_agent = "bench";
    if (const char* ca_file = std::getenv("CA_FILE")) {
        options.ca_file = ca_file;
    }
    HttpClient client(loop, options);

    // The heap figure is that of the main arena, so the server thread's memory is not in it.
    std::printf("%10s %12s %14s %12s %12s\n", "calls", "calls/s", "CPU us/call", "RSS KiB",
                "heap KiB");
    Totals totals{};
    constexpr size_t kParts = 10;
    for (size_t part = 0; part < kParts; ++part) {
        totals.left = calls / kParts;
        const double cpu = thread_cpu_seconds();
        const auto start = std::chrono::steady_clock::now();
        for (size_t i = 0; i < in_flight; ++i) {
            loop.spawn(caller(client, url, totals), {});
        }
        loop.run_until_idle(600'000'000);
        const double seconds =
            std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        const double per_part = static_cast<double>(calls / kParts);
        std::printf("%10zu %12.0f %14.1f %12ld %12zu\n", totals.ok + totals.failed,
                    per_part / seconds, (thread_cpu_seconds() - cpu) * 1e6 / per_part,
                    resident_kib(), ::mallinfo2().uordblks / 1024);
    }
    std::printf("ok %zu, failed %zu %s\n", totals.ok, totals.failed, totals.first_error.c_str());
    return totals.failed == 0 ? 0 : 1;
}
