/* Preloaded with libasan: glibc's bindtextdomain() and dlopen() of the sanitizer's start wait for each other in
 * postgres, which asks for its translations before anything else. Messages stay English. */
char* bindtextdomain(const char* domain, const char* directory) {
    (void)domain;
    return (char*)directory;
}
