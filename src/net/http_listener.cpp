#include "http_listener.hpp"

#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "mana_ai/core/text/ascii.hpp"

#include "listening_socket.hpp"

namespace mana_ai::net::detail {

namespace {

constexpr int64_t kSweepUs = 500'000;

constexpr std::array<std::string_view, 7> kMethods = {"GET",    "HEAD",    "POST", "PUT",
                                                      "DELETE", "OPTIONS", "PATCH"};

using Shared = std::shared_ptr<HttpExchange>;

}  // namespace

// ---- from C ------------------------------------------------------------------------------------

// No exception may pass through libmicrohttpd. When memory runs out, the connection is closed.
struct HttpListener::Callbacks {
    static HttpPeer* peer_of(MHD_Connection* connection) {
        const auto* info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
        return info != nullptr ? static_cast<HttpPeer*>(info->socket_context) : nullptr;
    }

    static std::string address_of(MHD_Connection* connection) {
        const auto* info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
        if (info == nullptr || info->client_addr == nullptr) {
            return {};
        }
        if (info->client_addr->sa_family == AF_INET6) {
            const auto* v6 = reinterpret_cast<const sockaddr_in6*>(info->client_addr);
            const auto* bytes = reinterpret_cast<const char*>(&v6->sin6_addr);
            return IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr) ? std::string(bytes + 12, 4)
                                                        : std::string(bytes, 8);
        }
        const auto* v4 = reinterpret_cast<const sockaddr_in*>(info->client_addr);
        return {reinterpret_cast<const char*>(&v4->sin_addr), sizeof(v4->sin_addr)};
    }

    static void* on_uri(void* self, const char* uri, MHD_Connection* connection) {
        try {
            auto* listener = static_cast<HttpListener*>(self);
            auto* shared = new Shared(std::make_shared<HttpExchange>());
            HttpExchange& exchange = **shared;
            exchange.listener = listener;
            exchange.connection = connection;
            exchange.peer = peer_of(connection);
            exchange.started_us = listener->loop_.now_us();
            try {
                exchange.uri = uri;
                exchange.uri_start = uri;
            } catch (const std::bad_alloc&) {
                delete shared;
                return nullptr;
            }
            return shared;
        } catch (...) {
            return nullptr;
        }
    }

    static MHD_Result on_access(void* self, MHD_Connection*, const char*, const char* method,
                                const char* version, const char* data, size_t* size,
                                void** context) {
        auto* shared = static_cast<Shared*>(*context);
        if (shared == nullptr || (*shared)->peer == nullptr) {
            return MHD_NO;
        }
        try {
            return static_cast<HttpListener*>(self)->handle(**shared, method, version, data, size);
        } catch (...) {
            return MHD_NO;
        }
    }

    static void on_completed(void* self, MHD_Connection*, void** context,
                             MHD_RequestTerminationCode) {
        auto* shared = static_cast<Shared*>(*context);
        if (shared == nullptr) {
            return;
        }
        *context = nullptr;
        try {
            static_cast<HttpListener*>(self)->ended(**shared);
        } catch (...) {
            // A metric is lost.
        }
        (*shared)->listener = nullptr;
        (*shared)->connection = nullptr;
        delete shared;
    }

    static void on_connection(void* self, MHD_Connection* connection, void** context,
                              MHD_ConnectionNotificationCode what) {
        auto* listener = static_cast<HttpListener*>(self);
        if (what == MHD_CONNECTION_NOTIFY_CLOSED) {
            auto* peer = static_cast<HttpPeer*>(*context);
            listener->peers_.remove_if([peer](const HttpPeer& p) { return &p == peer; });
            return;
        }
        *context = nullptr;
        const auto* info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        try {
            HttpPeer& peer = listener->peers_.emplace_back();
            *context = &peer;  // whatever fails from here on, its end is noticed
            peer.fd = info != nullptr ? info->connect_fd : -1;
            peer.since_us = listener->loop_.now_us();
            peer.address = address_of(connection);
            if (!listener->sweep_timer_.armed()) {
                listener->sweep_timer_.arm(kSweepUs);
            }
            listener->make_room();
        } catch (...) {
            // Its first request finds no peer and ends it.
        }
    }

    // libmicrohttpd calls this when its own state is broken, and would abort, which would crash the
    // whole database server down with this process.
    static void on_panic(void*, const char*, unsigned, const char*) { std::exit(1); }

