/*
 * Preloaded into every program of the guest (/etc/ld.so.preload): random generators, and TLS servers that
 * issue session tickets, notice a fork of the VM.
 *
 * libcrypto (OpenSSL 3, openssl_get_fork_id) and libgcrypt take a process that has another pid than
 * when they were seeded for a fork(2), and seed themselves anew. A forked VM's processes keep their
 * pids. So these two, and nobody else, are told a number that is as constant as the pid, and changes
 * when a page that is marked wipe-on-fork was wiped: by the kernel in a fork(2), by sevfork in a
 * child.
 *
 * libssl draws the keys of session tickets once, with the SSL_CTX. After a fork of the VM, and not after a
 * fork(2), whose children share sessions on purpose, new ones are set before the next connection.
 *
 * No headers: it is compiled in the image's own tree, where there are none.
 */
typedef int pid_t;
typedef unsigned long size_t;
typedef struct { const char *file; void *base; const char *symbol; void *address; } Dl_info;
typedef struct { unsigned long address; const char *name; } link_map; /* its beginning */

extern long syscall(long number, ...);
extern void *mmap(void *address, size_t size, int protection, int flags, int fd, long offset);
extern int madvise(void *address, size_t size, int advice);
extern int dladdr(const void *address, Dl_info *found);
extern int dladdr1(const void *address, Dl_info *found, link_map **map, int flags);
extern void *dlopen(const char *file, int flags);
extern void *dlsym(void *handle, const char *symbol);
extern void *dlvsym(void *handle, const char *symbol, const char *version);
extern char *dlerror(void);
extern char *strstr(const char *text, const char *part);
extern int __register_atfork(void (*before)(void), void (*parent)(void), void (*child)(void), void *library);

enum { GETPID = 39, GETRANDOM = 318 }; /* x86-64 */
enum { PAGE = 4096, READ_WRITE = 3, PRIVATE_ANONYMOUS = 0x22, WIPE_ON_FORK = 18 };
enum { LAZY = 1, LOADED_ALREADY = 4, LINK_MAP = 2 };
#define NEXT ((void *)-1)
#define VERSION "OPENSSL_3.0.0"

static volatile unsigned *page;
/* Drawn in each VM that this process has come to by a fork of the VM; 0 in the one that started it. */
static volatile unsigned long life;

static void mark(volatile unsigned *wiped)
{
    while (!*wiped) {
        unsigned drawn;
        if (syscall(GETRANDOM, &drawn, sizeof drawn, 0) == sizeof drawn)
            *wiped = drawn;
    }
}

/* Whoever finds the page wiped without this was forked with its VM (or by a bare clone). */
static void after_fork(void)
{
    mark(page);
}

/* The same until the page is wiped. Two threads that come first at once draw twice, which costs one
 * seeding more. Without a page the pid is all that is known, as without this library. */
static unsigned generation(void)
{
    if (!page) {
        unsigned *mapped = mmap(0, PAGE, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0);
        if (mapped == (void *)-1 || madvise(mapped, PAGE, WIPE_ON_FORK))
            return 0;
        mark(mapped);
        page = mapped;
        __register_atfork(0, 0, after_fork, &page);
    }
    while (!*page) {
        unsigned long drawn;
        if (syscall(GETRANDOM, &drawn, sizeof drawn, 0) == sizeof drawn) {
            life = drawn;
            mark(page);
        }
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

/* ---- TLS session tickets (RFC 5077; OpenSSL keeps a name and two keys in each SSL_CTX) ---- */

enum { GET_TICKET_KEYS = 58, SET_TICKET_KEYS = 59, TICKET_KEYS_SIZE = 80 };
typedef long control_function(void *context, int command, long size, void *data);
typedef void *new_function(void *context);

/* What a program has set it shares with others, or replaces by itself: it stays. */
static volatile int program_sets_keys;

static int same_library(const void *one, const void *other)
{
    Dl_info its, others;
    return dladdr(one, &its) && dladdr(other, &others) && its.base == others.base;
}

/* What the loader would have bound to, were it not for us: what the program itself has loaded; else (Python's
 * module, a plugin), and where that is of another version, what the library that calls has. */
static void *next_of(const char *symbol, const void *caller)
{
    Dl_info found;
    link_map *map;
    void *library = 0, *own = 0, *next = dlvsym(NEXT, symbol, VERSION);
    if (dladdr1(caller, &found, &map, LINK_MAP) && *map->name) /* the program itself has none */
        library = dlopen(map->name, LAZY | LOADED_ALREADY);
    if (library)
        own = dlsym(library, symbol);
    if (own && (!next || !(same_library(own, caller) || dlvsym(library, symbol, VERSION))))
        next = own;
    if (!next && (library = dlopen("libssl.so.3", LAZY | LOADED_ALREADY)))
        next = dlsym(library, symbol);
    dlerror(); /* what failed here is not the program's */
    return next;
}

long SSL_CTX_ctrl(void *context, int command, long size, void *data)
{
    control_function *control = next_of("SSL_CTX_ctrl", __builtin_return_address(0));
    if (command == SET_TICKET_KEYS && data)
        program_sets_keys = 1;
    return control ? control(context, command, size, data) : 0;
}

/* A key's name, which stands in each ticket, begins with the life that it was drawn in. Two threads at
 * once may set a mixture of what both drew, which nobody else knows either. */
static void renew_ticket_keys(void *context, control_function *control)
{
    unsigned long keys[TICKET_KEYS_SIZE / sizeof(unsigned long)];
    volatile unsigned long *wiped = keys;
    unsigned each;
    generation();
    if (!life || program_sets_keys || control(context, GET_TICKET_KEYS, sizeof keys, keys) != 1)
        return;
    if (keys[0] != life && syscall(GETRANDOM, keys, sizeof keys, 0) == sizeof keys) {
        keys[0] = life;
        control(context, SET_TICKET_KEYS, sizeof keys, keys);
    }
    for (each = 0; each < TICKET_KEYS_SIZE / sizeof(unsigned long); each++)
        wiped[each] = 0;
}

void *SSL_new(void *context)
{
    const void *caller = __builtin_return_address(0);
    new_function *make = next_of("SSL_new", caller);
    control_function *control = next_of("SSL_CTX_ctrl", caller);
    if (context && control && same_library(make, control))
        renew_ticket_keys(context, control);
    return make ? make(context) : 0;
}
