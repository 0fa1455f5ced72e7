-- Who may write, where several could: a lease that is asked for, renewed, and handed back.
.open 'file:@DIR@/app.db?vfs=replvfs&replica=file://@DIR@/backup&replica_interval=1h&replica_lease=required&replica_lease_owner=node-a'
CREATE TABLE t(x);
SELECT replica_error();
SELECT holder, epoch, held_by_me FROM replica_lease;
SELECT replica_lease_release();
SELECT replica_lease_renew();
SELECT replica_lease_acquire();
SELECT replica_lease_acquire();
CREATE TABLE t(x);
SELECT schema, holder, url, epoch, held_by_me, renewals FROM replica_lease;
SELECT length(replica_lease_renew());
SELECT renewals FROM replica_lease;
BEGIN IMMEDIATE;
SELECT replica_lease_release();
INSERT INTO t VALUES (1);
COMMIT;
SELECT replica_lease_handover(0);
SELECT epoch, held_by_me FROM replica_lease;
SELECT replica_lease_release();
INSERT INTO t VALUES (2);
SELECT x FROM t;
SELECT holder, epoch, held_by_me FROM replica_lease;
SELECT replica_rejoin();
-- Without a lease nobody is asked, and there is none.
.open 'file:@DIR@/other.db?vfs=replvfs&replica=file://@DIR@/other'
SELECT replica_lease_acquire();
SELECT count(*) FROM replica_lease;
.open 'file:@DIR@/app.db?vfs=replvfs&replica=file://@DIR@/backup&replica_lease=static&replica_lease_primary=node-b&replica_lease_owner=node-a'
INSERT INTO t VALUES (3);
SELECT replica_error();
SELECT holder, held_by_me FROM replica_lease;
