/* One writer of bench_commit.py: opens a prepared database, does one kind of work, prints one line of JSON.
**
**     bench_writer prepare  DB JOURNAL ROWS
**     bench_writer WORK     URI SYNCHRONOUS SECONDS COUNT SEED EXTENSION|thread|- FOLDER|-
**
** WORK is insert1, insert100, update, bulk (10,000 rows a transaction) or lag. It stops after COUNT transactions, or
** after SECONDS when COUNT is 0. A C program, because a slower host would hide what the extension costs. Latency is
** that of one whole transaction, BEGIN to COMMIT, by the monotonic clock. `lag` commits one row at a time, and
** after each waits for the file that holds it to appear in FOLDER (a replica's level 0) and then, with the
** extension, for replica_sync(). Everything is checked: a step that fails ends the program.
**
** `thread` in place of an extension starts one thread that does nothing: with a second thread, each system call on a
** file takes a reference to it. That much every library with a thread of its own costs.
*/
#define _GNU_SOURCE
#include <dirent.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
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

#define TEXT_BYTES 100
#define BULK_ROWS 10000
#define SAMPLES_MAX (8u << 20)
#define LTX_NAME_BYTES 37 /* 16 hex digits, '-', 16 hex digits, ".ltx" */
#define LAG_WAIT_MS 20000

static sqlite3 *db;
static uint64_t random_state;

static void fail(const char *what) {
  fprintf(stderr, "bench_writer: %s: %s (%d)\n", what, db ? sqlite3_errmsg(db) : "-",
          db ? sqlite3_extended_errcode(db) : 0);
  exit(1);
}

static void exec(sqlite3 *on, const char *sql) {
  if (sqlite3_exec(on, sql, 0, 0, 0) != SQLITE_OK) fail(sql);
}

static sqlite3_stmt *prepare(const char *sql) {
  sqlite3_stmt *statement;
  if (sqlite3_prepare_v2(db, sql, -1, &statement, 0) != SQLITE_OK) fail(sql);
  return statement;
}

static void step(sqlite3_stmt *statement) {
  int rc = sqlite3_step(statement);
  if (rc != SQLITE_DONE && rc != SQLITE_ROW) fail(sqlite3_sql(statement));
  sqlite3_reset(statement);
}

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static uint64_t next_random(void) { /* xorshift64* */
  random_state ^= random_state >> 12;
  random_state ^= random_state << 25;
  random_state ^= random_state >> 27;
  return random_state * UINT64_C(2685821657736338717);
}

/* Words, because LZ4 finds as little to compress in random digits as nobody's data has. */
static const char *random_text(void) {
  static const char *words[] = {"north ", "harbour ", "invoice ", "seven ", "later ", "customer ", "of ", "the ",
                                "paid ", "no ", "delivery ", "street ", "green ", "by ", "window ", "2026-11-21 "};
  static char text[TEXT_BYTES + 16];
  uint64_t bits = 0;
  for (int at = 0, left = 0; at < TEXT_BYTES; left--, bits >>= 4) {
    if (left <= 0) bits = next_random(), left = 16;
    const char *word = words[bits & 15];
    while (*word && at < TEXT_BYTES) text[at++] = *word++;
  }
  return text;
}

static void bind_row(sqlite3_stmt *statement) {
  sqlite3_bind_int64(statement, 1, (sqlite3_int64)(next_random() >> 1));
  sqlite3_bind_text(statement, 2, random_text(), TEXT_BYTES, SQLITE_TRANSIENT);
}

/* CPU of this process so far in microseconds: all threads, living and dead. */
static int64_t process_cpu_us(void) {
  struct rusage u;
  getrusage(RUSAGE_SELF, &u);
  return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * (int64_t)1000000 + u.ru_utime.tv_usec + u.ru_stime.tv_usec;
}

/* CPU of the threads other than this one, in microseconds, and how many there are. */
static int64_t worker_cpu_us(int *threads) {
  int64_t ns = 0;
  long self = syscall(SYS_gettid);
  DIR *tasks = opendir("/proc/self/task");
  struct dirent *entry;
  *threads = 0;
  while (tasks && (entry = readdir(tasks))) {
    char path[300];
    uint64_t on_cpu = 0;
    if (entry->d_name[0] == '.' || atol(entry->d_name) == self) continue;
    snprintf(path, sizeof path, "/proc/self/task/%s/schedstat", entry->d_name);
    FILE *file = fopen(path, "r");
    if (file && fscanf(file, "%" SCNu64, &on_cpu) == 1) ns += (int64_t)on_cpu;
    if (file) fclose(file);
    ++*threads;
  }
  if (tasks) closedir(tasks);
  return ns / 1000;
}

