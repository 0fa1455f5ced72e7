/* Forces the interleaving of SQLite's WAL-reset bug (docs/wal-reset.md), with two connections of one thread.
**
**     wal_reset DB EXTENSION|- WRITER_URI CHECKPOINTER_URI lose|corrupt
**
** The default VFS is `paused`, over the built-in one; what loads the extension gets it as its base. It passes every call
** through. Once, when a checkpoint has read the header of the wal-index and found it changed, it lets the other
** connection commit before it goes on: xUnfetch(0, 0) is the call that SQLite makes just there (sqlite3WalCheckpoint in
** wal.c). Then `lose` commits a little more and closes both; `corrupt` commits until the WAL is longer than it was, has
** it checkpointed, and closes both. One line of JSON says what was committed, and what plain SQLite finds afterwards.
*/
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECKPOINT_SLOT 1
#define COMMITS_BEFORE 20
#define COMMITS_AFTER 5

typedef struct {
  sqlite3_file file;
  sqlite3_file *below;
  int in_checkpoint;
} Paused;

static sqlite3_vfs *below_vfs;
static int is_armed, was_reached;
static sqlite3 *writer, *checkpointer;
static int is_lost, committed, frames_now;

static void fail(sqlite3 *db, const char *what) {
  fprintf(stderr, "wal_reset: %s: %s\n", what, db ? sqlite3_errmsg(db) : "-");
  exit(1);
}

static void exec(sqlite3 *db, const char *sql) {
  if (sqlite3_exec(db, sql, 0, 0, 0) != SQLITE_OK) fail(db, sql);
}

static int count_frames(void *unused, sqlite3 *db, const char *schema, int frames) {
  (void)unused, (void)db, (void)schema;
  frames_now = frames;
  return SQLITE_OK;
}

/* The first row of a statement; a text column lasts until the next call. */
static char *text(sqlite3 *db, const char *sql, int column) {
  static char answer[512];
  sqlite3_stmt *statement;
  if (sqlite3_prepare_v2(db, sql, -1, &statement, 0) != SQLITE_OK) fail(db, sql);
  if (sqlite3_step(statement) == SQLITE_ROW)
    snprintf(answer, sizeof answer, "%s", (const char *)sqlite3_column_text(statement, column));
  else
    snprintf(answer, sizeof answer, "%s", sqlite3_errmsg(db));
  sqlite3_finalize(statement);
  return answer;
}

/* One transaction. Where rows are to be lost without a trace, it is one page. */
static void commit(void) {
  exec(writer, is_lost ? "UPDATE counter SET n = n + 1"
                       : "BEGIN; UPDATE counter SET n = n + 1; INSERT INTO t(x) VALUES (hex(randomblob(900))); COMMIT");
  committed++;
}

/* ---- the VFS */

#define BELOW(f) (((Paused *)(f))->below)

