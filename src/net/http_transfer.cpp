#include "http_transfer.hpp"

#include <algorithm>
#include <cstdio>
#include <new>
#include <utility>

#include "http_dispatcher.hpp"
#include "mana_ai/core/text/ascii.hpp"
#include "mana_ai/core/text/wipe.hpp"

namespace mana_ai::net::detail {

namespace {

constexpr size_t kMaxHeaderBytes = 256 * 1024;
constexpr size_t kMaxRateLimits = 4096;
constexpr size_t kMaxDetailBytes = 256;

// Value of "Name: value" when the line has this name (given in lower case with its colon).
bool header_value(std::string_view line, std::string_view name, std::string_view& value) noexcept {
    if (!core::ascii::starts_with_ignoring_case(line, name)) {
        return false;
    }
    value = core::ascii::trimmed(line.substr(name.size()));
    return true;
}

// "x-ratelimit-remaining-requests: 59", "RateLimit-Limit: 10" and the like.
bool names_rate_limit(std::string_view line) noexcept {
    constexpr std::string_view kWord = "ratelimit";
    const std::string_view name = line.substr(0, line.find(':'));
    return std::search(name.begin(), name.end(), kWord.begin(), kWord.end(),
                       [](char n, char w) { return core::ascii::lower(n) == w; }) != name.end();
}

std::string_view authority_of(std::string_view url) noexcept {
    const size_t scheme = url.find("://");
    if (scheme == std::string_view::npos) {
        return {};
    }
    const size_t begin = scheme + 3;
    return url.substr(begin, url.find_first_of("/?#", begin) - begin);
}

long milliseconds(int64_t us) noexcept {
    constexpr int64_t kMax = 1'000'000'000;  // fits a 32-bit long; more than 11 days
    return us <= 0 ? 0 : static_cast<long>(std::min(kMax, us / 1000 + (us % 1000 != 0)));
}

// libcurl takes char pointers but does not write through the header list.
curl_slist list_node(const char* line) noexcept {
    return {const_cast<char*>(line), nullptr};
}

}  // namespace

HttpTransfer::HttpTransfer(EventLoop& loop, HttpDispatcher& dispatcher, HttpRequest request)
    : loop_(loop),
      dispatcher_(&dispatcher),
      request_(std::move(request)),
      timer_(loop, [this] { on_timeout(); }) {
    dispatcher.adopt(*this);
}

HttpTransfer::~HttpTransfer() {
    if (dispatcher_ != nullptr) {
        dispatcher_->withdraw(*this);
    }
    for (std::string& line : request_.headers) {
        core::wipe(line);
    }
    core::wipe(request_.body);  // prompts may contain decrypted text
}

void HttpTransfer::await(std::coroutine_handle<> handle) {
    waiter_.set_handle(handle);
    started_us_ = loop_.now_us();
    if (dispatcher_ == nullptr) {
        fail(TransportError::Cancelled, "HTTP client was shut down");
    } else if (const char* fault = request_fault()) {
        fail(TransportError::Malformed, fault);
    } else {
        build_header_list();
        if (request_.timeout_us > 0) {
            timer_.arm(request_.timeout_us);
        }
        dispatcher_->submit(*this);
    }
}

const char* HttpTransfer::request_fault() const noexcept {
    const std::string_view url = request_.url;
    if (!core::ascii::starts_with_ignoring_case(url, "http://") &&
        !core::ascii::starts_with_ignoring_case(url, "https://")) {
        return "request URL is neither http nor https";
    }
    for (const char c : url) {
        if (static_cast<unsigned char>(c) <= 0x20 || c == 0x7f) {
            return "request URL contains a blank or control character";
        }
    }
    const std::string_view authority = authority_of(url);
    if (authority.empty()) {
        return "request URL names no host";
    }
    if (authority.find('@') != std::string_view::npos) {
        return "request URL contains credentials";
    }
    if (request_.method.empty() || !std::all_of(request_.method.begin(), request_.method.end(),
                                                [](char c) { return c >= 'A' && c <= 'Z'; })) {
        return "request method is not a word in capital letters";
    }
    for (const std::string& line : request_.headers) {
        const size_t colon = line.find(':');
        if (colon == 0 || colon == std::string::npos ||
            line.find_first_of(std::string_view("\r\n\0", 3)) != std::string::npos) {
            return "request has a header that is not one \"Name: value\" line";
        }
    }
    return nullptr;
}

std::string HttpTransfer::host_key() const {
    const std::string_view url = request_.url;
    return core::ascii::lower_case(std::string(url.substr(0, url.find("://") + 3)) +=
                                   authority_of(url));
}

void HttpTransfer::build_header_list() {
    header_nodes_.reserve(request_.headers.size() + 2);
    bool has_content_type = false;
    for (const std::string& line : request_.headers) {
        has_content_type =
            has_content_type || core::ascii::starts_with_ignoring_case(line, "content-type:");
        header_nodes_.push_back(list_node(line.c_str()));
    }
    // A name without a value removes libcurl's own header: no wait for "100 Continue", and no form
    // type for bodies without a Content-Type.
    header_nodes_.push_back(list_node("Expect:"));
    if (!has_content_type) {
        header_nodes_.push_back(list_node("Content-Type:"));
    }
    for (size_t i = 0; i + 1 < header_nodes_.size(); ++i) {
        header_nodes_[i].next = &header_nodes_[i + 1];
    }
}

bool HttpTransfer::set_common_options(CURL* easy, const HttpClientOptions& options) {
    bool ok = true;
    const auto set = [&](CURLoption option, auto value) {
        ok = ok && curl_easy_setopt(easy, option, value) == CURLE_OK;
    };
    set(CURLOPT_PROTOCOLS_STR, "http,https");
    set(CURLOPT_FOLLOWLOCATION, 0L);
    set(CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_2TLS));
    set(CURLOPT_HTTP09_ALLOWED, 0L);
    set(CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
    set(CURLOPT_NETRC, static_cast<long>(CURL_NETRC_IGNORED));
    set(CURLOPT_SSL_VERIFYPEER, 1L);
    set(CURLOPT_SSL_VERIFYHOST, 2L);
    if (!options.ca_file.empty()) {
        set(CURLOPT_CAINFO, options.ca_file.c_str());
        set(CURLOPT_CAPATH, static_cast<const char*>(nullptr));
    }
    set(CURLOPT_PROXY, options.proxy.c_str());  // empty: none, even if the environment names one
    set(CURLOPT_NOPROXY, "");
    set(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    if (!options.user_agent.empty()) {
        set(CURLOPT_USERAGENT, options.user_agent.c_str());
    }
    set(CURLOPT_TCP_NODELAY, 1L);
    set(CURLOPT_TCP_KEEPALIVE, 1L);
    set(CURLOPT_TCP_KEEPIDLE, 30L);
    set(CURLOPT_TCP_KEEPINTVL, 10L);
    set(CURLOPT_MAXAGE_CONN,
        static_cast<long>(std::clamp<int64_t>(options.max_idle_us / 1'000'000, 1, 86400)));
    set(CURLOPT_NOSIGNAL, 1L);
    // Giving up a request must not wait for a hanging resolver thread, which frees its own data.
    set(CURLOPT_QUICK_EXIT, 1L);
    // The cap counts the bytes that arrive; nothing is unpacked.
    set(CURLOPT_HTTP_CONTENT_DECODING, 0L);
    set(CURLOPT_WRITEFUNCTION, &HttpTransfer::on_body);
    set(CURLOPT_HEADERFUNCTION, &HttpTransfer::on_header);
    set(CURLOPT_PREREQFUNCTION, &HttpTransfer::on_before_request);
    return ok;
}

CURLcode HttpTransfer::attach(CURL* easy) {
    easy_ = easy;
    CURLcode code = CURLE_OK;
    const auto set = [&](CURLoption option, auto value) {
        if (code == CURLE_OK) {
            code = curl_easy_setopt(easy, option, value);
        }
    };
    const std::string& method = request_.method;
    repeatable_ = method == "GET" || method == "HEAD" || method == "OPTIONS";
    const std::string& body = request_.lent_body != nullptr ? *request_.lent_body : request_.body;
    const bool with_body =
        !body.empty() || method == "POST" || method == "PUT" || method == "PATCH";
    set(CURLOPT_URL, request_.url.c_str());
    if (with_body) {
        set(CURLOPT_POST, 1L);
        set(CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
        set(CURLOPT_POSTFIELDS, body.c_str());
    } else if (method == "HEAD") {
        set(CURLOPT_NOBODY, 1L);
    } else {
        set(CURLOPT_HTTPGET, 1L);
    }
    if (method != (with_body ? "POST" : "GET") && method != "HEAD") {
        set(CURLOPT_CUSTOMREQUEST, method.c_str());
    }
    set(CURLOPT_HTTPHEADER, header_nodes_.data());
    set(CURLOPT_CONNECTTIMEOUT_MS, milliseconds(request_.connect_timeout_us));
    // A large Content-Length ends the request at once; on_body counts the actual bytes.
    set(CURLOPT_MAXFILESIZE_LARGE, method == "HEAD"
                                       ? curl_off_t{0}
                                       : static_cast<curl_off_t>(std::min<size_t>(
                                             request_.max_response_bytes, size_t{1} << 62)));
    set(CURLOPT_ERRORBUFFER, error_text_);
    set(CURLOPT_PRIVATE, static_cast<void*>(this));
    set(CURLOPT_WRITEDATA, static_cast<void*>(this));
    set(CURLOPT_HEADERDATA, static_cast<void*>(this));
    set(CURLOPT_PREREQDATA, static_cast<void*>(this));
    return code;
}

CURL* HttpTransfer::detach() noexcept {
    CURL* easy = std::exchange(easy_, nullptr);
    if (easy == nullptr) {
        return nullptr;
    }
    // Cheaper than curl_easy_reset, which would drop the common options too.
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, nullptr);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, curl_off_t{-1});
    curl_easy_setopt(easy, CURLOPT_NOBODY, 0L);
    curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L);
    curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, nullptr);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, nullptr);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, nullptr);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, nullptr);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, nullptr);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, nullptr);
    curl_easy_setopt(easy, CURLOPT_PREREQDATA, nullptr);
    return easy;
}

