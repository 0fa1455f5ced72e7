/* Runs a program and writes down every change that it makes to the files below a folder; or lets some of its calls fail.
**
**     disk_watch FOLDER TRACE|- CLASS:FIRST:LAST:ERROR|- ONLY|- PROGRAM ARGUMENTS...
**
** With a TRACE the folder is empty at the beginning. Calls that change files stop under ptrace, chosen by a seccomp filter, so that raw
** system calls are seen too; one of them runs at a time, which gives the changes one order. What is stored into shared
** mappings is found by comparing the mapped files with what they were, at every stop: it was stored some time before. A
** wal-index (-shm) is not written down, as SQLite makes it anew after a loss of power.
**
** TRACE is a row of `struct record`, each with `bytes` of data behind it:
**
**     C  file `id` was made at a path (data); an empty path: it has no name yet     M  the same of a folder
**     W  `bytes` were written at `offset`      A  room was taken from `offset` to `end`    T  cut to `offset`
**     P  `bytes` at `offset` were stored through a mapping
**     S  `id` was synced, times too; of a folder its names     D  its content alone
**     L  `id` got the name in data      R  it has the second name in data instead of the first (with a zero between)
**     U  the name in data is gone
**
** Faults: calls FIRST to LAST (0: all that follow) of a class fail with the number ERROR, or, with ERROR 0, write half. CLASS
** is read, write, sync, name (rename, link), unlink, map, open or room (fallocate, ftruncate, mkdir); counted are those on
** paths that contain ONLY ("!x": do not contain x). A write of "heal" to FOLDER/marks ends the faults. At the end stderr
** has "calls N" of the class.
*/
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/elf.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATH_BYTES 4096
#define THREADS_MAX 1024
#define FILES_MAX 65536
#define MAPS_MAX 64
#define OLD(name) -1000 - __LINE__ /* a call that this machine does not have */
#ifndef SYS_open
#define SYS_open OLD()
#define SYS_creat OLD()
#define SYS_rename OLD()
#define SYS_link OLD()
#define SYS_unlink OLD()
#define SYS_mkdir OLD()
#define SYS_rmdir OLD()
#endif

struct record {
  char op, none[3];
  uint32_t id;
  uint64_t offset, end;
  int64_t modified_ns, changed_ns;
  uint64_t bytes;
};

enum class { NONE, READ, WRITE, SYNC, NAME, UNLINK, MAP, OPEN, ROOM };
static const char *const CLASSES[] = {"", "read", "write", "sync", "name", "unlink", "map", "open", "room"};

static const struct { long nr; enum class class; } CALLS[] = {
    {SYS_read, READ}, {SYS_pread64, READ}, {SYS_readv, READ}, {SYS_preadv, READ},
    {SYS_write, WRITE}, {SYS_pwrite64, WRITE}, {SYS_writev, WRITE}, {SYS_pwritev, WRITE},
    {SYS_copy_file_range, WRITE}, {SYS_sendfile, WRITE},
    {SYS_fsync, SYNC}, {SYS_fdatasync, SYNC}, {SYS_msync, SYNC},
    {SYS_rename, NAME}, {SYS_renameat, NAME}, {SYS_renameat2, NAME}, {SYS_link, NAME}, {SYS_linkat, NAME},
    {SYS_unlink, UNLINK}, {SYS_unlinkat, UNLINK}, {SYS_rmdir, UNLINK},
    {SYS_mmap, MAP},
    {SYS_open, OPEN}, {SYS_openat, OPEN}, {SYS_creat, OPEN},
    {SYS_fallocate, ROOM}, {SYS_ftruncate, ROOM}, {SYS_truncate, ROOM}, {SYS_mkdir, ROOM}, {SYS_mkdirat, ROOM},
};
#define CALLS_LEN (sizeof CALLS / sizeof *CALLS)

static char folder[PATH_BYTES];
static size_t folder_len;
static FILE *trace;
static enum class failing;
static uint64_t fail_first, fail_last, calls;
static int fail_error, healed;
static const char *only;