    static MHD_Result on_value(void* target, MHD_ValueKind kind, const char* key, size_t key_size,
                               const char* value, size_t value_size) {
        try {
            auto* exchange = static_cast<HttpExchange*>(target);
            HttpServerRequest& request = exchange->request;
            const std::string_view name(key, key_size);
            std::string text(value != nullptr ? value : "", value != nullptr ? value_size : 0);
            if (kind == MHD_GET_ARGUMENT_KIND) {
                request.arguments.emplace(name, std::move(text));
                return MHD_YES;
            }
            const auto [header, first] =
                request.headers.emplace(core::ascii::lower_case(name), std::move(text));
            const bool only_once = header->first == "content-length" ||
                                   header->first == "transfer-encoding" || header->first == "host";
            exchange->ambiguous |= !is_token(name) || (only_once && !first);
            if (exchange->walk)
                exchange->walk->header(name, {value, value_size});
            return MHD_YES;
        } catch (...) {
            static_cast<HttpExchange*>(target)->ambiguous = true;  // some of it was not read
            return MHD_NO;
        }
    }
};

// ---- exchange ----------------------------------------------------------------------------------

void HttpExchange::send(HttpAnswer value) {
    if (answer) {
        return;
    }
    answer = std::move(value);
    if (listener != nullptr && peer->waiting != nullptr) {
        listener->resume(*this);
    }
}

// ---- listener ----------------------------------------------------------------------------------

HttpListener::HttpListener(EventLoop& loop, HttpServerOptions options)
    : loop_(loop),
      options_(std::move(options)),
      run_timer_(loop, [this] { run(); }),
      sweep_timer_(loop, [this] { sweep(); }) {
    ListeningSocket socket(options_.listen);
    port_ = socket.port();
    MHD_set_panic_func(&Callbacks::on_panic, nullptr);
    daemon_ = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, nullptr, nullptr, &Callbacks::on_access, this,
        MHD_OPTION_LISTEN_SOCKET, socket.get(), MHD_OPTION_CONNECTION_LIMIT,
        options_.max_connections, MHD_OPTION_CONNECTION_TIMEOUT, options_.idle_timeout_s,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, options_.max_header_bytes, MHD_OPTION_STRICT_FOR_CLIENT,
        1, MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_URI_LOG_CALLBACK, &Callbacks::on_uri,
        this, MHD_OPTION_NOTIFY_COMPLETED, &Callbacks::on_completed, this,
        MHD_OPTION_NOTIFY_CONNECTION, &Callbacks::on_connection, this, MHD_OPTION_END);
    const auto* info =
        daemon_ != nullptr ? MHD_get_daemon_info(daemon_, MHD_DAEMON_INFO_EPOLL_FD) : nullptr;
    if (info == nullptr) {
        if (daemon_ != nullptr) {
            MHD_stop_daemon(daemon_);
            (void)socket.release();
        }
        throw std::system_error(ENOMEM, std::generic_category(), "could not start the HTTP server");
    }
    (void)socket.release();  // MHD_stop_daemon closes it
    epoll_fd_ = info->epoll_fd;
    try {
        loop_.add_fd(epoll_fd_, EPOLLIN, [this](uint32_t) { run(); });
    } catch (...) {
        MHD_stop_daemon(daemon_);
        throw;
    }
}

HttpListener::~HttpListener() {
    stopping_ = true;
    loop_.remove_fd(epoll_fd_);
    // A suspended connection would make MHD_stop_daemon panic.
    for (const HttpPeer& peer : peers_) {
        ::shutdown(peer.fd, SHUT_RDWR);
    }
    for (HttpPeer& peer : peers_) {
        if (peer.waiting != nullptr) {
            MHD_resume_connection(peer.waiting);
        }
    }
    MHD_stop_daemon(daemon_);
}

void HttpListener::route(std::string method, std::string path, HttpServer::Handler handler) {
    if (const size_t parameter = path.find("/:"); parameter != std::string::npos) {
        parameters_[path.substr(0, parameter + 1)] = path;
    }
    routes_[std::move(path)][std::move(method)] = std::move(handler);
}

HttpListener::Routes::const_iterator HttpListener::find_route(const std::string& path) const {
    const size_t segment = path.rfind('/') + 1;
    if (const auto found = parameters_.find(path.substr(0, segment));
        found != parameters_.end() && segment < path.size()) {
        return routes_.find(found->second);
    }
    // A parameter's name is not a path.
    return path.find("/:") == std::string::npos ? routes_.find(path) : routes_.end();
}

void HttpListener::run() {
    MHD_run(daemon_);
    plan_next_run();
}

