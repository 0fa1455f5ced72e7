-- What is unknown or malformed fails the open with setting, value and what is allowed.
.open 'file:@DIR@/a.db?vfs=replvfs'
.open 'file:@DIR@/a.db?vfs=replvfs&replica=/backup'
.open 'file:@DIR@/a.db?vfs=replvfs&replica=s3://bucket'
.open 'file:@DIR@/a.db?vfs=replvfs&replica=gs://bucket/prefix'
.open 'file:@DIR@/a.db?vfs=replvfs&replica=file://host/b'
.open 'file:@DIR@/a.db?vfs=replvfs&replica=file://@DIR@/b&replica_interval=fast'
.open 'file:@DIR@/a.db?vfs=replvfs&replica=file://@DIR@/b&replica_lease_ttl=1s'
.open 'file:@DIR@/a.db?vfs=replvfs&replica=file://@DIR@/b&region=eu'
.shell ls -A
