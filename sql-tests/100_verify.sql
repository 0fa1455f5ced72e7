-- Proof that a replica restores, from any connection.
.open 'file:@DIR@/app.db?vfs=replvfs&replica=file://@DIR@/backup&replica_interval=1h'
CREATE TABLE t(x);
INSERT INTO t VALUES (1);
SELECT replica_sync() = replica_txid();
SELECT replica_verify('file://@DIR@/backup') = replica_txid();
INSERT INTO t VALUES (2);
SELECT replica_sync() = replica_txid();
.open ':memory:'
SELECT replica_verify('file://@DIR@/backup') > 1;
.shell for file in backup/ltx/0/*; do printf x >> $file; done
SELECT replica_verify('file://@DIR@/backup');
SELECT replica_verify('file://@DIR@/nothing-here');
.shell mkdir empty
SELECT replica_verify('file://@DIR@/empty');
SELECT replica_verify('nonsense');
SELECT replica_verify(1);
SELECT replica_verify();
CREATE VIEW v AS SELECT replica_verify('file:///etc');
SELECT * FROM v;
