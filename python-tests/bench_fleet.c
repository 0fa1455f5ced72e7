/* The application of bench_fleet.py: a fleet of databases in one process, one connection each.
**
**     bench_fleet host   FOLDER COUNT SECONDS SETTLE IDLE EXTENSION|- REPLICA|- OPTIONS
**     bench_fleet watch  FOLDER COUNT
**
** `host` opens FOLDER/db/0000.db and so on (with the extension: through replvfs, each with the replica REPLICA/0000
** and the URI's further OPTIONS), then goes through the phases below. It begins each when it reads a line, and ends it
** with a line of JSON; so that who measures can look, and start a peer, in between.
**
**     open     open, journal_mode=WAL, synchronous=NORMAL, one table, one row; with the extension replica_sync()
**     run      one row a second in each, evenly spread over the second, for SECONDS; then replica_sync() in each
**     reopen   close and open each, with the extension replica_sync(); then nothing for SETTLE seconds
**     idle     nothing, for IDLE seconds: nobody has written since the open, so there is no upkeep to be done either
**     close
**
** FOLDER/commits gets a pair of int64 for each commit of `run`: database, realtime clock in nanoseconds after it
** returned. `watch` prints such a line for each file that appears in FOLDER/replica/0000/ltx/0 and so on: database, the time
** it appeared, the time it says it was made (its modification time), until its input ends. It is a process of its own, so that
** what looking costs is in nobody's figures. A C program, because a slower host would hide what the extension costs.
*/
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <sqlite3.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define DATABASES_MAX 100000
#define LTX_NAME_BYTES 37 /* 16 hex digits, '-', 16 hex digits, ".ltx" */

typedef struct Open {
  sqlite3 *db;
  sqlite3_stmt *insert, *sync;
} Open;

static void fail(const char *what, sqlite3 *db) {
  fprintf(stderr, "bench_fleet: %s: %s (%s)\n", what, db ? sqlite3_errmsg(db) : "-", strerror(errno));
  exit(1);
}

static void exec(sqlite3 *db, const char *sql) {
  if (sqlite3_exec(db, sql, 0, 0, 0) != SQLITE_OK) fail(sql, db);
}

static sqlite3_stmt *prepare(sqlite3 *db, const char *sql) {
  sqlite3_stmt *statement;
  if (sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, 0) != SQLITE_OK) fail(sql, db);
  return statement;
}

static void step(sqlite3_stmt *statement) {
  int rc = sqlite3_step(statement);
  if (rc != SQLITE_DONE && rc != SQLITE_ROW) fail(sqlite3_sql(statement), sqlite3_db_handle(statement));
  sqlite3_reset(statement);
}

static int64_t clock_ns(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void sleep_until(int64_t ns) {
  struct timespec t = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, 0) == EINTR) {
  }
}

static long status_line(const char *key) {
  char line[256];
  long value = -1;
  size_t length = strlen(key);
  FILE *file = fopen("/proc/self/status", "r");
  while (file && fgets(line, sizeof line, file)) {
    if (strncmp(line, key, length) == 0) value = atol(line + length);
  }
  if (file) fclose(file);
  return value;
}

static int entries(const char *path) {
  int count = 0;
  DIR *folder = opendir(path);
  struct dirent *entry;
  while (folder && (entry = readdir(folder))) count += entry->d_name[0] != '.';
  if (folder) closedir(folder);
  return count;
}

typedef struct Cost {
  int64_t at, main_cpu, other_cpu, switches;
} Cost;

/* CPU of this thread and of all others, and how often the others went to sleep, so far. */
static Cost cost(void) {
  Cost cost = {.at = clock_ns(CLOCK_MONOTONIC), .main_cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID)};
  long self = syscall(SYS_gettid);
  DIR *tasks = opendir("/proc/self/task");
  struct dirent *entry;
  while (tasks && (entry = readdir(tasks))) {
    char path[300], line[256];
    uint64_t on_cpu = 0;
    if (entry->d_name[0] == '.' || atol(entry->d_name) == self) continue;
    snprintf(path, sizeof path, "/proc/self/task/%s/schedstat", entry->d_name);
    FILE *file = fopen(path, "r");
    if (file && fscanf(file, "%" SCNu64, &on_cpu) == 1) cost.other_cpu += (int64_t)on_cpu;
    if (file) fclose(file);
    snprintf(path, sizeof path, "/proc/self/task/%s/status", entry->d_name);
    file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
      if (strncmp(line, "voluntary_ctxt_switches:", 24) == 0) cost.switches += atoll(line + 24);
    }
    if (file) fclose(file);
  }
  if (tasks) closedir(tasks);
  return cost;
}

