#include "mana_ai/net/http_client.hpp"

#include <utility>

#include "http_dispatcher.hpp"
#include "http_transfer.hpp"

namespace mana_ai::net {

const char* to_string(TransportError error) noexcept {
    switch (error) {
        case TransportError::None:
            return "none";
        case TransportError::Timeout:
            return "timeout";
        case TransportError::Unreachable:
            return "unreachable";
        case TransportError::TooLarge:
            return "too_large";
        case TransportError::Malformed:
            return "malformed";
        case TransportError::Cancelled:
            return "cancelled";
    }
    return "unknown";
}

HttpClient::HttpClient(EventLoop& loop, HttpClientOptions options)
    : dispatcher_(std::make_unique<detail::HttpDispatcher>(loop, std::move(options))) {}

HttpClient::HttpClient(EventLoop& loop) : HttpClient(loop, HttpClientOptions{}) {}

HttpClient::~HttpClient() = default;

HttpClient::Send HttpClient::send(HttpRequest request) {
    return Send(std::make_unique<detail::HttpTransfer>(dispatcher_->loop(), *dispatcher_,
                                                       std::move(request)));
}

void HttpClient::hold(bool on) noexcept {
    dispatcher_->hold(on);
}

size_t HttpClient::in_flight() const noexcept {
    return dispatcher_->in_flight();
}

size_t HttpClient::waiting() const noexcept {
    return dispatcher_->waiting();
}

HttpClient::Send::Send(std::unique_ptr<detail::HttpTransfer> transfer) noexcept
    : transfer_(std::move(transfer)) {}

HttpClient::Send::Send(Send&&) noexcept = default;

HttpClient::Send::~Send() = default;

void HttpClient::Send::await_suspend(std::coroutine_handle<> handle) {
    transfer_->await(handle);
}

HttpResponse HttpClient::Send::await_resume() {
    return transfer_->take_response();
}

}  // namespace mana_ai::net
