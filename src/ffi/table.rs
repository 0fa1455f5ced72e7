//! Read-only SQL tables that are a function from arguments to rows, as safe Rust.
//!
//! `SELECT * FROM name` or `name(argument, ...)`: arguments are hidden columns behind the visible ones. All rows
//! are made when a scan starts. Guarded like functions. Such a table is there without CREATE, on the connection
//! it was registered on. Source: <https://sqlite.org/vtab.html> section 2.1.2, eponymous-only virtual tables.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

use libsqlite3_sys as sys;

use super::api::Api;
use super::guard;
use super::library::Library;
use super::sql::{Connection, Trust, Value, arguments, c_string, destroy, put, refused};
use crate::error::Result;

/// Makes the rows: as many values each as there are visible columns. An argument that was not given is NULL.
pub type TableBody = fn(&Connection<'_>, &[Value]) -> Result<Vec<Vec<Value>>>;

/// What xConnect needs, owned by the module.
struct Definition {
    library: &'static Library,
    schema: std::ffi::CString,
    columns: usize,
    hidden: usize,
    trust: Trust,
    body: TableBody,
}

#[repr(C)]
struct Table {
    base: sys::sqlite3_vtab,
    db: *mut sys::sqlite3,
    definition: *const Definition,
}

#[repr(C)]
struct Cursor {
    base: sys::sqlite3_vtab_cursor,
    arguments: Vec<Value>,
    rows: Vec<Vec<Value>>,
    at: usize,
}

/// Makes the table `name` readable on this connection. Column names are written into SQL as they are.
///
/// # Errors
/// `Io` with SQLite's code.
pub fn register_table(
    connection: &Connection<'_>,
    name: &str,
    columns: &[&str],
    hidden: &[&str],
    trust: Trust,
    body: TableBody,
) -> Result<()> {
    assert!(hidden.len() < 31, "BUG: the arguments given are one bit each of an int");
    let declared: Vec<String> = columns
        .iter()
        .map(|column| format!("\"{column}\""))
        .chain(hidden.iter().map(|argument| format!("\"{argument}\" HIDDEN")))
        .collect();
    let definition = Definition {
        library: connection.library,
        schema: c_string(&format!("CREATE TABLE x({})", declared.join(", ")))?,
        columns: columns.len(),
        hidden: hidden.len(),
        trust,
        body,
    };
    let c_name = c_string(name)?;
    let boxed = Box::into_raw(Box::new(definition)).cast();
    // SAFETY: c3ref/create_module.html; the box goes to `destroy`, which SQLite also calls on failure.
    let rc = unsafe {
        let module = &raw const MODULE;
        let create = connection.api().create_module_v2;
        create(connection.db, c_name.as_ptr(), module, boxed, Some(destroy::<Definition>))
    };
    if rc == sys::SQLITE_OK { Ok(()) } else { Err(refused("table", name, rc)) }
}

static MODULE: sys::sqlite3_module = sys::sqlite3_module {
    iVersion: 1,
    xCreate: None,
    xConnect: Some(connect),
    xBestIndex: Some(best_index),
    xDisconnect: Some(disconnect),
    xDestroy: None,
    xOpen: Some(open),
    xClose: Some(close),
    xFilter: Some(filter),
    xNext: Some(next),
    xEof: Some(eof),
    xColumn: Some(column),
    xRowid: Some(rowid),
    xUpdate: None,
    xBegin: None,
    xSync: None,
    xCommit: None,
    xRollback: None,
    xFindFunction: None,
    xRename: None,
    xSavepoint: None,
    xRelease: None,
    xRollbackTo: None,
    xShadowName: None,
    xIntegrity: None,
};

/// # Safety
/// As sqlite3_module.xConnect, with the auxiliary data of [`register_table`].
unsafe extern "C" fn connect(
    db: *mut sys::sqlite3,
    definition: *mut c_void,
    _: c_int,
    _: *const *const c_char,
    out: *mut *mut sys::sqlite3_vtab,
    _: *mut *mut c_char,
) -> c_int {
    let definition = definition.cast::<Definition>().cast_const();
    // SAFETY: by contract; the definition outlives its tables.
    unsafe {
        let api = (*definition).library.api();
        let rc = (api.declare_vtab)(db, (*definition).schema.as_ptr());
        if rc != sys::SQLITE_OK {
            return rc;
        }
        if (*definition).trust == Trust::DirectOnly {
            (api.vtab_config)(db, sys::SQLITE_VTAB_DIRECTONLY);
        }
        let base = sys::sqlite3_vtab { pModule: ptr::null(), nRef: 0, zErrMsg: ptr::null_mut() };
        *out = Box::into_raw(Box::new(Table { base, db, definition })).cast();
    }
    sys::SQLITE_OK
}

/// # Safety
/// As sqlite3_module.xDisconnect.
unsafe extern "C" fn disconnect(table: *mut sys::sqlite3_vtab) -> c_int {
    // SAFETY: made by `connect`, called once.
    drop(unsafe { Box::from_raw(table.cast::<Table>()) });
    sys::SQLITE_OK
}

/// Takes every argument that is given, in order; idxNum has a bit for each.
///
/// # Safety
/// As sqlite3_module.xBestIndex.
unsafe extern "C" fn best_index(table: *mut sys::sqlite3_vtab, info: *mut sys::sqlite3_index_info) -> c_int {
    // SAFETY: by contract the arrays have nConstraint members.
    unsafe {
        let definition = &*(*table.cast::<Table>()).definition;
        let info = &mut *info;
        let constraints = usize::try_from(info.nConstraint).unwrap_or(0);
        let mut taken = 0;
        for argument in 0..definition.hidden {
            let column = (definition.columns + argument) as c_int;
            for index in 0..constraints {
                let constraint = &*info.aConstraint.add(index);
                if constraint.iColumn != column
                    || c_int::from(constraint.op) != sys::SQLITE_INDEX_CONSTRAINT_EQ
                {
                    continue;
                }
                if constraint.usable == 0 {
                    // An argument from a table that is read later: another order of the join must be tried.
                    return sys::SQLITE_CONSTRAINT;
                }
                taken += 1;
                let usage = &mut *info.aConstraintUsage.add(index);
                (usage.argvIndex, usage.omit) = (taken, 1);
                info.idxNum |= 1 << argument;
                break;
            }
        }
        info.estimatedCost = 1000.0;
    }
    sys::SQLITE_OK
}

/// # Safety
/// As sqlite3_module.xOpen.
unsafe extern "C" fn open(_: *mut sys::sqlite3_vtab, out: *mut *mut sys::sqlite3_vtab_cursor) -> c_int {
    let base = sys::sqlite3_vtab_cursor { pVtab: ptr::null_mut() };
    let cursor = Cursor { base, arguments: Vec::new(), rows: Vec::new(), at: 0 };
    // SAFETY: by contract.
    unsafe { *out = Box::into_raw(Box::new(cursor)).cast() };
    sys::SQLITE_OK
}

/// # Safety
/// As sqlite3_module.xClose.
unsafe extern "C" fn close(cursor: *mut sys::sqlite3_vtab_cursor) -> c_int {
    // SAFETY: made by `open`, called once.
    drop(unsafe { Box::from_raw(cursor.cast::<Cursor>()) });
    sys::SQLITE_OK
}

/// # Safety
/// As sqlite3_module.xFilter.
unsafe extern "C" fn filter(
    cursor: *mut sys::sqlite3_vtab_cursor,
    given: c_int,
    _: *const c_char,
    count: c_int,
    values: *mut *mut sys::sqlite3_value,
) -> c_int {
    // SAFETY: by contract; SQLite set pVtab of a cursor it opened.
    unsafe {
        let table = (*cursor).pVtab.cast::<Table>();
        let cursor = &mut *cursor.cast::<Cursor>();
        let definition = &*(*table).definition;
        let api = definition.library.api();
        let mut values = arguments(api, count, values).into_iter();
        cursor.arguments = (0..definition.hidden)
            .map(
                |bit| {
                    if given & (1 << bit) == 0 { Value::Null } else { values.next().unwrap_or(Value::Null) }
                },
            )
            .collect();
        cursor.at = 0;
        let connection = Connection::new((*table).db, definition.library);
        let made = guard::catch(|| (definition.body)(&connection, &cursor.arguments));
        match made.map_err(|text| text.clone()).and_then(|rows| rows.map_err(|e| e.to_string())) {
            Ok(rows) => {
                cursor.rows = rows;
                sys::SQLITE_OK
            }
            Err(text) => {
                cursor.rows = Vec::new();
                set_error(api, &mut (*table).base, &text);
                sys::SQLITE_ERROR
            }
        }
    }
}

/// # Safety
/// `table` belongs to `api`'s library.
unsafe fn set_error(api: &Api, table: &mut sys::sqlite3_vtab, text: &str) {
    // SAFETY: the old message is NULL or was allocated by SQLite (vtab.html, section 1.2).
    unsafe { (api.free)(table.zErrMsg.cast()) };
    table.zErrMsg = api.c_copy(text);
}

/// # Safety
/// As sqlite3_module.xNext.
unsafe extern "C" fn next(cursor: *mut sys::sqlite3_vtab_cursor) -> c_int {
    // SAFETY: by contract.
    unsafe { (*cursor.cast::<Cursor>()).at += 1 };
    sys::SQLITE_OK
}

/// # Safety
/// As sqlite3_module.xEof.
unsafe extern "C" fn eof(cursor: *mut sys::sqlite3_vtab_cursor) -> c_int {
    // SAFETY: by contract.
    let cursor = unsafe { &*cursor.cast::<Cursor>() };
    c_int::from(cursor.at >= cursor.rows.len())
}

/// # Safety
/// As sqlite3_module.xColumn.
unsafe extern "C" fn column(
    cursor: *mut sys::sqlite3_vtab_cursor,
    context: *mut sys::sqlite3_context,
    index: c_int,
) -> c_int {
    // SAFETY: by contract.
    unsafe {
        let definition = &*(*(*cursor).pVtab.cast::<Table>()).definition;
        let cursor = &*cursor.cast::<Cursor>();
        let index = usize::try_from(index).unwrap_or(0);
        let found = match index.checked_sub(definition.columns) {
            Some(argument) => cursor.arguments.get(argument),
            None => cursor.rows.get(cursor.at).and_then(|row| row.get(index)),
        };
        put(definition.library.api(), context, found.unwrap_or(&Value::Null));
    }
    sys::SQLITE_OK
}

/// # Safety
/// As sqlite3_module.xRowid.
unsafe extern "C" fn rowid(cursor: *mut sys::sqlite3_vtab_cursor, out: *mut i64) -> c_int {
    // SAFETY: by contract.
    unsafe { *out = i64::try_from((*cursor.cast::<Cursor>()).at).unwrap_or(i64::MAX) };
    sys::SQLITE_OK
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::ffi::engine::Engine;

    /// `series(first, last)`: n and its square.
    fn engine() -> Engine {
        let db = Engine::open(":memory:", None).expect("open");
        register_table(
            &db.connection(),
            "series",
            &["n", "square"],
            &["first", "last"],
            Trust::Anywhere,
            |_, given| {
                let [first, last] = given else { panic!("BUG: two arguments") };
                let (Value::Integer(first), Value::Integer(last)) = (first, last) else {
                    return Err(Error::invalid(format!("series({first:?}, {last:?}): give two integers")));
                };
                assert!(*last < 1000, "BUG: on purpose");
                Ok((*first..=*last).map(|n| vec![Value::Integer(n), Value::Integer(n * n)]).collect())
            },
        )
        .expect("register");
        register_table(&db.connection(), "outside", &["x"], &[], Trust::DirectOnly, |_, _| Ok(Vec::new()))
            .expect("register");
        db
    }

    #[test]
    fn arguments_make_the_rows() {
        let db = engine();
        let rows = db.query("SELECT * FROM series(2, 4)").expect("query");
        let expected = [[2, 4], [3, 9], [4, 16]].map(|row| row.map(Value::Integer).to_vec());
        assert_eq!(rows, expected);
        assert!(db.query("SELECT * FROM series(4, 2)").expect("query").is_empty());
        let hidden =
            db.value("SELECT sum(square) + first FROM series WHERE last = 3 AND first = 1").expect("query");
        assert_eq!(hidden, Value::Integer(15));
    }

    #[test]
    fn an_argument_may_come_from_another_table_whatever_the_order_of_the_join() {
        let db = engine();
        db.exec("CREATE TABLE t(a); INSERT INTO t VALUES (1), (2), (3)").expect("fill");
        for sql in [
            "SELECT count(*) FROM t, series(1, t.a)",
            "SELECT count(*) FROM series JOIN t ON last = t.a WHERE first = 1",
        ] {
            assert_eq!(db.value(sql).expect(sql), Value::Integer(6), "{sql}");
        }
    }

    #[test]
    fn a_missing_argument_an_error_and_a_panic_reach_the_application_as_text() {
        let db = engine();
        let error = db.query("SELECT * FROM series(1)").expect_err("one argument").to_string();
        assert!(error.contains("series(Integer(1), Null): give two integers"), "{error}");
        let error = db.query("SELECT * FROM series(1, 1000)").expect_err("panic").to_string();
        assert!(error.contains("BUG: on purpose"), "{error}");
        assert_eq!(db.query("SELECT * FROM series(1, 1)").expect("lives on").len(), 1);
    }

    #[test]
    fn a_table_cannot_be_written_and_one_for_direct_use_is_refused_in_a_view() {
        let db = engine();
        db.exec("INSERT INTO series(n) VALUES (1)").expect_err("must be read-only");
        db.exec("CREATE VIEW v AS SELECT * FROM outside").expect("a view is only text");
        db.exec("SELECT * FROM outside").expect("direct use");
        let error = db.exec("SELECT * FROM v").expect_err("must be refused").to_string();
        assert!(error.contains("unsafe use of virtual table"), "{error}");
    }
}