static int x_close(sqlite3_file *f) {
  return BELOW(f)->pMethods->xClose(BELOW(f));
}
static int x_read(sqlite3_file *f, void *b, int n, sqlite3_int64 at) {
  return BELOW(f)->pMethods->xRead(BELOW(f), b, n, at);
}
static int x_write(sqlite3_file *f, const void *b, int n, sqlite3_int64 at) {
  return BELOW(f)->pMethods->xWrite(BELOW(f), b, n, at);
}
static int x_truncate(sqlite3_file *f, sqlite3_int64 n) { return BELOW(f)->pMethods->xTruncate(BELOW(f), n); }
static int x_sync(sqlite3_file *f, int flags) { return BELOW(f)->pMethods->xSync(BELOW(f), flags); }
static int x_size(sqlite3_file *f, sqlite3_int64 *n) { return BELOW(f)->pMethods->xFileSize(BELOW(f), n); }
static int x_lock(sqlite3_file *f, int level) { return BELOW(f)->pMethods->xLock(BELOW(f), level); }
static int x_unlock(sqlite3_file *f, int level) { return BELOW(f)->pMethods->xUnlock(BELOW(f), level); }
static int x_reserved(sqlite3_file *f, int *out) { return BELOW(f)->pMethods->xCheckReservedLock(BELOW(f), out); }
static int x_control(sqlite3_file *f, int op, void *a) { return BELOW(f)->pMethods->xFileControl(BELOW(f), op, a); }
static int x_sector(sqlite3_file *f) { return BELOW(f)->pMethods->xSectorSize(BELOW(f)); }
static int x_device(sqlite3_file *f) { return BELOW(f)->pMethods->xDeviceCharacteristics(BELOW(f)); }
static int x_shm_map(sqlite3_file *f, int page, int size, int extend, void volatile **out) {
  return BELOW(f)->pMethods->xShmMap(BELOW(f), page, size, extend, out);
}
static int x_shm_lock(sqlite3_file *f, int first, int n, int flags) {
  int rc = BELOW(f)->pMethods->xShmLock(BELOW(f), first, n, flags);
  if (first == CHECKPOINT_SLOT && n == 1 && (flags & SQLITE_SHM_EXCLUSIVE) && rc == SQLITE_OK)
    ((Paused *)f)->in_checkpoint = (flags & SQLITE_SHM_LOCK) != 0;
  return rc;
}
static void x_barrier(sqlite3_file *f) { BELOW(f)->pMethods->xShmBarrier(BELOW(f)); }
static int x_shm_unmap(sqlite3_file *f, int del) { return BELOW(f)->pMethods->xShmUnmap(BELOW(f), del); }
static int x_fetch(sqlite3_file *f, sqlite3_int64 at, int n, void **out) {
  return BELOW(f)->pMethods->xFetch(BELOW(f), at, n, out);
}
static int x_unfetch(sqlite3_file *f, sqlite3_int64 at, void *page) {
  int rc = BELOW(f)->pMethods->xUnfetch(BELOW(f), at, page);
  if (is_armed && ((Paused *)f)->in_checkpoint && at == 0 && page == 0) {
    is_armed = 0;
    was_reached = 1;
    commit();
  }
  return rc;
}

static const sqlite3_io_methods methods = {
    3,          x_close,    x_read,    x_write,     x_truncate, x_sync,   x_size,  x_lock,   x_unlock, x_reserved,
    x_control,  x_sector,   x_device,  x_shm_map,   x_shm_lock, x_barrier, x_shm_unmap, x_fetch, x_unfetch,
};

static int v_open(sqlite3_vfs *v, const char *name, sqlite3_file *f, int flags, int *out) {
  (void)v;
  Paused *paused = (Paused *)f;
  paused->below = (sqlite3_file *)&paused[1];
  int rc = below_vfs->xOpen(below_vfs, name, paused->below, flags, out);
  f->pMethods = paused->below->pMethods ? &methods : 0;
  return rc;
}
static int v_delete(sqlite3_vfs *v, const char *n, int sync) { (void)v; return below_vfs->xDelete(below_vfs, n, sync); }
static int v_access(sqlite3_vfs *v, const char *n, int how, int *out) {
  (void)v;
  return below_vfs->xAccess(below_vfs, n, how, out);
}
static int v_path(sqlite3_vfs *v, const char *n, int size, char *out) {
  (void)v;
  return below_vfs->xFullPathname(below_vfs, n, size, out);
}
static void *v_dlopen(sqlite3_vfs *v, const char *n) { (void)v; return below_vfs->xDlOpen(below_vfs, n); }
static void v_dlerror(sqlite3_vfs *v, int n, char *out) { (void)v; below_vfs->xDlError(below_vfs, n, out); }
static void (*v_dlsym(sqlite3_vfs *v, void *h, const char *n))(void) { (void)v; return below_vfs->xDlSym(below_vfs, h, n); }
static void v_dlclose(sqlite3_vfs *v, void *h) { (void)v; below_vfs->xDlClose(below_vfs, h); }
static int v_random(sqlite3_vfs *v, int n, char *out) { (void)v; return below_vfs->xRandomness(below_vfs, n, out); }
static int v_sleep(sqlite3_vfs *v, int us) { (void)v; return below_vfs->xSleep(below_vfs, us); }
static int v_time(sqlite3_vfs *v, double *out) { (void)v; return below_vfs->xCurrentTime(below_vfs, out); }
static int v_error(sqlite3_vfs *v, int n, char *out) { (void)v; return below_vfs->xGetLastError(below_vfs, n, out); }
static int v_time64(sqlite3_vfs *v, sqlite3_int64 *out) { (void)v; return below_vfs->xCurrentTimeInt64(below_vfs, out); }

