-- The functions on a database that is replicated, one that is not, and one that is open for reading only.
SELECT replica_txid();
SELECT replica_sync();
SELECT replica_error();
SELECT count(*) FROM replica_status;
SELECT replica_debug() LIKE 'sqlitereplicate % SQLite 3.%' AS told;
.open 'file:@DIR@/app.db?vfs=replvfs&replica=file://@DIR@/backup&replica_interval=1h'
SELECT replica_txid() IS NULL, replica_error() IS NULL, replica_sync() IS NULL;
SELECT schema, path, replica, role, state, txid, acknowledged_txid, queued_bytes, last_error FROM replica_status;
CREATE TABLE t(x);
SELECT replica_sync(), replica_txid();
SELECT replica_sync(5), replica_sync('5s'), replica_sync(NULL), replica_sync(0.5, 'main');
SELECT state, txid, acknowledged_txid, queued_bytes, last_error FROM replica_status;
SELECT replica_sync('soon');
SELECT replica_sync(-1);
SELECT replica_sync(1, 'aux');
SELECT replica_sync(1, 'main', 3);
ATTACH 'file:@DIR@/other.db?vfs=replvfs&replica=file://@DIR@/backup2' AS aux;
-- ATTACH goes through the VFS of main, and a file without a replica must say so.
ATTACH '@DIR@/plain.db' AS plain;
SELECT replica_error('plain');
ATTACH 'file:@DIR@/plain.db?replica=none' AS plain;
CREATE TABLE aux.t(x);
CREATE TABLE plain.t(x);
INSERT INTO aux.t VALUES (1);
SELECT replica_sync(5, 'aux') > 0, replica_txid('aux') > 0, replica_error('aux') IS NULL;
SELECT replica_sync(5, 'plain');
SELECT replica_txid('nothing');
SELECT schema, state FROM replica_status ORDER BY schema;
-- No statement of a schema, view or trigger may reach outside.
CREATE VIEW v AS SELECT replica_sync();
SELECT * FROM v;
CREATE VIEW w AS SELECT replica_restore('file:///x', '/y');
SELECT * FROM w;
.open 'file:@DIR@/app.db?mode=ro&vfs=replvfs&replica=file://@DIR@/backup&replica_interval=1h'
SELECT count(*) FROM t;
SELECT schema, path, state FROM replica_status;
SELECT replica_sync();
INSERT INTO t VALUES (1);
