/* Threads of one C program that use one replicated database at once: what `make valgrind` looks at.
**
**     threads_host DB REPLICA EXTENSION ROUNDS
**
** Each round opens a connection in each of three threads. Two write, read and check the WAL, one reads and asks the
** tables and functions of the extension; the last round also restores and verifies. Then every connection closes, which
** ends the worker's work on the database, and the next round opens it again. Everything is checked: a step that fails ends
** the program.
*/
#define _GNU_SOURCE
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WRITERS 2
#define TRANSACTIONS 12

static const char *database, *replica;
static char uri[1024];
static int is_last_round;

static void fail(sqlite3 *db, const char *what) {
  fprintf(stderr, "threads_host: %s: %s\n", what, db ? sqlite3_errmsg(db) : "-");
  exit(1);
}

static void exec(sqlite3 *db, const char *sql) {
  char *error = 0;
  int rc = sqlite3_exec(db, sql, 0, 0, &error);
  if (rc != SQLITE_OK && rc != SQLITE_BUSY) fail(db, sql);
  sqlite3_free(error);
}

static sqlite3 *open_database(void) {
  sqlite3 *db = 0;
  int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI;
  if (sqlite3_open_v2(uri, &db, flags, 0) != SQLITE_OK) fail(db, uri);
  sqlite3_busy_timeout(db, 60000);
  return db;
}

static void *write_rows(void *number) {
  sqlite3 *db = open_database();
  exec(db, number ? "PRAGMA wal_autocheckpoint=3" : "PRAGMA cache_size=10");
  for (int i = 0; i < TRANSACTIONS; i++) {
    exec(db, "BEGIN IMMEDIATE; INSERT INTO t(x) VALUES (randomblob(3000)), (randomblob(300));"
             "UPDATE t SET x = randomblob(200) WHERE id % 7 = 3; COMMIT");
    if (i % 4 == 3) exec(db, "PRAGMA wal_checkpoint(TRUNCATE)");
    if (i == 5) exec(db, "BEGIN; DELETE FROM t; ROLLBACK");
    if (i == 8) exec(db, "SELECT replica_sync(60)");
  }
  if (!number) exec(db, "VACUUM");
  if (sqlite3_close(db) != SQLITE_OK) fail(db, "close");
  return 0;
}

static void *read_rows(void *unused) {
  (void)unused;
  sqlite3 *db = open_database();
  for (int i = 0; i < TRANSACTIONS; i++) {
    exec(db, "SELECT sum(length(x)) FROM t");
    exec(db, "SELECT * FROM replica_status");
    exec(db, "SELECT replica_txid(), replica_error(), replica_debug()");
    usleep(2000);
  }
  exec(db, "SELECT replica_sync(60)");
  if (is_last_round) {
    char sql[2048];
    snprintf(sql, sizeof sql, "SELECT replica_verify('file://%s')", replica);
    exec(db, sql);
    snprintf(sql, sizeof sql, "SELECT replica_restore('file://%s', '%s-restored')", replica, database);
    exec(db, sql);
  }
  if (sqlite3_close(db) != SQLITE_OK) fail(db, "close");
  return 0;
}

static void load(const char *extension) {
  sqlite3 *loader;
  char *error = 0;
  if (sqlite3_open(":memory:", &loader) != SQLITE_OK) fail(loader, "loader");
  sqlite3_db_config(loader, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, (int *)0);
  if (sqlite3_load_extension(loader, extension, 0, &error) != SQLITE_OK) fail(loader, error);
  sqlite3_close(loader);
}

int main(int argc, char **argv) {
  if (argc != 5) return 2;
  database = argv[1];
  replica = argv[2];
  /* An interval that lets the worker seal groups while the threads write. */
  snprintf(uri, sizeof uri, "file:%s?vfs=replvfs&replica=file://%s&replica_levels=1s,2s,4s", database, replica);
  load(argv[3]);
  int rounds = atoi(argv[4]);
  for (int round = 0; round < rounds; round++) {
    is_last_round = round == rounds - 1;
    sqlite3 *first = open_database();
    exec(first, "PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, x BLOB)");
    pthread_t threads[WRITERS + 1];
    for (int i = 0; i < WRITERS; i++) pthread_create(&threads[i], 0, write_rows, i ? &threads[i] : 0);
    pthread_create(&threads[WRITERS], 0, read_rows, 0);
    for (int i = 0; i <= WRITERS; i++) pthread_join(threads[i], 0);
    if (round % 2) exec(first, "PRAGMA journal_mode=DELETE; INSERT INTO t(x) VALUES (randomblob(100))");
    if (sqlite3_close(first) != SQLITE_OK) fail(first, "close");
  }
  printf("%d rounds\n", rounds);
  return 0;
}
