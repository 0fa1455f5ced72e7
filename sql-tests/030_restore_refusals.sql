-- A restore never touches what is there, and says what is in the way.
.open 'file:@DIR@/app.db?vfs=replvfs&replica=file://@DIR@/backup&replica_interval=0'
CREATE TABLE t(x);
SELECT replica_sync() > 0;
SELECT replica_restore('file://@DIR@/backup', '@DIR@/app.db');
.open ':memory:'
.shell touch stale.db-wal stale2.db-journal stale3.db-shm
SELECT replica_restore('file://@DIR@/backup', '@DIR@/stale.db');
SELECT replica_restore('file://@DIR@/backup', '@DIR@/stale2.db');
SELECT replica_restore('file://@DIR@/backup', '@DIR@/stale3.db');
SELECT replica_restore('file://@DIR@/backup', '@DIR@/nowhere/app.db');
SELECT replica_restore('file://@DIR@/none', '@DIR@/copy.db');
SELECT replica_restore('file://@DIR@/none', '@DIR@/copy.db', '{"if_replica_exists": true}') IS NULL AS nothing_to_restore;
SELECT replica_restore('file://@DIR@/backup', '@DIR@/copy.db', '{"txid": 99}');
SELECT replica_restore('file://@DIR@/backup', '@DIR@/copy.db', '{"txid": "2"}');
SELECT replica_restore('file://@DIR@/backup', '@DIR@/copy.db', '{"txid": 0}');
SELECT replica_restore('file://@DIR@/backup', '@DIR@/copy.db', '{"timestamp": "soon"}');
SELECT replica_restore('file://@DIR@/backup', '@DIR@/copy.db', '{"force": true}');
SELECT replica_restore('file://@DIR@/backup', '@DIR@/copy.db', 'newest');
SELECT replica_restore('gs://bucket/prefix', '@DIR@/copy.db');
SELECT replica_restore('@DIR@/backup', '@DIR@/copy.db');
SELECT replica_restore(NULL, '@DIR@/copy.db');
SELECT replica_restore('file://@DIR@/backup', '');
.shell ls -A
-- A txid is an integer, or a text of 16 hex digits.
SELECT replica_restore('file://@DIR@/backup', '@DIR@/one.db', '{"txid": "0000000000000001"}');
SELECT replica_restore('file://@DIR@/backup', '@DIR@/again.db', '{"txid": 1}');