// ---- libcurl's callbacks: nothing may be thrown through C --------------------------------------

size_t HttpTransfer::on_body(char* data, size_t size, size_t count, void* self) noexcept {
    auto& transfer = *static_cast<HttpTransfer*>(self);
    const size_t bytes = size * count;
    std::string& body = transfer.response_.body;
    if (bytes > transfer.request_.max_response_bytes - body.size()) {
        transfer.too_large_ = true;
        return CURL_WRITEFUNC_ERROR;
    }
    try {
        body.append(data, bytes);
    } catch (...) {
        transfer.out_of_memory_ = true;
        return CURL_WRITEFUNC_ERROR;
    }
    return bytes;
}

size_t HttpTransfer::on_header(char* data, size_t size, size_t count, void* self) noexcept {
    auto& transfer = *static_cast<HttpTransfer*>(self);
    const std::string_view line(data, size * count);
    transfer.header_bytes_ += line.size();
    if (transfer.header_bytes_ > kMaxHeaderBytes) {
        transfer.too_large_ = true;
        return CURL_WRITEFUNC_ERROR;
    }
    try {
        HttpResponse& response = transfer.response_;
        std::string_view value;
        if (line.starts_with("HTTP/")) {  // the final answer after a 1xx
            response.retry_after.clear();
            response.content_type.clear();
            response.rate_limits.clear();
            response.resolved_model.clear();
            response.served_tier.clear();
            transfer.header_complete_ = false;
        } else if (line == "\r\n" || line == "\n") {
            transfer.header_complete_ = true;
        } else if (header_value(line, "retry-after:", value)) {
            response.retry_after = value;
        } else if (header_value(line, "content-type:", value)) {
            response.content_type = value;
        } else if (header_value(line, "x-mana-llm-resolved:", value)) {
            response.resolved_model = value;
        } else if (header_value(line, "x-gemini-service-tier:", value)) {
            response.served_tier = value;
        } else if (names_rate_limit(line) &&
                   response.rate_limits.size() + line.size() <= kMaxRateLimits) {
            response.rate_limits += line;
        }
    } catch (...) {
        transfer.out_of_memory_ = true;
        return CURL_WRITEFUNC_ERROR;
    }
    return line.size();
}

