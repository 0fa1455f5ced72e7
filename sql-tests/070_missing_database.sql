-- The database is gone, the replica is not: the three values of replica_if_missing.
.open 'file:@DIR@/app.db?vfs=replvfs&replica=file://@DIR@/backup&replica_interval=1h'
BEGIN;
CREATE TABLE t(x);
INSERT INTO t VALUES ('first life');
COMMIT;
SELECT replica_sync() > 0;
.open ':memory:'
.shell rm -r app.db app.db-replica
.open 'file:@DIR@/app.db?vfs=replvfs&replica=file://@DIR@/backup&replica_interval=1h'
.open ':memory:'
.shell ls -A
.shell touch app.db
.open 'file:@DIR@/app.db?vfs=replvfs&replica=file://@DIR@/backup&replica_interval=1h'
.open ':memory:'
.shell ls -A
.open 'file:@DIR@/app.db?vfs=replvfs&replica=file://@DIR@/backup&replica_if_missing=restore&replica_interval=1h'
SELECT * FROM t;
SELECT state, last_event LIKE 'restored from file://@DIR@/backup at txid %', last_error FROM replica_status;
INSERT INTO t VALUES ('second life');
SELECT replica_sync() > 0;
.open ':memory:'
.shell rm -r app.db app.db-replica
.open 'file:@DIR@/app.db?vfs=replvfs&replica=file://@DIR@/backup&replica_if_missing=continue&replica_interval=1h'
CREATE TABLE u(x);
SELECT replica_sync() > 0;
SELECT name FROM sqlite_schema;
.open ':memory:'
SELECT replica_restore('file://@DIR@/backup', 'copy.db') > 2;
.open copy.db
SELECT name FROM sqlite_schema;
PRAGMA integrity_check;