static struct { dev_t device; ino_t inode; } files[FILES_MAX];
static uint32_t files_len;
static struct { uint32_t id; int fd; uint64_t address, length; pid_t of; unsigned char *known; size_t known_len; } maps[MAPS_MAX];
static int maps_len;

/* The call that is under way. */
static struct {
  pid_t thread;
  long nr;
  uint64_t args[6];
  char path[PATH_BYTES], other[PATH_BYTES]; /* of the file, or the names */
  uint64_t offset;
  int was_there;
  uint32_t id;
  int failed;
} now;
static struct { pid_t thread; int waits; } threads[THREADS_MAX];
static int threads_len;

static void die(const char *what) {
  fprintf(stderr, "disk_watch: %s: %s\n", what, strerror(errno));
  exit(125);
}

static int64_t ns(struct timespec t) { return t.tv_sec * 1000000000LL + t.tv_nsec; }

static void put(char op, uint32_t id, uint64_t offset, uint64_t end, const struct stat *st, const void *data, size_t bytes) {
  if (!trace) return;
  struct record r = {op, {0}, id, offset, end, st ? ns(st->st_mtim) : 0, st ? ns(st->st_ctim) : 0, bytes};
  if (fwrite(&r, sizeof r, 1, trace) != 1 || (bytes && fwrite(data, bytes, 1, trace) != 1)) die("write the trace");
}

static uint32_t new_id(const struct stat *st) {
  if (files_len == FILES_MAX) die("too many files");
  files[files_len].device = st->st_dev;
  files[files_len].inode = st->st_ino;
  return files_len++;
}

/* The newest file that had this inode. */
static uint32_t id_of(const struct stat *st) {
  if (!trace) return 0;
  for (uint32_t id = files_len; id-- > 0;)
    if (files[id].inode == st->st_ino && files[id].device == st->st_dev) return id;
  fprintf(stderr, "disk_watch: a file below %s was there before, or made unseen\n", folder);
  exit(125);
}

static int is_watched(const char *path) {
  return strncmp(path, folder, folder_len) == 0 && (path[folder_len] == '/' || !path[folder_len]);
}

static int ends_with(const char *text, const char *end) {
  size_t a = strlen(text), b = strlen(end);
  return a >= b && !strcmp(text + a - b, end);
}

static int is_counted(const char *path) {
  if (!strcmp(only, "-")) return 1;
  return *only == '!' ? !strstr(path, only + 1) : strstr(path, only) != NULL;
}

static void of_fd(char *path, int fd, const char *kind) { sprintf(path, "/proc/%d/%s/%d", now.thread, kind, fd); }

/* The path that a descriptor was opened by; "" for none. */
static void path_of_fd(int fd, char *path) {
  char link[64];
  of_fd(link, fd, "fd");
  ssize_t n = readlink(link, path, PATH_BYTES - 1);
  path[n < 0 ? 0 : n] = 0;
}

static int stat_fd(int fd, struct stat *st) {
  char link[64];
  of_fd(link, fd, "fd");
  return stat(link, st);
}

static void read_text(uint64_t address, char *text) {
  for (size_t done = 0; done < PATH_BYTES - 1;) {
    size_t n = 4096 - (address + done) % 4096;
    if (n > PATH_BYTES - 1 - done) n = PATH_BYTES - 1 - done;
    struct iovec here = {text + done, n}, there = {(void *)(address + done), n};
    ssize_t got = process_vm_readv(now.thread, &here, 1, &there, 1, 0);
    if (got <= 0) { text[done] = 0; return; }
    done += got;
    text[done] = 0;
    if (memchr(text + done - got, 0, got)) return;
  }
}

static void path_at(int64_t at, uint64_t address, char *path) {
  char name[PATH_BYTES];
  read_text(address, name);
  if (*name == '/') { strcpy(path, name); return; }
  char base[PATH_BYTES];
  if ((int)at == AT_FDCWD) {
    char link[64];
    sprintf(link, "/proc/%d/cwd", now.thread);
    ssize_t n = readlink(link, base, sizeof base - 1);
    base[n < 0 ? 0 : n] = 0;
  } else {
    path_of_fd((int)at, base);
  }
  if (!*name) strcpy(path, base);
  else if (strlen(base) + strlen(name) + 2 < PATH_BYTES) sprintf(path, "%s/%s", base, name);
}