// Called each time before libcurl writes the request. libcurl writes it again, whatever the method,
// if a kept connection dies before the first byte of an answer. The server may have received the
// first copy by then, so only idempotent requests are repeated.
int HttpTransfer::on_before_request(void* self, char*, char*, int, int) noexcept {
    auto& transfer = *static_cast<HttpTransfer*>(self);
    if (++transfer.attempts_ > 1 && !transfer.repeatable_) {
        long written = 0;
        curl_easy_getinfo(transfer.easy_, CURLINFO_REQUEST_SIZE, &written);
        if (written > 0) {
            transfer.repeat_refused_ = true;
            return CURL_PREREQFUNC_ABORT;
        }
    }
    return CURL_PREREQFUNC_OK;
}

// ---- the end -----------------------------------------------------------------------------------

TransportError HttpTransfer::classify(CURLcode code) const noexcept {
    switch (code) {
        case CURLE_OK:
            return TransportError::None;
        case CURLE_OPERATION_TIMEDOUT:
            return TransportError::Timeout;
        case CURLE_FILESIZE_EXCEEDED:
        case CURLE_OUT_OF_MEMORY:
            return TransportError::TooLarge;
        case CURLE_UNSUPPORTED_PROTOCOL:  // an answer that does not begin with a status line
        case CURLE_URL_MALFORMAT:
        case CURLE_LOGIN_DENIED:
        case CURLE_WEIRD_SERVER_REPLY:
        case CURLE_BAD_CONTENT_ENCODING:
            return TransportError::Malformed;
        default:
            return TransportError::Unreachable;
    }
}

