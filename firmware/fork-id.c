/*
 * Preloaded into every program of the guest (/etc/ld.so.preload): random generators notice a fork of
 * the VM.
 *
 * libcrypto (OpenSSL 3, openssl_get_fork_id) and libgcrypt take a process that has another pid than
 * when they were seeded for a fork(2), and seed themselves anew. A forked VM's processes keep their
 * pids. So these two, and nobody else, are told a number that is as constant as the pid, and changes
 * when a page that is marked wipe-on-fork was wiped: by the kernel in a fork(2), by sevfork in a
 * child.
 *
 * No headers: it is compiled in the image's own tree, where there are none.
 */
typedef int pid_t;
typedef unsigned long size_t;
typedef struct { const char *file; void *base; const char *symbol; void *address; } Dl_info;

extern long syscall(long number, ...);
extern void *mmap(void *address, size_t size, int protection, int flags, int fd, long offset);
extern int madvise(void *address, size_t size, int advice);
extern int dladdr(const void *address, Dl_info *found);
extern char *strstr(const char *text, const char *part);

enum { GETPID = 39, GETRANDOM = 318 }; /* x86-64 */
enum { PAGE = 4096, READ_WRITE = 3, PRIVATE_ANONYMOUS = 0x22, WIPE_ON_FORK = 18 };

static volatile unsigned *page;

/* The same until the page is wiped. Two threads that come first at once draw twice, which costs one
 * seeding more. Without a page the pid is all that is known, as without this library. */
static unsigned generation(void)
{
    if (!page) {
        void *mapped = mmap(0, PAGE, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0);
        if (mapped == (void *)-1 || madvise(mapped, PAGE, WIPE_ON_FORK))
            return 0;
        page = mapped;
    }
    while (!*page) {
        unsigned drawn;
        if (syscall(GETRANDOM, &drawn, sizeof drawn, 0) == sizeof drawn)
            *page = drawn;
    }
    return *page & 0x7fffffff;
}

/* dladdr takes microseconds (measured), and callers are few: the last of each kind is kept. */
static int is_generator(const void *caller)
{
    static const void *volatile known, *volatile stranger;
    Dl_info found;
    if (caller == known)
        return 1;
    if (caller == stranger)
        return 0;
    if (dladdr(caller, &found) && found.file
        && (strstr(found.file, "/libcrypto.so") || strstr(found.file, "/libgcrypt.so"))) {
        known = caller;
        return 1;
    }
    stranger = caller;
    return 0;
}

pid_t getpid(void)
{
    pid_t pid = syscall(GETPID);
    return is_generator(__builtin_return_address(0)) ? pid ^ generation() : pid;
}
