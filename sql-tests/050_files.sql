-- The files of a replica, from any connection.
.open 'file:@DIR@/app.db?vfs=replvfs&replica=file://@DIR@/backup&replica_interval=1h'
PRAGMA journal_mode=WAL;
CREATE TABLE t(x);
SELECT replica_sync() = replica_txid();
INSERT INTO t VALUES (1);
SELECT replica_sync() = replica_txid();
.open ':memory:'
.headers on
SELECT level, min_txid, max_txid, size > 100 AS sized, created_at LIKE '20__-__-__T__:__:__%Z' AS dated, page_size, page_count, pre, length(post) AS post
  FROM replica_files('file://@DIR@/backup') ORDER BY level, min_txid LIMIT 1;
.headers off
SELECT count(*) > 1, min(min_txid), count(*) = max(max_txid) FROM replica_files('file://@DIR@/backup');
SELECT count(*) FROM replica_files('file://@DIR@/nothing-here');
SELECT * FROM replica_files;
SELECT * FROM replica_files('nonsense');
CREATE VIEW v AS SELECT * FROM replica_files('file:///etc');
SELECT * FROM v;
