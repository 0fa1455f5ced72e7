-- Three states at three times, each a txid of its own, and how to get back to each.
.open 'file:@DIR@/app.db?vfs=replvfs&replica=file://@DIR@/backup&replica_interval=0'
CREATE TABLE t(x);
SELECT replica_sync();
.shell sleep 0.01
INSERT INTO t VALUES ('two');
SELECT replica_sync();
.shell sleep 0.01
INSERT INTO t VALUES ('three');
SELECT replica_sync();
.open ':memory:'
.headers on
SELECT txid, timestamp LIKE '20__-__-__T__:__:__.___Z' AS dated, level, snapshot_txid FROM replica_restore_points('file://@DIR@/backup');
.headers off
SELECT min(txid), max(txid), count(DISTINCT timestamp), min(timestamp) < max(timestamp) FROM replica_restore_points('file://@DIR@/backup');
-- A time is inclusive: that of txid 2 gives txid 2.
SELECT replica_restore('file://@DIR@/backup', '@DIR@/two.db', json_object('timestamp', timestamp)) FROM replica_restore_points('file://@DIR@/backup') WHERE txid = 2;
SELECT replica_error();
-- So does the time just before that of txid 3.
SELECT replica_restore('file://@DIR@/backup', '@DIR@/also.db', json_object('timestamp', strftime('%Y-%m-%dT%H:%M:%fZ', timestamp, '-0.001 seconds'))) FROM replica_restore_points('file://@DIR@/backup') WHERE txid = 3;
-- What is later than everything is the newest, and said.
SELECT replica_restore('file://@DIR@/backup', '@DIR@/later.db', '{"timestamp": "2099-01-01T00:00:00"}');
SELECT replica_error() LIKE '2099-01-01T00:00:00 has no time zone and was taken as UTC: 2099-01-01T00:00:00.000Z; 2099-01-01T00:00:00.000Z is later than the newest state of the replica, that of 20%, txid 3 (0000000000000003)';
SELECT replica_restore('file://@DIR@/backup', '@DIR@/now.db', '{"timestamp": "0 seconds ago"}');
-- What is no time is refused, and so are two targets at once.

SELECT replica_restore('file://@DIR@/backup', '@DIR@/no.db', '{"timestamp": "yesterday"}');
SELECT replica_restore('file://@DIR@/backup', '@DIR@/no.db', '{"timestamp": 1700000000}');
SELECT replica_restore('file://@DIR@/backup', '@DIR@/no.db', '{"timestamp": "1 h ago", "txid": 1}');
SELECT * FROM replica_restore_points;
SELECT * FROM replica_restore_points('file://@DIR@/nothing-here');
.open two.db
SELECT * FROM t;
.open also.db
SELECT * FROM t;