static long peak_memory_kib(void) {
  char line[256];
  long kib = 0;
  FILE *file = fopen("/proc/self/status", "r");
  while (file && fgets(line, sizeof line, file)) {
    if (sscanf(line, "VmHWM: %ld", &kib) == 1) break;
  }
  if (file) fclose(file);
  return kib;
}

/* Size of the WAL beside the database, 0 when there is none. */
static int64_t wal_bytes(void) {
  struct stat found;
  char *path = sqlite3_mprintf("%s-wal", sqlite3_db_filename(db, "main"));
  int64_t bytes = stat(path, &found) == 0 ? found.st_size : 0;
  sqlite3_free(path);
  return bytes;
}

static int ascending(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return (x > y) - (x < y);
}

/* Sorts, and prints 50th and 99th percentile and maximum, in microseconds. */
static void print_latencies(const char *name, uint32_t *tenth_us, size_t count) {
  qsort(tenth_us, count, sizeof *tenth_us, ascending);
  if (count == 0) return;
  printf(", \"%s\": {\"count\": %zu, \"p50\": %.1f, \"p99\": %.1f, \"max\": %.1f}", name, count,
         tenth_us[count / 2] / 10.0, tenth_us[count * 99 / 100] / 10.0, tenth_us[count - 1] / 10.0);
}

static uint32_t tenths(int64_t ns) { return ns / 100 > UINT32_MAX ? UINT32_MAX : (uint32_t)(ns / 100); }

static int prepare_database(const char *path, const char *journal, int rows) {
  char sql[64];
  if (sqlite3_open(path, &db) != SQLITE_OK) fail("open");
  snprintf(sql, sizeof sql, "PRAGMA journal_mode=%s", journal);
  exec(db, sql);
  exec(db, "CREATE TABLE t(id INTEGER PRIMARY KEY, a INT, b TEXT); BEGIN");
  sqlite3_stmt *insert = prepare("INSERT INTO t(a, b) VALUES (?, ?)");
  for (int i = 0; i < rows; i++) {
    bind_row(insert);
    step(insert);
  }
  sqlite3_finalize(insert);
  exec(db, "COMMIT");
  return sqlite3_close(db) == SQLITE_OK ? 0 : 1;
}

/* The extension stays loaded when the connection that loaded it is closed. */
static void load(const char *extension) {
  sqlite3 *loader;
  char *text = 0;
  if (sqlite3_open(":memory:", &loader) != SQLITE_OK) fail("open :memory:");
  sqlite3_db_config(loader, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, (int *)0);
  if (sqlite3_load_extension(loader, extension, 0, &text) != SQLITE_OK) {
    fprintf(stderr, "bench_writer: load %s: %s\n", extension, text);
    exit(1);
  }
  sqlite3_close(loader);
}

static void *idle(void *argument) {
  pause();
  return argument;
}

/* Waits for the next LTX file in the watched folder. */
static void await_file(int watch) {
  char buffer[64 * (sizeof(struct inotify_event) + 256)] __attribute__((aligned(8)));
  for (;;) {
    struct pollfd ready = {.fd = watch, .events = POLLIN};
    if (poll(&ready, 1, LAG_WAIT_MS) != 1) fail("no new file in the replica");
    ssize_t got = read(watch, buffer, sizeof buffer);
    for (char *at = buffer; got > 0 && at < buffer + got;) {
      struct inotify_event *event = (struct inotify_event *)at;
      if (event->len && strlen(event->name) == LTX_NAME_BYTES && strstr(event->name, ".ltx")) return;
      at += sizeof *event + event->len;
    }
  }
}

/* Forgets files that appeared before the next commit. */
static void forget_files(int watch) {
  char buffer[4096];
  struct pollfd ready = {.fd = watch, .events = POLLIN};
  while (poll(&ready, 1, 0) == 1 && read(watch, buffer, sizeof buffer) > 0) {
  }
}