static uint64_t position_of(int fd) {
  char name[64], line[128];
  unsigned long long at = 0;
  unsigned flags = 0;
  of_fd(name, fd, "fdinfo");
  FILE *info = fopen(name, "r");
  if (!info) return 0;
  while (fgets(line, sizeof line, info)) {
    sscanf(line, "pos: %llu", &at);
    sscanf(line, "flags: %o", &flags);
  }
  fclose(info);
  struct stat st;
  if (flags & O_APPEND && !stat_fd(fd, &st)) at = st.st_size;
  return at;
}

/* What was stored through mappings since the last stop. */
static void look_at_maps(void) {
  for (int i = 0; i < maps_len; i++) {
    struct stat st;
    if (fstat(maps[i].fd, &st)) die("look at a mapped file");
    size_t len = st.st_size;
    unsigned char *found = malloc(len + 1);
    if (pread(maps[i].fd, found, len, 0) != (ssize_t)len) die("read a mapped file");
    if (len > maps[i].known_len) {
      maps[i].known = realloc(maps[i].known, len + 1);
      memset(maps[i].known + maps[i].known_len, 0, len - maps[i].known_len);
    }
    maps[i].known_len = len;
    for (size_t at = 0; at < len;) {
      if (memcmp(found + at, maps[i].known + at, len - at < 8 ? len - at : 8) == 0) { at += 8; continue; }
      size_t from = at;
      while (at < len && memcmp(found + at, maps[i].known + at, len - at < 8 ? len - at : 8)) at += 8;
      if (at > len) at = len;
      put('P', maps[i].id, from, at, &st, found + from, at - from);
      memcpy(maps[i].known + from, found + from, at - from);
    }
    free(found);
  }
}

static void mapped(uint64_t address) {
  struct stat st;
  if (stat_fd((int)now.args[4], &st)) return;
  uint32_t id = id_of(&st);
  int fd = -1, at = maps_len;
  for (int i = 0; i < maps_len; i++)
    if (maps[i].id == id) fd = maps[i].fd, at = i;
  if (fd < 0) {
    char link[64];
    of_fd(link, (int)now.args[4], "fd");
    fd = open(link, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || maps_len == MAPS_MAX) die("follow a mapping");
    maps_len++;
    maps[at].known = calloc(1, st.st_size + 1);
    maps[at].known_len = st.st_size;
    if (pread(fd, maps[at].known, st.st_size, 0) != st.st_size) die("read a mapped file");
  }
  maps[at].id = id, maps[at].fd = fd, maps[at].address = address, maps[at].length = now.args[1], maps[at].of = now.thread;
}

static enum class class_of(long nr) {
  for (size_t i = 0; i < CALLS_LEN; i++)
    if (CALLS[i].nr == nr) return CALLS[i].class;
  return NONE;
}

