#include "mana_ai/crypto/private_key.hpp"

#include <gtest/gtest.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>

#include "../../client/client_side.hpp"
#include "grant_vectors.hpp"
#include "mana_ai/crypto/base64.hpp"

namespace mana_ai::crypto {
namespace {

using Pkey = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;

// "ok", or why there is no key.
std::string outcome(const std::variant<PrivateKey, PrivateKeyError>& result) {
    EXPECT_EQ(ERR_peek_error(), 0u) << "left in OpenSSL's error queue";
    const auto* error = std::get_if<PrivateKeyError>(&result);
    return error == nullptr ? "ok" : std::string(error->reason);
}

std::string outcome(std::string_view pem) {
    return outcome(PrivateKey::from_pem(pem));
}

std::string pem_written_by(const std::function<int(BIO*)>& write) {
    const std::unique_ptr<BIO, decltype(&BIO_free)> bio(BIO_new(BIO_s_mem()), BIO_free);
    EXPECT_EQ(write(bio.get()), 1);
    char* data = nullptr;
    const long size = BIO_get_mem_data(bio.get(), &data);
    return {data, static_cast<std::size_t>(size)};
}

std::string private_pem(EVP_PKEY* pkey) {
    return pem_written_by([&](BIO* bio) {
        return PEM_write_bio_PKCS8PrivateKey(bio, pkey, nullptr, nullptr, 0, nullptr, nullptr);
    });
}

std::string public_pem(EVP_PKEY* pkey) {
    return pem_written_by([&](BIO* bio) { return PEM_write_bio_PUBKEY(bio, pkey); });
}

EVP_PKEY* another_rsa_2048() {
    static const Pkey pkey(EVP_RSA_gen(2048), EVP_PKEY_free);
    return pkey.get();
}

client::Bytes test_key_der() {
    std::string pem = test_private_pem();
    pem = pem.substr(pem.find('\n'));
    pem = pem.substr(0, pem.find("-----"));
    std::erase(pem, '\n');
    client::Bytes der(base64_decoded_size(pem).value());
    EXPECT_TRUE(decode_base64(pem, der));
    return der;
}

std::string to_pem(const client::Bytes& der) {
    return "-----BEGIN PRIVATE KEY-----\n" + client::encode_base64(der) +
           "\n-----END PRIVATE KEY-----\n";
}

constexpr const char* kNotPkcs8 = "does not hold a private key in PKCS#8 PEM format";
constexpr const char* kNotRsa2048 = "does not hold an RSA key of 2048 bits";

TEST(PrivateKey, ReadsPkcs8) {
    const std::string pem = test_private_pem();
    EXPECT_EQ(outcome(pem), "ok");
    EXPECT_EQ(outcome(private_pem(another_rsa_2048())), "ok");
    EXPECT_EQ(outcome("a comment\n" + pem + "\n\n"), "ok");
    EXPECT_EQ(outcome(to_pem(test_key_der())), "ok") << "all in one line";
    std::string windows;
    for (const char c : pem) {
        windows += c == '\n' ? std::string("\r\n") : std::string(1, c);
    }
    EXPECT_EQ(outcome(windows), "ok");
}

TEST(PrivateKey, UnwrapsWhatIsWrappedForItAndNothingElse) {
    const client::Bytes secret(32, 5);
    const auto other = std::get<PrivateKey>(PrivateKey::from_pem(private_pem(another_rsa_2048())));
    const client::Bytes wrapped = client::wrap(secret, test_public_pem());
    const auto unwrapped = test_key().unwrap(wrapped);
    ASSERT_TRUE(unwrapped);
    EXPECT_TRUE(unwrapped->equals(secret));
    EXPECT_FALSE(other.unwrap(wrapped));
    EXPECT_TRUE(other.unwrap(client::wrap(secret, public_pem(another_rsa_2048()))));
    EXPECT_FALSE(test_key().unwrap({}));
    EXPECT_EQ(ERR_peek_error(), 0u);
}

TEST(PrivateKey, WorksWhereverItIsMoved) {
    auto first = std::get<PrivateKey>(PrivateKey::from_pem(test_private_pem()));
    PrivateKey second = std::move(first);
    const client::Bytes wrapped = client::wrap(client::Bytes(32), test_public_pem());
    EXPECT_TRUE(second.unwrap(wrapped));
    first = std::move(second);
    EXPECT_TRUE(first.unwrap(wrapped));
}

TEST(PrivateKey, ComparesByItsPublicHalf) {
    const auto same = std::get<PrivateKey>(PrivateKey::from_pem(test_private_pem()));
    const auto other = std::get<PrivateKey>(PrivateKey::from_pem(private_pem(another_rsa_2048())));
    EXPECT_TRUE(test_key().same_public_key(same));
    EXPECT_FALSE(test_key().same_public_key(other));
    EXPECT_TRUE(test_key().has_public_key(test_public_pem()));
    EXPECT_TRUE(other.has_public_key(public_pem(another_rsa_2048())));
    EXPECT_FALSE(test_key().has_public_key(public_pem(another_rsa_2048())));
    for (const std::string& text :
         {std::string(), std::string("x"), test_private_pem(),
          std::string("-----BEGIN PUBLIC KEY-----\n"), std::string(1 << 20, 'A')}) {
        EXPECT_FALSE(test_key().has_public_key(text));
    }
    EXPECT_EQ(ERR_peek_error(), 0u);
}

TEST(PrivateKey, RefusesWhatIsNoPkcs8Pem) {
    const std::string pem = test_private_pem();
    std::string inner_noise = pem;
    inner_noise[100] = '!';
    for (const std::string& text :
         {std::string(), std::string("hello"), test_public_pem(), pem.substr(0, pem.size() - 10),
          pem + pem, inner_noise,
          std::string("-----BEGIN PRIVATE KEY----------END PRIVATE KEY-----"),
          std::string("-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"),
          std::string("-----END PRIVATE KEY-----\n-----BEGIN PRIVATE KEY-----\n"),
          std::string(1 << 20, '\xff'), pem_written_by([](BIO* bio) {
              return PEM_write_bio_PrivateKey_traditional(bio, another_rsa_2048(), nullptr, nullptr,
                                                          0, nullptr, nullptr);
          })}) {
        EXPECT_EQ(outcome(text), kNotPkcs8);
    }
    const auto encrypted = pem_written_by([](BIO* bio) {
        return PEM_write_bio_PKCS8PrivateKey(bio, another_rsa_2048(), EVP_aes_256_cbc(), "pass", 4,
                                             nullptr, nullptr);
    });
    EXPECT_EQ(outcome(encrypted), "holds an encrypted private key");
}

TEST(PrivateKey, RefusesOtherKinds) {
    const Pkey small(EVP_RSA_gen(1024), EVP_PKEY_free);
    const Pkey odd(EVP_RSA_gen(2040), EVP_PKEY_free);
    const Pkey large(EVP_RSA_gen(3072), EVP_PKEY_free);
    const Pkey curve(EVP_EC_gen("P-256"), EVP_PKEY_free);
    const Pkey edwards(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"), EVP_PKEY_free);
    for (const Pkey* pkey : {&small, &odd, &large, &curve, &edwards}) {
        EXPECT_EQ(outcome(private_pem(pkey->get())), kNotRsa2048);
    }
}

TEST(PrivateKey, RefusesTruncatedDer) {
    const client::Bytes der = test_key_der();
    for (std::size_t size = 0; size < der.size(); size += 7) {
        EXPECT_NE(outcome(to_pem({der.begin(), der.begin() + static_cast<long>(size)})), "ok");
    }
    client::Bytes longer = der;
    longer.push_back(0);
    EXPECT_NE(outcome(to_pem(longer)), "ok");
}

TEST(PrivateKey, RefusesNumbersThatDoNotFitTogether) {
    // The numbers begin after the headers; in each of them one byte is changed.
    const client::Bytes der = test_key_der();
    int inconsistent = 0;
    for (std::size_t at = 40; at < der.size(); at += 60) {
        client::Bytes changed = der;
        changed[at] ^= 0x10;
        const std::string result = outcome(to_pem(changed));
        inconsistent += result == "holds an RSA key whose parts do not fit together" ? 1 : 0;
    }
    EXPECT_GT(inconsistent, 4);
}

// ---- the file

class PrivateKeyFile : public testing::Test {
 protected:
    void SetUp() override {
        std::string name = testing::TempDir() + "mana_ai_key_XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        directory_ = name;
    }
    void TearDown() override { std::filesystem::remove_all(directory_); }

    std::string path() const { return directory_ + "/grant.pem"; }
    void write(const std::string& text, mode_t mode = 0600) const {
        std::ofstream(path()) << text;
        ASSERT_EQ(::chmod(path().c_str(), mode), 0);
    }
    std::string load() const { return outcome(PrivateKey::load(path(), ::geteuid())); }

    std::string directory_;
};

TEST_F(PrivateKeyFile, IsReadWhenOnlyItsOwnerCan) {
    for (const mode_t mode : {0600, 0400}) {
        write(test_private_pem(), mode);
        EXPECT_EQ(load(), "ok");
        ASSERT_EQ(::unlink(path().c_str()), 0);
    }
}

TEST_F(PrivateKeyFile, IsRefusedWhenOthersHaveAccess) {
    for (const mode_t mode : {0640, 0620, 0604, 0602, 0660, 0644, 0666, 0777, 0610}) {
        write(test_private_pem(), mode);
        EXPECT_EQ(load(), "must not be accessible by group or others") << std::oct << mode;
    }
}

TEST_F(PrivateKeyFile, IsRefusedWhenAnotherUserOwnsIt) {
    write(test_private_pem());
    const auto result = outcome(PrivateKey::load(path(), ::geteuid() + 1));
    if (::geteuid() != 0) {
        EXPECT_EQ(result, "must be owned by the database user or root");
        return;
    }
    EXPECT_EQ(result, "ok") << "root's file";
    ASSERT_EQ(::chown(path().c_str(), 4242, 4242), 0);
    EXPECT_EQ(outcome(PrivateKey::load(path(), 4242)), "ok");
    EXPECT_EQ(outcome(PrivateKey::load(path(), 4243)),
              "must be owned by the database user or root");
    EXPECT_EQ(outcome(PrivateKey::load(path(), 0)), "must be owned by the database user or root");
}

TEST_F(PrivateKeyFile, MayBeASymbolicLink) {
    write(test_private_pem());
    const std::string link = directory_ + "/link.pem";
    ASSERT_EQ(::symlink(path().c_str(), link.c_str()), 0);
    EXPECT_EQ(outcome(PrivateKey::load(link, ::geteuid())), "ok");
    write(test_private_pem(), 0644);
    EXPECT_EQ(outcome(PrivateKey::load(link, ::geteuid())),
              "must not be accessible by group or others");
}

TEST_F(PrivateKeyFile, MustBeARegularFile) {
    EXPECT_EQ(outcome(PrivateKey::load(directory_, ::geteuid())), "is not a regular file");
    ASSERT_EQ(::mkfifo(path().c_str(), 0600), 0);
    EXPECT_EQ(load(), "is not a regular file");  // and does not wait for a writer
    EXPECT_EQ(outcome(PrivateKey::load("/dev/null", ::geteuid())), "is not a regular file");
}

TEST_F(PrivateKeyFile, MustExist) {
    EXPECT_EQ(load(), "does not exist");
    EXPECT_EQ(outcome(PrivateKey::load("", ::geteuid())), "does not exist");
    EXPECT_EQ(outcome(PrivateKey::load(path() + "/x", ::geteuid())), "does not exist");
    write(test_private_pem());
    EXPECT_EQ(outcome(PrivateKey::load(path() + "/x", ::geteuid())), "does not exist");
    EXPECT_EQ(outcome(PrivateKey::load(path() + std::string(1, '\0'), ::geteuid())),
              "does not exist");
    EXPECT_EQ(outcome(PrivateKey::load(std::string(10'000, 'x'), ::geteuid())),
              "could not be opened");
    ASSERT_EQ(::symlink("loop", (directory_ + "/loop").c_str()), 0);
    EXPECT_EQ(outcome(PrivateKey::load(directory_ + "/loop", ::geteuid())),
              "could not be opened: too many symbolic links");
}

TEST_F(PrivateKeyFile, MustBeReadable) {
    if (::geteuid() == 0) {
        GTEST_SKIP() << "root may read everything";
    }
    write(test_private_pem(), 0000);
    EXPECT_EQ(load(), "could not be opened: permission denied");
}

TEST_F(PrivateKeyFile, MustHoldAKey) {
    write("");
    EXPECT_EQ(load(), kNotPkcs8);
    write("hunter2");
    EXPECT_EQ(load(), kNotPkcs8);
    write(test_private_pem() + std::string(PrivateKey::kMaxFileSize, ' '));
    EXPECT_EQ(load(), "is too large for a private key");
    write(std::string(1 << 20, 'A'));
    EXPECT_EQ(load(), "is too large for a private key");
}

}  // namespace
}  // namespace mana_ai::crypto
