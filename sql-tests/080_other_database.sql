-- One replica, one database.
.open 'file:@DIR@/one.db?vfs=replvfs&replica=file://@DIR@/backup&replica_interval=1h'
CREATE TABLE one(x);
SELECT replica_sync() > 0;
-- At the same time.
ATTACH 'file:@DIR@/two.db?vfs=replvfs&replica=file://@DIR@/backup' AS two;
SELECT replica_error('two');
.shell ls -A
-- Later, with content of its own.
.open 'file:@DIR@/two.db'
CREATE TABLE two(x);
.open 'file:@DIR@/two.db?vfs=replvfs&replica=file://@DIR@/backup&replica_interval=1h'
.open ':memory:'
.shell ls -A
SELECT count(*) FROM replica_files('file://@DIR@/backup');
-- A copy of the file, without its local log, of an earlier state.
.shell cp one.db three.db
.open 'file:@DIR@/one.db?vfs=replvfs&replica=file://@DIR@/backup&replica_interval=1h'
INSERT INTO one VALUES (1);
SELECT replica_sync() > 0;
.open 'file:@DIR@/three.db?vfs=replvfs&replica=file://@DIR@/backup&replica_interval=1h'
.open ':memory:'
.shell ls -A
