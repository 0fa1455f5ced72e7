"""The files of SQLite's test suite that exercise a VFS, and what of them cannot be as on the plain VFS."""

import re

# About a second or less each on the plain VFS.
FAST = """
e_wal e_walauto e_walckpt e_walhook nockpt shmlock snapshot snapshot2 snapshot3 snapshot4 snapshot_up superlock wal
wal2 wal4 wal5 wal6 wal64k wal7 wal8 wal9 walbak walbig walckptnoop walcksum walfault2 walhook walmode walnoshm
waloverwrite walpersist walprotocol2 walrestart walro walro2 walrofault walshared
crash8 zerodamage
autovacuum_ioerr2 cffault dbpagefault diskfull ioerr3 ioerr4 mmapfault pagerfault3 rollbackfault sysfault
busy exclusive exclusive2 external_reader lock lock2 lock3 lock4 lock5 lock7 nolock pendingrace rowallock
shared shared2 shared3 shared4 shared6 shared7 shared8 shared9 sharedA sharedB sharedlock syscall thread1 thread2
unixexcl notify1 notify3
mmap1 mmap2 mmap3 mmapcorrupt mmapwarm
corrupt2 corrupt4 corrupt6 corrupt7 corrupt8 corrupt9 corruptA corruptB corruptD corruptE corruptF corruptG corruptH
corruptI corruptJ corruptK corruptL corruptM corruptN dbfuzz001
autovacuum autovacuum2 backup backup2 backup4 backup5 incrvacuum incrvacuum2 vacuum vacuum-into vacuum2
vacuum4 vacuum5
attach attach2 attach3 attach4 bigfile bigfile2 bigrow cacheflush cachespill chunksize close dataversion1 dbpage
dbstatus dbstatus2 delete_db e_blobclose e_blobwrite e_uri e_vacuum fallocate filectrl filefmt incrblob incrblob2
incrblob3 io journal1 journal2 journal3 jrnlmode jrnlmode2 jrnlmode3 loadext loadext2 manydb memdb1 memjournal
mjournal multiplex multiplex2 openv2 pager1 pager2 pager3 pager4 pagesize pcache2 pragma pragma2 pragma3 quota rdonly
readonly reservebytes resetdb rollback rollback2 savepoint savepoint5 savepoint7 securedel shortread1
shrink stat subjournal symlink sync sync2 tempdb tempdb2 temptable tkt3457 tkt35xx tkt-313723c356 tkt-5d863f876e
tkt-9d68c883 tkt-f3e5abed55 trans3 uri cksumvfs
""".split()

SLOW = """
wal3 walcrash walcrash2 walcrash4 walfault walprotocol walvfs walsetlk2 walsetlk3 walsetlk_recover walsetlk_snapshot
crash crash2 crash3 crash4 crash6 crash7 writecrash incrblob_err incrvacuum_ioerr ioerr ioerr2 misc7 busy2 thread001 thread002
trans2 notify2 mmap4 corrupt corruptC vacuum3 incrvacuum3 savepoint2 oserror avtrans temptable2 trans
""".split()

SHORT = FAST + SLOW

MORE = """
autoindex1 attachmalloc backcompat backup_malloc cache capi3 capi3b capi3c capi3d capi3e conflict3 corrupt5 coveridxscan
ctime date e_blobbytes e_blobopen existsfault extension01 fkey_malloc func gcfault hook hook2 incrblob4 incrblobfault index
init insert interrupt interrupt2 lookaside malloc3 mallocA mallocH mallocI mallocK memdb memdb2 memjournal2 memsubsys1
memsubsys2 malloc misuse multiplex4 mutex1 mutex2 pragma4 pragma5 pragma6 pragmafault ptrchng queryonly quota-glob quota2
savepoint4 savepointfault securedel2 select1 shared_err sidedelete snapshot_fault softheap1 sort sort4 sqllimits1 statfault
stmt table tclsqlite tempfault temptable3 temptrigger thread004 thread005 thread3 tkt-3a77c9714e tkt2565 tkt3093 update
vacuum6 vtab_shared vacuummem walseh1 walsetlk walslow crash9
""".split()

MEDIUM = SHORT + MORE

LONG = MEDIUM + "walthread savepoint6 thread003 pagerfault2 pagerfault backup_ioerr walcrash3 sortfault".split()

# With replicas, in every test run: each journal mode, checkpoints, vacuum, attached and replaced files, a second process.
REPLICAS_SMALL = """
wal wal2 walpersist walrestart crash8 exclusive2 lock attach delete_db corrupt2 vacuum incrvacuum2 backup pager2 jrnlmode
rollback trans3 savepoint mjournal journal1 pagesize tempdb
""".split()

# Its number of tests is the number of iterations that a random crash point allowed.
RANDOM_COUNT = {"crash"}

# What is not as on the plain VFS when a database has a replica, and why.
DIFFER = {
    # The suite counts the open files of the unix VFS. One more is ours: the handle we read the database with (it must not be
    # another descriptor, whose close would drop SQLite's locks).
    "exclusive": ["exclusive-5.1", "exclusive-5.2", "exclusive-5.3", "exclusive-5.4", "exclusive-5.5", "exclusive-5.7"],
    "tempdb": ["tempdb-2.2", "tempdb-2.3"],
    # The suite counts fsyncs of the unix VFS. The last close has one more: it leaves a mark that the file is as it was, and
    # the mark outlasts a loss of power, so the file must (docs/at-open.md).
    "wal2": ["wal2-14.1.5", "wal2-14.2.5", "wal2-14.3.5"],
    # They open a folder, or a file in a folder that is not there. Our refusal says why through an automatic extension, which the
    # suite has taken away: the open succeeds and the first statement fails.
    "misc7": ["misc7-4"],
    "oserror": ["oserror-1.2.1", "oserror-1.2.2", "oserror-1.3.1", "oserror-1.3.2"],
    "capi3": ["capi3-3.3", "capi3-3.4", "capi3-4.3", "capi3-4.4"],
    "capi3c": ["capi3c-3.3", "capi3c-3.4", "capi3c-4.3", "capi3c-4.4"],
}
# It ends where an open fails otherwise than for want of memory: an allocation that fails in our part of an open refuses it, and
# without automatic extensions nothing says why.
NOT_WITH_REPLICAS = {"malloc3"}


def is_expected(name, failure):
    """Whether a test may fail where a database has a replica. `do_ioerr_test` fails its step 3 where a fault was met and the
    statement succeeded all the same: then a read of our worker met it. In `attachmalloc` an allocation fails in our part of an
    open, as in those of NOT_WITH_REPLICAS."""
    is_allocation = name == "attachmalloc" and re.fullmatch(r"attachmalloc-\d+\.transient\.\d+", failure)
    is_step_3 = counts_faults(name) and re.fullmatch(r".*\.\d+\.3", failure)
    return failure in DIFFER.get(name, ()) or is_allocation or is_step_3


def counts_faults(name):
    """Such a file repeats a test until no fault of the unix VFS, or of SQLite's allocator, is left to inject. Our worker's
    reads go through that VFS, too, and take some of them: how many repetitions there are is as good as random. `misc7` and
    `oserror` also open files until no descriptor is left, and ours takes more of them; `vacuum3` injects faults without saying so."""
    return name in ("misc7", "oserror", "vacuum3") or any(word in name for word in ("ioerr", "fault", "malloc", "_err", "diskfull"))
