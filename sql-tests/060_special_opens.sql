-- What cannot be replicated says so at the open, and creates nothing.
.open 'file::memory:?vfs=replvfs&replica=file://@DIR@/backup'
.open 'file:app.db?mode=memory&vfs=replvfs&replica=file://@DIR@/backup'
.open 'file:@DIR@/app.db?vfs=replvfs&replica=file:///proc/backup'
.shell touch file && chmod 400 file
.open 'file:@DIR@/app.db?vfs=replvfs&replica=file://@DIR@/file/backup'
.open 'file:@DIR@/app.db?vfs=replvfs&replica=file://@DIR@/file'
.open 'file:@DIR@/app.db?vfs=replvfs&replica=file://@DIR@/b&replica2=file://@DIR@/b'
.open 'file:@DIR@/app.db?vfs=replvfs&replica=file://@DIR@/b&replica_colour=red'
.open 'file:@DIR@/app.db?vfs=replvfs&replica=file://@DIR@/b&replica_log=relative'
.open 'file:@DIR@/app.db?vfs=replvfs&replica=file://@DIR@/b&replica_on_behind=sometimes'
.open 'file:@DIR@/nowhere/app.db?vfs=replvfs&replica=file://@DIR@/b'
.shell ls -A
-- replica=none passes through.
.open 'file:@DIR@/app.db?vfs=replvfs&replica=none'
CREATE TABLE t(x);
SELECT count(*) FROM replica_status;
SELECT replica_sync();
.shell ls -A
-- ATTACH has only SQLite's own words: replica_error() has ours, and nothing is created.
.open ':memory:'
ATTACH 'file:@DIR@/b.db?vfs=replvfs' AS b;
SELECT replica_error();
ATTACH 'file:@DIR@/b.db?vfs=replvfs&replica=file://@DIR@/b&replica_interval=fast' AS b;
SELECT replica_error();
.shell ls -A