int main(int argc, char **argv) {
  if (argc == 5 && strcmp(argv[1], "prepare") == 0) {
    random_state = 88172645463325252u;
    return prepare_database(argv[2], argv[3], atoi(argv[4]));
  }
  if (argc != 9) {
    fprintf(stderr, "usage: see the comment on top of bench_writer.c\n");
    return 2;
  }
  const char *work = argv[1], *extension = argv[7], *folder = argv[8];
  double seconds = atof(argv[4]);
  int64_t count = atoll(argv[5]);
  int threaded = strcmp(extension, "thread") == 0;
  int ours = !threaded && strcmp(extension, "-") != 0;
  char sql[64];

  random_state = 88172645463325252u ^ (uint64_t)atoll(argv[6]) * UINT64_C(0x9E3779B97F4A7C15);
  sqlite3_config(SQLITE_CONFIG_URI, 1);
  if (ours) load(extension);
  pthread_t thread;
  if (threaded && pthread_create(&thread, 0, idle, 0) != 0) fail("pthread_create");
  if (sqlite3_open_v2(argv[2], &db, SQLITE_OPEN_READWRITE, 0) != SQLITE_OK) fail("open");
  sqlite3_busy_timeout(db, 60000);
  snprintf(sql, sizeof sql, "PRAGMA synchronous=%s", argv[3]);
  exec(db, sql);
  exec(db, "SELECT count(*) FROM t WHERE id = 1");

  int update = strcmp(work, "update") == 0, lag = strcmp(work, "lag") == 0;
  int rows = strcmp(work, "insert100") == 0 ? 100 : strcmp(work, "bulk") == 0 ? BULK_ROWS : 1;
  sqlite3_int64 ids = 0;
  sqlite3_stmt *begin = prepare("BEGIN"), *commit = prepare("COMMIT"), *sync = 0;
  sqlite3_stmt *write = prepare(update ? "UPDATE t SET a = ?, b = ? WHERE id = ?" : "INSERT INTO t(a, b) VALUES (?, ?)");
  if (update) {
    sqlite3_stmt *max = prepare("SELECT max(id) FROM t");
    if (sqlite3_step(max) != SQLITE_ROW) fail("max(id)");
    ids = sqlite3_column_int64(max, 0);
    sqlite3_finalize(max);
  }
  if (ours) { /* what was there before belongs to nobody's figures */
    sync = prepare("SELECT replica_sync()");
    step(sync);
  }
  int watch = -1;
  if (lag) {
    watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (inotify_add_watch(watch, folder, IN_CREATE | IN_MOVED_TO) < 0) fail(folder);
  }

  uint32_t *latency = malloc(sizeof *latency * SAMPLES_MAX), *lag_file = 0, *lag_sync = 0;
  if (lag) {
    lag_file = malloc(sizeof *lag_file * SAMPLES_MAX);
    lag_sync = malloc(sizeof *lag_sync * SAMPLES_MAX);
  }
  int threads;
  size_t done = 0;
  int64_t worker_before = worker_cpu_us(&threads), cpu_before = process_cpu_us();
  int64_t start = now_ns(), end = start, stop = start + (int64_t)(seconds * 1e9);
  while (done < SAMPLES_MAX && (count ? (int64_t)done < count : end < stop)) {
    if (lag) forget_files(watch);
    int64_t before = now_ns();
    if (rows > 1) step(begin);
    for (int i = 0; i < rows; i++) {
      bind_row(write);
      if (update) sqlite3_bind_int64(write, 3, (sqlite3_int64)(next_random() % (uint64_t)ids) + 1);
      step(write);
    }
    if (rows > 1) step(commit);
    end = now_ns();
    latency[done] = tenths(end - before);
    if (lag) {
      await_file(watch);
      lag_file[done] = tenths(now_ns() - end);
      if (ours) step(sync);
      lag_sync[done] = tenths(now_ns() - end);
      usleep(2000); /* the next commit finds everything idle, as a quiet application's does */
    }
    done++;
  }
  int64_t writer_cpu = process_cpu_us() - cpu_before - (worker_cpu_us(&threads) - worker_before);
  if (ours) step(sync);
  int64_t drained = now_ns();
  int64_t worker_cpu = worker_cpu_us(&threads) - worker_before;
  long memory = peak_memory_kib();
  int64_t wal = wal_bytes();
  sqlite3_finalize(begin);
  sqlite3_finalize(commit);
  sqlite3_finalize(write);
  sqlite3_finalize(sync);
  if (sqlite3_close(db) != SQLITE_OK) fail("close");
  db = 0;
  int64_t cpu = process_cpu_us() - cpu_before;

  printf("{\"transactions\": %zu, \"rows\": %zu, \"seconds\": %.6f, \"drained_seconds\": %.6f", done, done * rows,
         (end - start) / 1e9, (drained - start) / 1e9);
  printf(", \"cpu\": %.6f, \"writer_cpu\": %.6f, \"worker_cpu\": %.6f, \"threads\": %d"
         ", \"memory_kib\": %ld, \"wal_bytes\": %" PRId64,
         cpu / 1e6, writer_cpu / 1e6, worker_cpu / 1e6, threads, memory, wal);
  print_latencies("latency_us", latency, done);
  if (lag) {
    print_latencies("lag_file_us", lag_file, done);
    if (ours) print_latencies("lag_sync_us", lag_sync, done);
  }
  printf("}\n");
  return 0;
}