/* Looks at a call that begins. Answers whether it is one to be followed to its end. */
static int begins(void) {
  uint64_t *a = now.args;
  struct stat st;
  *now.path = *now.other = 0;
  now.was_there = 0;
  switch (now.nr) {
  case SYS_read: case SYS_pread64: case SYS_readv: case SYS_preadv:
  case SYS_fsync: case SYS_fdatasync: case SYS_ftruncate: case SYS_fallocate:
    path_of_fd((int)a[0], now.path);
    break;
  case SYS_write: case SYS_writev:
    path_of_fd((int)a[0], now.path);
    if (is_watched(now.path)) now.offset = position_of((int)a[0]);
    break;
  case SYS_pwrite64: case SYS_pwritev:
    path_of_fd((int)a[0], now.path);
    now.offset = a[3];
    break;
  case SYS_copy_file_range: path_of_fd((int)a[2], now.path); break;
  case SYS_sendfile: path_of_fd((int)a[0], now.path); break;
  case SYS_msync:
    for (int i = 0; i < maps_len; i++)
      if (a[0] >= maps[i].address && a[0] < maps[i].address + maps[i].length) {
        char link[64];
        sprintf(link, "/proc/self/fd/%d", maps[i].fd);
        ssize_t n = readlink(link, now.path, PATH_BYTES - 1);
        now.path[n < 0 ? 0 : n] = 0;
        now.id = maps[i].id;
      }
    break;
  case SYS_mmap:
    if (a[3] & MAP_SHARED && a[2] & PROT_WRITE && !(a[3] & MAP_ANONYMOUS)) path_of_fd((int)a[4], now.path);
    break;
  case SYS_open: case SYS_creat: path_at(AT_FDCWD, a[0], now.path); break;
  case SYS_openat: path_at(a[0], a[1], now.path); break;
  case SYS_mkdir: case SYS_unlink: case SYS_rmdir: case SYS_truncate: path_at(AT_FDCWD, a[0], now.path); break;
  case SYS_mkdirat: case SYS_unlinkat: path_at(a[0], a[1], now.path); break;
  case SYS_rename: case SYS_link: path_at(AT_FDCWD, a[0], now.other); path_at(AT_FDCWD, a[1], now.path); break;
  case SYS_renameat: case SYS_renameat2: case SYS_linkat:
    path_at(a[0], a[1], now.other);
    path_at(a[2], a[3], now.path);
    break;
  }
  if (!is_watched(now.path) || ends_with(now.path, "-shm")) return 0;
  now.was_there = lstat(now.path, &st) == 0;
  if (now.nr == SYS_rename || now.nr == SYS_renameat || now.nr == SYS_renameat2) {
    if (lstat(now.other, &st) == 0) now.id = id_of(&st);
  }
  return 1;
}

/* Lets the call fail, or write half. */
static void inject(void) {
#ifdef __x86_64__
  struct user_regs_struct regs;
  if (ptrace(PTRACE_GETREGS, now.thread, 0, &regs)) die("PTRACE_GETREGS");
  if (fail_error) regs.orig_rax = -1, regs.rax = -fail_error;
  else regs.rdx = regs.rdx > 1 ? regs.rdx / 2 : regs.rdx;
  if (ptrace(PTRACE_SETREGS, now.thread, 0, &regs)) die("PTRACE_SETREGS");
#else
  struct user_regs_struct regs;
  struct iovec all = {&regs, sizeof regs};
  if (ptrace(PTRACE_GETREGSET, now.thread, NT_PRSTATUS, &all)) die("PTRACE_GETREGSET");
  if (fail_error) {
    int none = -1;
    struct iovec call = {&none, sizeof none};
    if (ptrace(PTRACE_SETREGSET, now.thread, NT_ARM_SYSTEM_CALL, &call)) die("PTRACE_SETREGSET");
    regs.regs[0] = -fail_error;
  } else regs.regs[2] = regs.regs[2] > 1 ? regs.regs[2] / 2 : regs.regs[2];
  if (ptrace(PTRACE_SETREGSET, now.thread, NT_PRSTATUS, &all)) die("PTRACE_SETREGSET");
#endif
  now.failed = fail_error != 0;
}

static void wrote(int fd, uint64_t offset, uint64_t bytes) {
  char link[64], *data = malloc(bytes + 1);
  struct stat st;
  of_fd(link, fd, "fd");
  int file = open(link, O_RDONLY | O_CLOEXEC);
  /* A file that nobody may read is read from memory: there is none among those we look at. */
  if (file < 0 || fstat(file, &st) || pread(file, data, bytes, offset) != (ssize_t)bytes) die("read what was written");
  close(file);
  if (ends_with(now.path, "/marks") && bytes >= 4 && !memcmp(data, "heal", 4)) healed = 1;
  put('W', id_of(&st), offset, offset + bytes, &st, data, bytes);
  free(data);
}