static void report(const char *phase, Cost before, const char *more) {
  Cost after = cost();
  printf("{\"phase\": \"%s\", \"seconds\": %.6f, \"main_cpu\": %.6f, \"worker_cpu\": %.6f, \"switches\": %" PRId64
         ", \"threads\": %d, \"descriptors\": %d, \"rss_kib\": %ld, \"peak_kib\": %ld%s}\n",
         phase, (after.at - before.at) / 1e9, (after.main_cpu - before.main_cpu) / 1e9,
         (after.other_cpu - before.other_cpu) / 1e9, after.switches - before.switches, entries("/proc/self/task"),
         entries("/proc/self/fd"), status_line("VmRSS:"), status_line("VmHWM:"), more);
  fflush(stdout);
}

static void await_line(void) {
  char line[64];
  if (!fgets(line, sizeof line, stdin)) exit(1);
}

/* The extension stays loaded when the connection that loaded it is closed. */
static void load(const char *extension) {
  sqlite3 *loader;
  char *text = 0;
  if (sqlite3_open(":memory:", &loader) != SQLITE_OK) fail("open :memory:", loader);
  sqlite3_db_config(loader, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, (int *)0);
  if (sqlite3_load_extension(loader, extension, 0, &text) != SQLITE_OK) {
    fprintf(stderr, "bench_fleet: load %s: %s\n", extension, text);
    exit(1);
  }
  sqlite3_close(loader);
}

