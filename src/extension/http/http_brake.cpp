// The brake on the page: operators stop planning and resume it (docs/operations.md, "The brake").
#include <memory>
#include <utility>

#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/text/utf8.hpp"
#include "mana_ai/extension/http/http_endpoint.hpp"
#include "mana_ai/extension/http/page.hpp"

namespace mana_ai {

namespace {

using net::error_answer;
using net::HttpAnswer;

bool is_plain_text(const std::string& text) {
    return core::repair_utf8(text) == text && text.find('\0') == std::string::npos;
}

// A page of another origin cannot send these headers without being allowed to, and none is: so it
// cannot use the ticket of a browser that is logged in here.
bool is_sent_on_purpose(const net::HttpServerRequest& request) {
    return !request.header("x-service-key").empty() ||
           request.header("x-requested-with") == "mana_ai page";
}

}  // namespace

void HttpEndpoint::stop(const net::HttpServerRequest& request, net::HttpReply reply) {
    brake(request, std::move(reply), form_field(request.body, "reason"));
}

void HttpEndpoint::resume(const net::HttpServerRequest& request, net::HttpReply reply) {
    brake(request, std::move(reply), std::nullopt);
}

void HttpEndpoint::brake(const net::HttpServerRequest& request, net::HttpReply reply,
                         const std::optional<std::string>& reason) {
    if (const Access access = access_to_page(request); access != Access::Granted) {
        reply.send(refusal(access));
        return;
    }
    if (!is_sent_on_purpose(request)) {
        reply.send(error_answer(403, "only the page may ask for this"));
        return;
    }
    const std::string scope = form_field(request.body, "scope");
    if (!is_plain_text(scope) || !is_plain_text(reason.value_or(""))) {
        reply.send(error_answer(400, "invalid scope or reason"));
        return;
    }
    core::Json question = {{"question", "brake"}, {"scope", scope}, {"reason", nullptr}};
    if (reason)
        question["reason"] = *reason;
    auto shared = std::make_shared<net::HttpReply>(std::move(reply));
    queries_.ask(std::move(question), [shared](QueryResult result) {
        HttpAnswer answer = error_answer(503, "the database or the extension is not available");
        if (result.answered && result.text.empty()) {
            answer.status = 200;
            answer.body = R"({"ok":true})";
        } else if (result.answered) {
            answer = error_answer(400, result.text);
        }
        shared->send(std::move(answer));
    });
}

}  // namespace mana_ai
