// Only a file that nobody else could have read or written is accepted as a private key.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "mana_ai/crypto/private_key.hpp"

namespace mana_ai::crypto {

namespace {

class FileDescriptor {
 public:
    explicit FileDescriptor(int fd) noexcept : fd_(fd) {}
    ~FileDescriptor() {
        if (fd_ >= 0) {
            ::close(fd_);
        }
    }
    FileDescriptor(const FileDescriptor&) = delete;
    FileDescriptor& operator=(const FileDescriptor&) = delete;
    int get() const noexcept { return fd_; }

 private:
    int fd_;
};

PrivateKeyError could_not_open(int error) noexcept {
    switch (error) {
        case ENOENT:
        case ENOTDIR:
            return {"does not exist"};
        case EACCES:
        case EPERM:
            return {"could not be opened: permission denied"};
        case ELOOP:
            return {"could not be opened: too many symbolic links"};
        case EMFILE:
        case ENFILE:
            return {"could not be opened: too many open files"};
        default:
            return {"could not be opened"};
    }
}

}  // namespace

std::variant<PrivateKey, PrivateKeyError> PrivateKey::load(const std::string& path, uid_t owner) {
    if (path.find('\0') != std::string::npos) {
        return could_not_open(ENOENT);
    }
    // O_NONBLOCK: not to wait for a FIFO's writer; without effect for regular files.
    const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (file.get() < 0) {
        return could_not_open(errno);
    }
    // Checks the opened file: the name may mean another file by now.
    struct stat status {};
    if (::fstat(file.get(), &status) != 0) {
        return PrivateKeyError{"could not be examined"};
    }
    if (!S_ISREG(status.st_mode)) {
        return PrivateKeyError{"is not a regular file"};
    }
    if (status.st_uid != owner && status.st_uid != 0) {
        return PrivateKeyError{"must be owned by the database user or root"};
    }
    if ((status.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
        return PrivateKeyError{"must not be accessible by group or others"};
    }
    SecretBytes content(kMaxFileSize + 1);
    std::size_t size = 0;
    while (size < content.size()) {
        const ssize_t count = ::read(file.get(), content.data() + size, content.size() - size);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0) {
            return PrivateKeyError{"could not be read"};
        }
        if (count == 0) {
            break;
        }
        size += static_cast<std::size_t>(count);
    }
    if (size > kMaxFileSize) {
        return PrivateKeyError{"is too large for a private key"};
    }
    content.truncate(size);
    return from_pem(content.view());
}

}  // namespace mana_ai::crypto