static void register_vfs(void) {
  static sqlite3_vfs paused;
  below_vfs = sqlite3_vfs_find(0);
  paused = (sqlite3_vfs){.iVersion = 2,
                         .szOsFile = (int)sizeof(Paused) + below_vfs->szOsFile,
                         .mxPathname = below_vfs->mxPathname,
                         .zName = "paused",
                         .xOpen = v_open,
                         .xDelete = v_delete,
                         .xAccess = v_access,
                         .xFullPathname = v_path,
                         .xDlOpen = v_dlopen,
                         .xDlError = v_dlerror,
                         .xDlSym = v_dlsym,
                         .xDlClose = v_dlclose,
                         .xRandomness = v_random,
                         .xSleep = v_sleep,
                         .xCurrentTime = v_time,
                         .xGetLastError = v_error,
                         .xCurrentTimeInt64 = v_time64};
  sqlite3_vfs_register(&paused, 1);
}

/* ---- the interleaving */

static sqlite3 *open_database(const char *uri) {
  sqlite3 *db = 0;
  int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI;
  if (sqlite3_open_v2(uri, &db, flags, 0) != SQLITE_OK) fail(db, uri);
  exec(db, "PRAGMA wal_autocheckpoint=0");
  return db;
}

static void load(const char *extension) {
  sqlite3 *loader;
  char *error = 0;
  if (sqlite3_open(":memory:", &loader) != SQLITE_OK) fail(loader, "loader");
  sqlite3_db_config(loader, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, (int *)0);
  if (sqlite3_load_extension(loader, extension, 0, &error) != SQLITE_OK) {
    fprintf(stderr, "wal_reset: cannot load %s: %s\n", extension, error);
    exit(1);
  }
  sqlite3_close(loader);
}

int main(int argc, char **argv) {
  if (argc != 6) {
    fprintf(stderr, "usage: wal_reset DB EXTENSION|- WRITER_URI CHECKPOINTER_URI lose|corrupt\n");
    return 2;
  }
  is_lost = strcmp(argv[5], "lose") == 0;
  register_vfs();
  if (strcmp(argv[2], "-") != 0) load(argv[2]);
  writer = open_database(argv[3]);
  exec(writer, "PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT); CREATE INDEX i ON t(x);"
               "CREATE TABLE counter(n INTEGER); INSERT INTO counter VALUES (0)");
  sqlite3_wal_hook(writer, count_frames, 0);
  checkpointer = open_database(argv[4]);
  for (int i = 0; i < COMMITS_BEFORE; i++) commit();
  text(checkpointer, "SELECT n FROM counter", 0);
  commit(); /* so that the checkpointer finds the header changed */
  int frames = atoi(text(writer, "PRAGMA wal_checkpoint(PASSIVE)", 1)); /* all of them copied */

  is_armed = 1;
  text(checkpointer, "PRAGMA wal_checkpoint(PASSIVE)", 0); /* the writer commits while this is under way */
  if (!was_reached) fail(checkpointer, "the checkpoint never came to where it is to be paused");
  if (is_lost) {
    for (int i = 0; i < COMMITS_AFTER; i++) commit();
  } else {
    while (frames_now <= frames + 20) commit();
    text(writer, "PRAGMA wal_checkpoint(TRUNCATE)", 0);
  }
  if (sqlite3_close(checkpointer) != SQLITE_OK || sqlite3_close(writer) != SQLITE_OK) fail(writer, "close");

  sqlite3 *plain = 0;
  if (sqlite3_open_v2(argv[1], &plain, SQLITE_OPEN_READWRITE, 0) != SQLITE_OK) fail(plain, argv[1]);
  int found = atoi(text(plain, "SELECT n FROM counter", 0));
  printf("{\"sqlite\": \"%s\", \"committed\": %d, \"found\": %d, ", sqlite3_libversion(), committed, found);
  printf("\"integrity\": \"%s\"}\n", strtok(text(plain, "PRAGMA integrity_check", 0), "\n"));
  sqlite3_close(plain);
  return 0;
}