void HttpListener::plan_next_run() {
    MHD_UNSIGNED_LONG_LONG milliseconds = 0;
    if (MHD_get_timeout(daemon_, &milliseconds) == MHD_YES) {
        run_timer_.arm(
            static_cast<int64_t>(std::min<MHD_UNSIGNED_LONG_LONG>(milliseconds, 3'600'000)) * 1000);
    } else {
        run_timer_.disarm();
    }
}

// Ends connections that take too long to send a request or to read an answer, byte by byte.
void HttpListener::sweep() {
    const int64_t latest = loop_.now_us() - options_.request_timeout_us;
    for (const HttpPeer& peer : peers_) {
        if (peer.waiting == nullptr && peer.since_us < latest) {
            ::shutdown(peer.fd, SHUT_RDWR);
        }
    }
    if (!peers_.empty()) {
        sweep_timer_.arm(kSweepUs);
    }
}

// Closes the longest-waiting connection of the client with the most connections. So a client that
// opens many displaces its own and not those of others.
void HttpListener::make_room() {
    std::map<std::string_view, size_t> held;
    size_t open = 0;
    for (const HttpPeer& peer : peers_) {
        if (!peer.shut_down) {
            open++;
            held[peer.address]++;
        }
    }
    if (open <= options_.scarce_connections) {
        return;
    }
    // The newest connection is not closed while another client holds more, even if all of that
    // client's connections wait for answers: then none is closed.
    const HttpPeer& newest = peers_.back();
    const bool others_hold_more =
        std::ranges::any_of(held, [&](const auto& of) { return of.second > held[newest.address]; });
    HttpPeer* victim = nullptr;
    for (HttpPeer& peer : peers_) {
        if (peer.waiting != nullptr || peer.shut_down || (&peer == &newest && others_hold_more)) {
            continue;
        }
        if (victim == nullptr || held[peer.address] > held[victim->address] ||
            (held[peer.address] == held[victim->address] && peer.since_us < victim->since_us)) {
            victim = &peer;
        }
    }
    if (victim != nullptr) {
        victim->shut_down = true;
        ::shutdown(victim->fd, SHUT_RDWR);
    }
}

bool HttpListener::may_wait(const HttpPeer& peer) const {
    const auto waiting = std::ranges::count_if(peers_, [&](const HttpPeer& other) {
        return other.waiting != nullptr && other.address == peer.address;
    });
    return static_cast<size_t>(waiting) < options_.max_waiting_per_address;
}

MHD_Result HttpListener::handle(HttpExchange& exchange, const char* method, const char* version,
                                const char* data, size_t* size) {
    if (stopping_) {
        return MHD_NO;
    }
    if (exchange.answer) {
        return queue(exchange);
    }
    if (!exchange.head_seen) {
        exchange.head_seen = true;
        read_head(exchange, method, version);
        return exchange.answer ? queue(exchange) : MHD_YES;
    }
    if (*size > 0) {
        // A body in chunks does not say its size in advance.
        if (exchange.request.body.size() + *size > options_.max_body_bytes) {
            return MHD_NO;
        }
        exchange.request.body.append(data, *size);
        *size = 0;
        return MHD_YES;
    }
    dispatch(exchange);
    return exchange.answer ? queue(exchange) : MHD_YES;
}