static void open_one(Open *one, const char *folder, int n, const char *replica, const char *options, int is_new) {
  char uri[4096];
  if (replica) {
    snprintf(uri, sizeof uri, "file:%s/db/%04d.db?vfs=replvfs&replica=%s/%04d%s", folder, n, replica, n, options);
  } else {
    snprintf(uri, sizeof uri, "file:%s/db/%04d.db", folder, n);
  }
  int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI;
  if (sqlite3_open_v2(uri, &one->db, flags, 0) != SQLITE_OK) fail(uri, one->db);
  sqlite3_busy_timeout(one->db, 60000);
  exec(one->db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL");
  if (is_new) exec(one->db, "CREATE TABLE t(id INTEGER PRIMARY KEY, a INT, b TEXT)");
  one->insert = prepare(one->db, "INSERT INTO t(a, b) VALUES (?, 'a hundred bytes of text, as a small row may well "
                                 "have: invoice, customer, street, window, delivery, green')");
  if (is_new) step(one->insert);
  else exec(one->db, "SELECT count(*) FROM t");
  one->sync = replica ? prepare(one->db, "SELECT replica_sync()") : 0;
}

static void close_all(Open *fleet, int count) {
  for (int n = 0; n < count; n++) {
    sqlite3_finalize(fleet[n].insert);
    sqlite3_finalize(fleet[n].sync);
    if (sqlite3_close(fleet[n].db) != SQLITE_OK) fail("close", fleet[n].db);
  }
}

static void sync_all(Open *fleet, int count) {
  for (int n = 0; n < count; n++) {
    if (fleet[n].sync) step(fleet[n].sync);
  }
}

static void run(Open *fleet, int count, double seconds, const char *folder) {
  char path[4096];
  size_t commits = (size_t)(seconds * count), done = 0;
  int64_t(*log)[2] = calloc(commits, sizeof *log);
  int64_t late = 0, start = clock_ns(CLOCK_MONOTONIC);
  Cost before = cost();
  for (; done < commits; done++) {
    int64_t at = start + (int64_t)((double)done / count * 1e9), now = clock_ns(CLOCK_MONOTONIC);
    if (now < at) sleep_until(at);
    else if (now - at > late) late = now - at;
    Open *one = &fleet[done % count];
    sqlite3_bind_int64(one->insert, 1, (sqlite3_int64)done);
    step(one->insert);
    log[done][0] = (int64_t)(done % count);
    log[done][1] = clock_ns(CLOCK_REALTIME);
  }
  Cost committed = cost();
  sync_all(fleet, count);
  char more[256];
  snprintf(more, sizeof more,
           ", \"commits\": %zu, \"committing_seconds\": %.6f, \"committing_main_cpu\": %.6f, "
           "\"committing_worker_cpu\": %.6f, \"latest_ms\": %.1f",
           done, (committed.at - before.at) / 1e9, (committed.main_cpu - before.main_cpu) / 1e9,
           (committed.other_cpu - before.other_cpu) / 1e9, late / 1e6);
  /* Who reads the report looks at the file. */
  snprintf(path, sizeof path, "%s/commits", folder);
  FILE *file = fopen(path, "wb");
  if (!file || fwrite(log, sizeof *log, done, file) != done || fclose(file) != 0) fail(path, 0);
  free(log);
  report("run", before, more);
}

static int host(char **arguments) {
  const char *folder = arguments[0], *extension = arguments[5], *options = arguments[7];
  int count = atoi(arguments[1]);
  const char *replica = strcmp(arguments[6], "-") ? arguments[6] : 0;
  if (count < 1 || count > DATABASES_MAX) fail("COUNT", 0);
  sqlite3_config(SQLITE_CONFIG_URI, 1);
  if (strcmp(extension, "-")) load(extension);
  Open *fleet = calloc((size_t)count, sizeof *fleet);
  await_line();
  Cost before = cost();
  for (int n = 0; n < count; n++) open_one(&fleet[n], folder, n, replica, options, 1);
  Cost opened = cost();
  sync_all(fleet, count);
  char more[64];
  snprintf(more, sizeof more, ", \"opening_seconds\": %.6f", (opened.at - before.at) / 1e9);
  report("open", before, more);
  await_line();
  run(fleet, count, atof(arguments[2]), folder);
  await_line();
  before = cost();
  close_all(fleet, count);
  for (int n = 0; n < count; n++) open_one(&fleet[n], folder, n, replica, options, 0);
  sync_all(fleet, count);
  sleep_until(clock_ns(CLOCK_MONOTONIC) + (int64_t)(atof(arguments[3]) * 1e9));
  report("reopen", before, "");
  await_line();
  before = cost();
  sleep_until(before.at + (int64_t)(atof(arguments[4]) * 1e9));
  report("idle", before, "");
  await_line();
  before = cost();
  close_all(fleet, count);
  report("close", before, "");
  return 0;
}

static int watch(const char *folder, int count) {
  char path[4096], buffer[64 * (sizeof(struct inotify_event) + 256)] __attribute__((aligned(8)));
  int watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  int *number = calloc((size_t)count * 2 + 2, sizeof *number);
  for (int n = 0; n < count; n++) {
    snprintf(path, sizeof path, "%s/replica/%04d/ltx/0", folder, n);
    int id = inotify_add_watch(watch, path, IN_MOVED_TO | IN_CREATE);
    if (id < 1 || id > count * 2) fail(path, 0);
    number[id] = n;
  }
  puts("watching");
  fflush(stdout);
  for (;;) {
    struct pollfd ready[] = {{.fd = watch, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
    if (poll(ready, 2, -1) < 1) fail("poll", 0);
    if (ready[1].revents) return 0;
    ssize_t got = read(watch, buffer, sizeof buffer);
    int64_t now = clock_ns(CLOCK_REALTIME);
    for (char *at = buffer; got > 0 && at < buffer + got;) {
      struct inotify_event *event = (struct inotify_event *)at;
      at += sizeof *event + event->len;
      if (!event->len || strlen(event->name) != LTX_NAME_BYTES) continue;
      struct stat found;
      snprintf(path, sizeof path, "%s/replica/%04d/ltx/0/%s", folder, number[event->wd], event->name);
      if (stat(path, &found) != 0) continue;
      int64_t made = (int64_t)found.st_mtim.tv_sec * 1000000000 + found.st_mtim.tv_nsec;
      printf("%d %" PRId64 " %" PRId64 "\n", number[event->wd], now, made);
    }
  }
}

int main(int argc, char **argv) {
  if (argc == 10 && strcmp(argv[1], "host") == 0) return host(argv + 2);
  if (argc == 4 && strcmp(argv[1], "watch") == 0) return watch(argv[2], atoi(argv[3]));
  fprintf(stderr, "usage: see the comment on top of bench_fleet.c\n");
  return 2;
}
