-- The main job: write, wait until all of it is in the replica, lose the database, restore it.
.open 'file:@DIR@/app.db?vfs=replvfs&replica=file://@DIR@/backup'
PRAGMA journal_mode=WAL;
CREATE TABLE t(x);
INSERT INTO t VALUES (1), ('two'), (x'03');
SELECT replica_sync() = replica_txid() AS synced;
INSERT INTO t VALUES (4.5);
SELECT replica_sync() > 0;
.open ':memory:'
SELECT replica_restore('file://@DIR@/backup', '@DIR@/copy.db') > 0;
SELECT replica_restore('file://@DIR@/backup', '@DIR@/copy.db');
.open 'file:@DIR@/copy.db'
PRAGMA integrity_check;
SELECT quote(x) FROM t;