// If a proxy in front of us could see the request end at another place, the following bytes on the
// connection cannot be attributed.
bool HttpListener::is_ambiguous(HttpExchange& exchange) const {
    const HttpServerRequest& request = exchange.request;
    if (exchange.ambiguous ||
        (request.headers.contains("transfer-encoding") &&
         (request.headers.contains("content-length") ||
          core::ascii::lower_case(request.header("transfer-encoding")) != "chunked"))) {
        return true;
    }
    const auto* info =
        MHD_get_connection_info(exchange.connection, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    return exchange.walk && (info == nullptr || !exchange.walk->is_plain(info->header_size));
}

void HttpListener::read_head(HttpExchange& exchange, const char* method, const char* version) {
    HttpServerRequest& request = exchange.request;
    request.client = exchange.peer->address;
    exchange.method = method;
    if (!library_checks_lines()) {
        exchange.walk.emplace(method, exchange.uri_start, exchange.uri.size(), version);
    }
    request.method = exchange.method == "HEAD" ? "GET" : exchange.method;
    // Compared as it was sent: an escaped path is not another name of a route.
    request.path = exchange.uri.substr(0, exchange.uri.find('?'));
    if (const auto route = find_route(request.path); route != routes_.end()) {
        exchange.path_label = route->first;
        if (const size_t parameter = route->first.find("/:"); parameter != std::string::npos) {
            request.path_parameter = request.path.substr(parameter + 1);
            request.path_parameter.resize(MHD_http_unescape(request.path_parameter.data()));
        }
    }
    MHD_get_connection_values_n(exchange.connection, MHD_HEADER_KIND, &Callbacks::on_value,
                                &exchange);
    MHD_get_connection_values_n(exchange.connection, MHD_GET_ARGUMENT_KIND, &Callbacks::on_value,
                                &exchange);
    const bool ambiguous = is_ambiguous(exchange);
    exchange.walk.reset();
    if (ambiguous) {
        exchange.answer = error_answer(400, "bad request");
        exchange.answer->headers.emplace_back("Connection", "close");
        return;
    }
    const std::string_view length = request.header("content-length");
    uint64_t bytes = 0;
    std::from_chars(length.data(), length.data() + length.size(), bytes);
    if (bytes > options_.max_body_bytes) {
        exchange.answer = error_answer(413, "request is too large");
    }
}

void HttpListener::dispatch(HttpExchange& exchange) {
    const HttpServerRequest& request = exchange.request;
    const auto path = find_route(request.path);
    if (path == routes_.end()) {
        exchange.answer = error_answer(404, "not found");
        return;
    }
    const auto handler = path->second.find(request.method);
    if (handler == path->second.end()) {
        std::string allowed;
        for (const auto& [method, unused] : path->second) {
            allowed += (allowed.empty() ? "" : ", ") + method + (method == "GET" ? ", HEAD" : "");
        }
        exchange.answer = error_answer(405, "method not allowed");
        exchange.answer->headers.emplace_back("Allow", allowed);
        return;
    }
    // What the handler throws drops the reply, which then answers.
    try {
        handler->second(request, HttpReply(exchange.shared_from_this()));
    } catch (const std::exception&) {
        exchange.send(error_answer(500, "internal error"));
    }
    // Checked only now, so that a request with an immediate answer always gets it.
    if (!exchange.answer && !may_wait(*exchange.peer)) {
        exchange.answer = error_answer(503, "too many requests wait");
    }
    if (!exchange.answer) {
        exchange.peer->waiting = exchange.connection;
        MHD_suspend_connection(exchange.connection);
    }
}

void HttpListener::resume(HttpExchange& exchange) {
    exchange.peer->waiting = nullptr;
    exchange.peer->since_us = loop_.now_us();
    MHD_resume_connection(exchange.connection);
    run_timer_.arm(0);
}

MHD_Result HttpListener::queue(HttpExchange& exchange) {
    HttpAnswer& answer = *exchange.answer;
    // Copied, since the exchange may end before the last byte is sent.
    MHD_Response* response = MHD_create_response_from_buffer(answer.body.size(), answer.body.data(),
                                                             MHD_RESPMEM_MUST_COPY);
    if (response == nullptr) {
        return MHD_NO;
    }
    bool complete =
        MHD_add_response_header(response, "X-Content-Type-Options", "nosniff") == MHD_YES;
    if (!answer.content_type.empty()) {
        complete &= MHD_add_response_header(response, "Content-Type",
                                            answer.content_type.c_str()) == MHD_YES;
    }
    bool may_be_stored = false;
    for (const auto& [name, value] : answer.headers) {
        complete &= MHD_add_response_header(response, name.c_str(), value.c_str()) == MHD_YES;
        may_be_stored |= name == "Cache-Control";
    }
    if (!may_be_stored) {
        complete &= MHD_add_response_header(response, "Cache-Control", "no-store") == MHD_YES;
    }
    const MHD_Result result =
        complete ? MHD_queue_response(exchange.connection, static_cast<unsigned>(answer.status),
                                      response)
                 : MHD_NO;
    MHD_destroy_response(response);
    exchange.sent_status = answer.status;
    answer.body.clear();
    return result;
}

void HttpListener::ended(HttpExchange& exchange) {
    const int64_t now = loop_.now_us();
    if (exchange.peer != nullptr) {
        exchange.peer->since_us = now;
        exchange.peer->waiting = nullptr;
    }
    if (!options_.on_served || exchange.sent_status == 0) {
        return;
    }
    HttpServed served;
    served.method = std::ranges::find(kMethods, exchange.method) != kMethods.end()
                        ? std::string_view(exchange.method)
                        : "other";
    served.path = exchange.path_label;
    served.status = exchange.sent_status;
    served.duration_us = now - exchange.started_us;
    options_.on_served(served);
}

}  // namespace mana_ai::net::detail