void HttpTransfer::finish(CURLcode code) noexcept {
    long status = 0;
    curl_easy_getinfo(easy_, CURLINFO_RESPONSE_CODE, &status);
    response_.status = static_cast<int>(status);
    if (too_large_ || code == CURLE_FILESIZE_EXCEEDED) {
        char text[96];
        std::snprintf(
            text, sizeof text, "answer is larger than %zu bytes",
            header_bytes_ > kMaxHeaderBytes ? kMaxHeaderBytes : request_.max_response_bytes);
        fail(TransportError::TooLarge, text);
    } else if (out_of_memory_) {
        fail(TransportError::TooLarge, "out of memory");
    } else if (repeat_refused_) {
        fail(TransportError::Unreachable,
             "kept connection was lost before the answer, and the request is not sent twice");
    } else if (code != CURLE_OK) {
        fail(classify(code), error_text_[0] != '\0' ? error_text_ : curl_easy_strerror(code));
    } else if (!header_complete_ || status < 200) {
        // libcurl accepts an incomplete header.
        fail(TransportError::Unreachable, "connection was closed within the header of the answer");
    } else {
        end();
    }
}

void HttpTransfer::fail(TransportError error, std::string_view detail) noexcept {
    response_.error = error;
    response_.may_have_arrived |= has_connected();
    std::string().swap(response_.body);
    try {
        response_.error_detail.assign(detail.substr(0, kMaxDetailBytes));
        for (char& c : response_.error_detail) {
            if (c < 0x20 || c > 0x7e) {
                c = '?';
            }
        }
    } catch (...) {
        response_.error_detail.clear();  // the kind of error says enough
    }
    end();
}

void HttpTransfer::end() noexcept {
    timer_.disarm();
    state_ = State::Done;
    dispatcher_ = nullptr;
    response_.duration_us = loop_.now_us() - started_us_;
    loop_.post(waiter_);
}

// A kept connection that is lost before anything is written on it counts as well. Known from our
// own callback, since libcurl 8.23 returns CURLINFO_PRETRANSFER_TIME_T for a refused connection,
// too.
bool HttpTransfer::has_connected() const noexcept {
    return attempts_ > 0 || repeat_refused_ || header_bytes_ > 0;
}

void HttpTransfer::on_timeout() noexcept {
    const char* phase = "waiting for a free connection";
    if (easy_ != nullptr) {
        phase = header_bytes_ > 0 ? "reading the answer"
                : has_connected() ? "waiting for the answer"
                                  : "connecting";
    }
    response_.may_have_arrived = has_connected();
    char text[96];
    std::snprintf(text, sizeof text, "timed out after %ld ms while %s",
                  milliseconds(request_.timeout_us), phase);
    dispatcher_->fail(*this, TransportError::Timeout, text);
}

}  // namespace mana_ai::net::detail