/* Writes down what a call did, by what it answered. */
static void ends(int64_t answer) {
  uint64_t *a = now.args;
  struct stat st;
  if (answer < 0 && answer > -4096) return;
  if (!trace && !(now.nr == SYS_write && ends_with(now.path, "/marks"))) return;
  const char *name = now.path + folder_len + 1;
  switch (now.nr) {
  case SYS_write: case SYS_writev: case SYS_pwrite64: case SYS_pwritev:
    if (answer) wrote((int)a[0], now.offset, answer);
    break;
  case SYS_copy_file_range: case SYS_sendfile:
    if (answer) wrote((int)(now.nr == SYS_sendfile ? a[0] : a[2]), position_of((int)(now.nr == SYS_sendfile ? a[0] : a[2])) - answer, answer);
    break;
  case SYS_fsync: case SYS_fdatasync:
    if (stat_fd((int)a[0], &st)) return;
    put(now.nr == SYS_fsync ? 'S' : 'D', id_of(&st), 0, 0, &st, "", 0);
    break;
  case SYS_msync: put('D', now.id, 0, 0, NULL, "", 0); break;
  case SYS_ftruncate:
    if (stat_fd((int)a[0], &st)) return;
    put('T', id_of(&st), st.st_size, 0, &st, "", 0);
    break;
  case SYS_truncate:
    if (stat(now.path, &st)) return;
    put('T', id_of(&st), st.st_size, 0, &st, "", 0);
    break;
  case SYS_fallocate:
    if (stat_fd((int)a[0], &st)) return;
    put('A', id_of(&st), a[2], a[2] + a[3], &st, "", 0);
    break;
  case SYS_mmap: mapped(answer); break;
  case SYS_open: case SYS_openat: case SYS_creat: {
    uint64_t flags = now.nr == SYS_creat ? O_CREAT | O_TRUNC : now.nr == SYS_open ? a[1] : a[2];
    if (stat_fd((int)answer, &st)) return;
    if ((flags & O_TMPFILE) == O_TMPFILE) put('C', new_id(&st), 0, 0, &st, "", 0);
    else if (flags & O_CREAT && !now.was_there) put('C', new_id(&st), 0, 0, &st, name, strlen(name));
    else if (flags & O_TRUNC) put('T', id_of(&st), 0, 0, &st, "", 0);
    break;
  }
  case SYS_mkdir: case SYS_mkdirat:
    if (lstat(now.path, &st)) return;
    put('M', new_id(&st), 0, 0, &st, name, strlen(name));
    break;
  case SYS_link: case SYS_linkat:
    if (lstat(now.path, &st)) return;
    put('L', id_of(&st), 0, 0, &st, name, strlen(name));
    break;
  case SYS_rename: case SYS_renameat: case SYS_renameat2: {
    char names[2 * PATH_BYTES];
    const char *from = is_watched(now.other) ? now.other + folder_len + 1 : "";
    size_t n = strlen(from) + 1, m = strlen(name);
    memcpy(names, from, n);
    memcpy(names + n, name, m);
    if (lstat(now.path, &st)) return;
    put('R', now.id, 0, 0, &st, names, n + m);
    break;
  }
  case SYS_unlink: case SYS_unlinkat: case SYS_rmdir: put('U', 0, 0, 0, NULL, name, strlen(name)); break;
  }
}

static void go_on(pid_t thread, int how, int signal) {
  if (ptrace(how, thread, 0, signal) && errno != ESRCH) die("go on");
}

static void begin(pid_t thread) {
  struct __ptrace_syscall_info info;
  if (ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof info, &info) < 0) {
    if (errno == ESRCH) return;
    die("PTRACE_GET_SYSCALL_INFO");
  }
  now.thread = thread;
  now.failed = 0;
  now.nr = info.seccomp.nr;
  for (int i = 0; i < 6; i++) now.args[i] = info.seccomp.args[i];
  if (!begins()) {
    now.thread = 0;
    go_on(thread, PTRACE_CONT, 0);
    return;
  }
  if (trace) look_at_maps();
  if (failing && class_of(now.nr) == failing && is_counted(now.path) && !ends_with(now.path, "/marks")) {
    calls++;
    if (!healed && calls >= fail_first && (!fail_last || calls <= fail_last)) inject();
  }
  go_on(thread, PTRACE_SYSCALL, 0);
}

static void next_waiting(void) {
  for (int i = 0; i < threads_len && !now.thread; i++)
    if (threads[i].waits) {
      threads[i].waits = 0;
      begin(threads[i].thread);
    }
}

