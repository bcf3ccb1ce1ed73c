#include "mana_ai/net/http_server.hpp"

#include <nlohmann/json.hpp>

#include "http_listener.hpp"

namespace mana_ai::net {

std::string_view HttpServerRequest::header(const std::string& lower_case_name) const {
    const auto found = headers.find(lower_case_name);
    return found == headers.end() ? std::string_view() : found->second;
}

std::string_view HttpServerRequest::argument(const std::string& name) const {
    const auto found = arguments.find(name);
    return found == arguments.end() ? std::string_view() : found->second;
}

std::string_view HttpServerRequest::cookie(std::string_view name) const {
    std::string_view rest = header("cookie");
    while (!rest.empty()) {
        const size_t end = rest.find(';');
        std::string_view pair = rest.substr(0, end);
        rest = end == rest.npos ? std::string_view() : rest.substr(end + 1);
        pair.remove_prefix(std::min(pair.find_first_not_of(' '), pair.size()));
        if (pair.size() > name.size() && pair.starts_with(name) && pair[name.size()] == '=') {
            return pair.substr(name.size() + 1);
        }
    }
    return {};
}

std::string HttpServerRequest::client_behind_proxy() const {
    const bool is_here =
        client.size() == 4 ? client.front() == 127 : client == std::string(8, '\0');
    const std::string_view addresses = header("x-forwarded-for");
    if (!is_here || addresses.empty()) {
        return client;
    }
    const size_t comma = addresses.rfind(',');
    return client + std::string(comma == addresses.npos ? addresses : addresses.substr(comma + 1));
}

HttpAnswer error_answer(int status, std::string_view error) {
    HttpAnswer answer;
    answer.status = status;
    answer.body = nlohmann::json{{"error", error}}.dump();
    return answer;
}

HttpReply::HttpReply(std::shared_ptr<detail::HttpExchange> exchange)
    : exchange_(std::move(exchange)) {}

HttpReply::~HttpReply() {
    if (exchange_ == nullptr) {
        return;
    }
    try {
        exchange_->send(error_answer(500, "internal error"));
    } catch (...) {
        // Out of memory: the connection stays until the client leaves it.
    }
}

void HttpReply::send(HttpAnswer answer) {
    exchange_->send(std::move(answer));
}

HttpServer::HttpServer(EventLoop& loop, HttpServerOptions options)
    : listener_(std::make_unique<detail::HttpListener>(loop, std::move(options))) {}

HttpServer::~HttpServer() = default;

void HttpServer::route(std::string method, std::string path, Handler handler) {
    listener_->route(std::move(method), std::move(path), std::move(handler));
}

int HttpServer::port() const noexcept {
    return listener_->port();
}

size_t HttpServer::connections() const noexcept {
    return listener_->connections();
}

}  // namespace mana_ai::net
