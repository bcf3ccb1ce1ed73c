// Certificates are verified: who signed them, and for which host.
#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <signal.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

#include "http_test_support.hpp"

namespace mana_ai::net {
namespace {

template <class T, void (*Free)(T*)>
struct Freer {
    void operator()(T* object) const { Free(object); }
};
using Key = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY, EVP_PKEY_free>>;
using Certificate = std::unique_ptr<X509, Freer<X509, X509_free>>;
using Context = std::unique_ptr<SSL_CTX, Freer<SSL_CTX, SSL_CTX_free>>;
using Session = std::unique_ptr<SSL, Freer<SSL, SSL_free>>;

Certificate self_signed(EVP_PKEY* key, const char* name) {
    Certificate certificate(X509_new());
    X509_set_version(certificate.get(), 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate.get()), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate.get()), -3600);
    X509_gmtime_adj(X509_getm_notAfter(certificate.get()), 3600);
    X509_set_pubkey(certificate.get(), key);
    X509_NAME* subject = X509_get_subject_name(certificate.get());
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>("test"), -1, -1, 0);
    X509_set_issuer_name(certificate.get(), subject);
    X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, name);
    X509_add_ext(certificate.get(), extension, -1);
    X509_EXTENSION_free(extension);
    X509_sign(certificate.get(), key, EVP_sha256());
    return certificate;
}

// Answers one request on each TLS connection, with a certificate for the given name.
class TlsServer {
 public:
    explicit TlsServer(const char* name)
        : key_(EVP_EC_gen("P-256")),
          certificate_(self_signed(key_.get(), name)),
          context_(SSL_CTX_new(TLS_server_method())),
          listener_(test::listen_on_loopback(16, port_)),
          thread_([this] { serve(); }) {
        ca_file_ = std::filesystem::temp_directory_path() /
                   ("http_tls_test-" + std::to_string(::getpid()) + ".pem");
        std::FILE* file = std::fopen(ca_file_.c_str(), "w");
        PEM_write_X509(file, certificate_.get());
        std::fclose(file);
    }
    ~TlsServer() {
        stopping_ = true;
        thread_.join();
        ::close(listener_);
        std::filesystem::remove(ca_file_);
    }
    std::string url() const { return "https://127.0.0.1:" + std::to_string(port_) + "/"; }
    std::string ca_file() const { return ca_file_; }
    int handshakes() const { return handshakes_; }
    int resumptions() const { return resumptions_; }

 private:
    void serve() {
        sigset_t broken_pipe;  // OpenSSL writes without MSG_NOSIGNAL
        sigemptyset(&broken_pipe);
        sigaddset(&broken_pipe, SIGPIPE);
        pthread_sigmask(SIG_BLOCK, &broken_pipe, nullptr);
        SSL_CTX_use_certificate(context_.get(), certificate_.get());
        SSL_CTX_use_PrivateKey(context_.get(), key_.get());
        const unsigned char id[] = "http_tls_test";
        SSL_CTX_set_session_id_context(context_.get(), id, sizeof id);
        while (!stopping_) {
            pollfd entry{listener_, POLLIN, 0};
            if (::poll(&entry, 1, 20) <= 0) {
                continue;
            }
            const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
            const timeval limit{2, 0};
            ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
            const Session session(SSL_new(context_.get()));
            SSL_set_fd(session.get(), fd);
            if (SSL_accept(session.get()) == 1) {
                ++handshakes_;
                resumptions_ += SSL_session_reused(session.get());
                char buffer[4096];
                const std::string answer =
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 6\r\n\r\nsecure";
                if (SSL_read(session.get(), buffer, sizeof buffer) > 0) {
                    SSL_write(session.get(), answer.data(), static_cast<int>(answer.size()));
                    SSL_shutdown(session.get());
                }
            }
            ::close(fd);
        }
    }

    Key key_;
    Certificate certificate_;
    Context context_;
    uint16_t port_ = 0;
    int listener_;
    std::string ca_file_;
    std::atomic<bool> stopping_{false};
    std::atomic<int> handshakes_{0};
    std::atomic<int> resumptions_{0};
    std::thread thread_;
};

TEST(HttpTls, TalksToAServerWhoseCertificateIsTrusted) {
    TlsServer server("IP:127.0.0.1");
    EventLoop loop;
    HttpClientOptions options;
    options.ca_file = server.ca_file();
    HttpClient client(loop, options);
    EXPECT_EQ(test::fetch(loop, client, test::post_to(server.url())).body, "secure");
    EXPECT_EQ(server.resumptions(), 0);
    HttpResponse responses[3];
    for (HttpResponse& response : responses) {
        loop.spawn(test::exchange(client, test::post_to(server.url()), response), {});
    }
    loop.run_until_idle(10'000'000);
    for (const HttpResponse& response : responses) {
        EXPECT_EQ(response.error, TransportError::None) << response.error_detail;
        EXPECT_EQ(response.body, "secure");
    }
    EXPECT_EQ(server.handshakes(), 4);
    EXPECT_EQ(server.resumptions(), 3);  // sessions are shared between easy handles
}

TEST(HttpTls, RefusesACertificateThatNobodyVouchesFor) {
    TlsServer server("IP:127.0.0.1");
    EventLoop loop;
    HttpClient client(loop);
    const HttpResponse response = test::fetch(loop, client, test::post_to(server.url()));
    EXPECT_EQ(response.error, TransportError::Unreachable);
    EXPECT_NE(response.error_detail.find("certificate"), std::string::npos)
        << response.error_detail;
}

TEST(HttpTls, RefusesACertificateForAnotherHost) {
    TlsServer server("DNS:elsewhere.example");
    EventLoop loop;
    HttpClientOptions options;
    options.ca_file = server.ca_file();
    HttpClient client(loop, options);
    const HttpResponse response = test::fetch(loop, client, test::post_to(server.url()));
    EXPECT_EQ(response.error, TransportError::Unreachable);
    EXPECT_EQ(response.status, 0);
}

TEST(HttpTls, AnHttpsUrlToAPlainServerIsUnreachable) {
    test::RudeServer server([](test::Peer& peer) {
        peer.send("HTTP/1.1 400 Bad Request\r\n\r\n");
        peer.wait_for_close();
    });
    EventLoop loop;
    HttpClient client(loop);
    const HttpResponse response = test::fetch(
        loop, client, test::post_to("https://127.0.0.1:" + std::to_string(server.port()) + "/"));
    EXPECT_EQ(response.error, TransportError::Unreachable) << response.error_detail;
}

}  // namespace
}  // namespace mana_ai::net