static int known(pid_t thread) {
  for (int i = 0; i < threads_len; i++)
    if (threads[i].thread == thread) return i;
  return -1;
}

static void filter(void) {
  struct sock_filter code[CALLS_LEN * 2 + 3];
  size_t n = 0;
  code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
  for (size_t i = 0; i < CALLS_LEN; i++) {
    if (CALLS[i].nr < 0 || (CALLS[i].class == READ && failing != READ)) continue;
    code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, CALLS[i].nr, 0, 1);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE);
  }
  code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  struct sock_fprog program = {n, code};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) die("seccomp");
}

int main(int argc, char **argv) {
  if (argc < 6 || !realpath(argv[1], folder)) die("usage: FOLDER TRACE|- FAULT|- ONLY|- PROGRAM ARGUMENTS...");
  folder_len = strlen(folder);
  if (strcmp(argv[2], "-") && !(trace = fopen(argv[2], "wbe"))) die(argv[2]);
  if (strcmp(argv[3], "-")) {
    char name[16];
    unsigned long long first, last;
    if (sscanf(argv[3], "%15[a-z]:%llu:%llu:%d", name, &first, &last, &fail_error) != 4) die(argv[3]);
    for (int i = READ; i <= ROOM; i++)
      if (!strcmp(name, CLASSES[i])) failing = i;
    if (!failing) die(argv[3]);
    fail_first = first, fail_last = last;
  }
  only = argv[4];
  struct stat st;
  if (stat(folder, &st)) die(folder);
  new_id(&st);
  pid_t child = fork();
  if (child < 0) die("fork");
  if (child == 0) {
    if (ptrace(PTRACE_TRACEME, 0, 0, 0)) die("PTRACE_TRACEME");
    raise(SIGSTOP);
    filter();
    execvp(argv[5], argv + 5);
    die(argv[5]);
  }
  int status, code = 125;
  if (waitpid(child, &status, 0) != child) die("waitpid");
  long options = PTRACE_O_TRACESECCOMP | PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
                 PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;
  if (ptrace(PTRACE_SETOPTIONS, child, 0, options)) die("PTRACE_SETOPTIONS");
  threads[threads_len++].thread = child;
  go_on(child, PTRACE_CONT, 0);
  pid_t thread;
  while ((thread = waitpid(-1, &status, __WALL)) > 0) {
    int at = known(thread);
    if (WIFEXITED(status) || WIFSIGNALED(status)) {
      if (thread == child) code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      if (at >= 0) threads[at] = threads[--threads_len];
      if (now.thread == thread) now.thread = 0;
      next_waiting();
      continue;
    }
    int signal = WSTOPSIG(status), event = status >> 16;
    if (at < 0) {
      if (threads_len == THREADS_MAX) die("too many threads");
      at = threads_len++;
      threads[at].thread = thread, threads[at].waits = 0;
      if (signal == SIGSTOP) { go_on(thread, PTRACE_CONT, 0); continue; }
    }
    if (event == PTRACE_EVENT_SECCOMP) {
      if (now.thread) threads[at].waits = 1;
      else begin(thread);
    } else if (signal == (SIGTRAP | 0x80)) {
      struct __ptrace_syscall_info info;
      int told = ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof info, &info) > 0;
      if (told && info.op == PTRACE_SYSCALL_INFO_EXIT && thread == now.thread) {
        if (!now.failed) ends(info.exit.rval);
        now.thread = 0;
        go_on(thread, PTRACE_CONT, 0);
        next_waiting();
      } else go_on(thread, thread == now.thread ? PTRACE_SYSCALL : PTRACE_CONT, 0);
    } else if (event) go_on(thread, thread == now.thread ? PTRACE_SYSCALL : PTRACE_CONT, 0);
    else go_on(thread, thread == now.thread ? PTRACE_SYSCALL : PTRACE_CONT, signal);
  }
  if (trace) look_at_maps();
  if (trace && fclose(trace)) die("write the trace");
  fprintf(stderr, "calls %llu\n", (unsigned long long)calls);
  return code;
}
