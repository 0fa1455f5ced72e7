//! SQL values, connections and scalar functions, as safe Rust.
//!
//! A function gets its arguments as [`Value`]s and answers one. It is guarded: a panic becomes an SQL error, as
//! every other error does. What is registered on a connection lives until it closes.
//! Source: <https://sqlite.org/appfunc.html>.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::path::PathBuf;
use std::ptr;
use std::slice;
use std::sync::Arc;

use libsqlite3_sys as sys;

use super::api::Api;
use super::base::path_of;
use super::hooks::MainHooks;
use super::library::{LIBRARIES_MAX, Library};
use super::{file, file_of_main, guard};
use crate::error::{Error, Result};

/// One SQL value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Integer(i64),
    Real(f64),
    /// Text that is not UTF-8 comes in with replacement characters.
    Text(String),
    Blob(Vec<u8>),
}

impl From<i64> for Value {
    fn from(value: i64) -> Value {
        Value::Integer(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Value {
        Value::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Value {
        Value::Text(value)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

/// The connection that calls us, for the time of that call.
pub struct Connection<'a> {
    pub(super) db: *mut sys::sqlite3,
    pub(super) library: &'static Library,
    call: PhantomData<&'a ()>,
}

impl Connection<'_> {
    /// # Safety
    /// `db` is a connection of `library` that this thread may use for `'a`.
    pub(super) unsafe fn new<'a>(db: *mut sys::sqlite3, library: &'static Library) -> Connection<'a> {
        Connection { db, library, call: PhantomData }
    }

    pub(super) fn api(&self) -> &'static Api {
        self.library.api()
    }

    /// The version of the SQLite that calls us, as `3.53.2`.
    #[must_use]
    pub fn sqlite_version(&self) -> String {
        let number = self.version_number();
        format!("{}.{}.{}", number / 1_000_000, number / 1000 % 1000, number % 1000)
    }

    fn version_number(&self) -> c_int {
        // SAFETY: takes no argument.
        unsafe { (self.api().libversion_number)() }
    }

    /// Nobody began a transaction by name.
    #[must_use]
    pub fn is_autocommit(&self) -> bool {
        // SAFETY: c3ref/get_autocommit.html.
        unsafe { (self.api().get_autocommit)(self.db) != 0 }
    }

    /// A line of the kind SQLITE_NOTICE in the application's sqlite3_log.
    pub fn notice(&self, text: &str) {
        self.api().write_log(sys::SQLITE_NOTICE, text);
    }

    /// `main`, `temp` if it is in use, and the attached schemas, in SQLite's order.
    ///
    /// # Errors
    /// `Io` should SQLite refuse `PRAGMA database_list`.
    pub fn schemas(&self) -> Result<Vec<String>> {
        let refused = || Error::new(crate::error::Kind::Io, "cannot list the schemas of this connection");
        let mut statement: *mut sys::sqlite3_stmt = ptr::null_mut();
        let mut names = Vec::new();
        // SAFETY: c3ref/prepare.html; column 1 is the name, NUL-terminated; finalized once.
        unsafe {
            let sql = c"PRAGMA database_list".as_ptr();
            let rc = (self.api().prepare_v2)(self.db, sql, -1, &raw mut statement, ptr::null_mut());
            if rc != sys::SQLITE_OK {
                return Err(refused());
            }
            while (self.api().step)(statement) == sys::SQLITE_ROW {
                let name = (self.api().column_text)(statement, 1);
                if !name.is_null() {
                    names.push(CStr::from_ptr(name.cast()).to_string_lossy().into_owned());
                }
            }
            let rc = (self.api().finalize)(statement);
            if rc == sys::SQLITE_OK { Ok(names) } else { Err(refused()) }
        }
    }

    /// Reads from a schema's database once, so that SQLite recovers and maps what lies beside its file. A
    /// database that cannot be read stays as it is.
    pub fn read_once(&self, schema: &str) {
        let sql = format!("PRAGMA \"{}\".data_version", schema.replace('"', "\"\""));
        let Ok(sql) = CString::new(sql) else { return };
        let mut statement: *mut sys::sqlite3_stmt = ptr::null_mut();
        // SAFETY: c3ref/prepare.html; finalized once, NULL when it could not be prepared.
        unsafe {
            let rc = (self.api().prepare_v2)(self.db, sql.as_ptr(), -1, &raw mut statement, ptr::null_mut());
            if rc == sys::SQLITE_OK {
                (self.api().step)(statement);
                (self.api().finalize)(statement);
            }
        }
    }

    /// The hooks of a schema's database; `None` for an unknown schema and for a database we do not follow.
    #[must_use]
    pub fn main_hooks(&self, schema: &str) -> Option<Arc<dyn MainHooks>> {
        let schema = CString::new(schema).ok()?;
        // SAFETY: the connection is ours for this call, so its mutex is held or it is used by one thread.
        unsafe { file::main_hooks(file_of_main(self.api(), self.db, &schema)) }
    }

    /// The path of a schema's database; `None` for an unknown schema, in-memory and temporary databases.
    #[must_use]
    pub fn path(&self, schema: &str) -> Option<PathBuf> {
        let schema = CString::new(schema).ok()?;
        // SAFETY: c3ref/db_filename.html; copied at once.
        let path = unsafe { path_of((self.api().db_filename)(self.db, schema.as_ptr())) }?;
        (!path.as_os_str().is_empty()).then(|| path.to_owned())
    }
}

/// One call of a scalar function.
pub struct Call<'a> {
    connection: Connection<'a>,
    arguments: Vec<Value>,
}

impl<'a> Call<'a> {
    #[must_use]
    pub fn connection(&self) -> &Connection<'a> {
        &self.connection
    }

    /// As many as the caller gave, within what was registered.
    #[must_use]
    pub fn arguments(&self) -> &[Value] {
        &self.arguments
    }
}

/// Who may call a function or read a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It changes something outside the database, or reads what a schema must not reach: never from within
    /// views, triggers, indexes (SQLITE_DIRECTONLY).
    DirectOnly,
    Anywhere,
}

pub type ScalarBody = fn(&Call<'_>) -> Result<Value>;

struct Function {
    body: ScalarBody,
}

/// Makes `name` a function of `min..=max` arguments on this connection.
///
/// # Errors
/// `Io` with SQLite's code.
pub fn register_function(
    connection: &Connection<'_>,
    name: &str,
    min: u8,
    max: u8,
    trust: Trust,
    body: ScalarBody,
) -> Result<()> {
    let c_name = c_string(name)?;
    let direct_only = if trust == Trust::DirectOnly { direct_only(connection.version_number()) } else { 0 };
    for arguments in min..=max {
        let function = Box::into_raw(Box::new(Function { body }));
        // SAFETY: c3ref/create_function.html; the box goes to `destroy`, which SQLite also calls on failure.
        let rc = unsafe {
            (connection.api().create_function_v2)(
                connection.db,
                c_name.as_ptr(),
                c_int::from(arguments),
                sys::SQLITE_UTF8 | direct_only,
                function.cast(),
                Some(CALLS[connection.library.slot()]),
                None,
                None,
                Some(destroy::<Function>),
            )
        };
        if rc != sys::SQLITE_OK {
            return Err(refused("function", name, rc));
        }
    }
    Ok(())
}

/// What keeps a function from being called by a schema.
///
/// SQLite 3.40 enforces SQLITE_DIRECTONLY in a CHECK constraint for deterministic functions only, 3.53 for all (`resolve.c`:
/// where it notes that a call comes from a schema). Nothing is computed ahead for that word: a call with constant arguments
/// is made when it is reached, once in a run of its statement. SQLite before 3.34 would make it before the first row, wanted
/// or not: there a constraint stays a way in.
fn direct_only(sqlite_version: c_int) -> c_int {
    const MADE_WHEN_REACHED: c_int = 3_034_000;
    let once = if sqlite_version >= MADE_WHEN_REACHED { sys::SQLITE_DETERMINISTIC } else { 0 };
    sys::SQLITE_DIRECTONLY | once
}

pub(super) fn refused(what: &str, name: &str, rc: c_int) -> Error {
    Error::new(crate::error::Kind::Io, format!("cannot register the {what} {name}: code {rc}"))
}

pub(super) fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::invalid(format!("{text:?} holds a zero byte")))
}

/// # Safety
/// `boxed` came from `Box::<T>::into_raw`; called once.
pub(super) unsafe extern "C" fn destroy<T>(boxed: *mut c_void) {
    // SAFETY: by contract.
    drop(unsafe { Box::from_raw(boxed.cast::<T>()) });
}

/// SQLite's user data can be read only with the library's own function, so each library has a call of its own.
static CALLS: [unsafe extern "C" fn(*mut sys::sqlite3_context, c_int, *mut *mut sys::sqlite3_value);
    LIBRARIES_MAX] = [
    call_scalar::<0>,
    call_scalar::<1>,
    call_scalar::<2>,
    call_scalar::<3>,
    call_scalar::<4>,
    call_scalar::<5>,
    call_scalar::<6>,
    call_scalar::<7>,
];

/// # Safety
/// As xFunc of a function made by [`register_function`] for the library in `SLOT`.
unsafe extern "C" fn call_scalar<const SLOT: usize>(
    context: *mut sys::sqlite3_context,
    count: c_int,
    values: *mut *mut sys::sqlite3_value,
) {
    let library = Library::in_slot(SLOT);
    let api = library.api();
    // SAFETY: by contract; the user data is our box, alive while the function is.
    let answer = guard::catch(|| unsafe {
        let function = &*(api.user_data)(context).cast::<Function>();
        let connection = Connection::new((api.context_db_handle)(context), library);
        (function.body)(&Call { connection, arguments: arguments(api, count, values) })
    });
    // SAFETY: by contract.
    unsafe {
        match answer.unwrap_or_else(|text| Err(Error::new(crate::error::Kind::Io, text))) {
            Ok(value) => put(api, context, &value),
            Err(error) => put_error(api, context, &error.to_string()),
        }
    }
}

/// # Safety
/// `values` are `count` protected values of `api`'s library.
pub(super) unsafe fn arguments(api: &Api, count: c_int, values: *mut *mut sys::sqlite3_value) -> Vec<Value> {
    // SAFETY: by contract; with none SQLite may hand NULL.
    unsafe { (0..usize::try_from(count).unwrap_or(0)).map(|index| take(api, *values.add(index))).collect() }
}

/// # Safety
/// As `arguments`, for one value.
unsafe fn take(api: &Api, value: *mut sys::sqlite3_value) -> Value {
    // SAFETY: c3ref/value_blob.html: the length is asked for after the pointer, and both are copied at once.
    unsafe {
        match (api.value_type)(value) {
            sys::SQLITE_INTEGER => Value::Integer((api.value_int64)(value)),
            sys::SQLITE_FLOAT => Value::Real((api.value_double)(value)),
            sys::SQLITE_TEXT => {
                let text = (api.value_text)(value);
                Value::Text(String::from_utf8_lossy(bytes(text, (api.value_bytes)(value))).into_owned())
            }
            sys::SQLITE_BLOB => {
                let blob = (api.value_blob)(value).cast();
                Value::Blob(bytes(blob, (api.value_bytes)(value)).to_vec())
            }
            _ => Value::Null,
        }
    }
}

/// # Safety
/// `start` is NULL or has `length` bytes.
pub(super) unsafe fn bytes<'a>(start: *const u8, length: c_int) -> &'a [u8] {
    match usize::try_from(length) {
        // SAFETY: by contract.
        Ok(length) if length > 0 && !start.is_null() => unsafe { slice::from_raw_parts(start, length) },
        _ => &[],
    }
}

/// # Safety
/// `context` is that of a call under way.
pub(super) unsafe fn put(api: &Api, context: *mut sys::sqlite3_context, value: &Value) {
    // SAFETY: c3ref/result_blob.html; SQLite copies text and blobs (SQLITE_TRANSIENT).
    unsafe {
        match value {
            Value::Null => (api.result_null)(context),
            Value::Integer(number) => (api.result_int64)(context, *number),
            Value::Real(number) => (api.result_double)(context, *number),
            Value::Text(text) => {
                let Ok(length) = c_int::try_from(text.len()) else {
                    return put_error(api, context, TOO_LONG);
                };
                (api.result_text)(context, text.as_ptr().cast(), length, sys::SQLITE_TRANSIENT());
            }
            Value::Blob(blob) => {
                let Ok(length) = c_int::try_from(blob.len()) else {
                    return put_error(api, context, TOO_LONG);
                };
                (api.result_blob)(context, blob.as_ptr().cast(), length, sys::SQLITE_TRANSIENT());
            }
        }
    }
}

const TOO_LONG: &str = "the answer is longer than 2 GiB";

/// # Safety
/// As `put`.
unsafe fn put_error(api: &Api, context: *mut sys::sqlite3_context, text: &str) {
    // SAFETY: SQLite copies the text.
    unsafe {
        (api.result_error)(context, text.as_ptr().cast::<c_char>(), c_int::try_from(text.len()).unwrap_or(0))
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::engine::Engine;

    fn engine() -> Engine {
        let db = Engine::open(":memory:", None).expect("open");
        let connection = db.connection();
        let register = |name, min, max, trust, body| {
            register_function(&connection, name, min, max, trust, body).expect("register");
        };
        register("echo", 1, 2, Trust::Anywhere, |call| Ok(call.arguments().last().expect("one").clone()));
        register("outside", 0, 0, Trust::DirectOnly, |_| Ok(Value::Null));
        register("fails", 0, 0, Trust::Anywhere, |_| Err(Error::invalid("x='1' is no %s setting")));
        register("panics", 0, 0, Trust::Anywhere, |_| panic!("BUG: on purpose"));
        register("schemas", 0, 0, Trust::Anywhere, |call| {
            Ok(Value::from(call.connection().schemas().expect("schemas").join(",")))
        });
        db
    }

    #[test]
    fn values_come_and_go_as_they_are() {
        let db = engine();
        let row = db
            .query("SELECT echo(NULL), echo(-9223372036854775808), echo(1.5), echo('zwölf'), echo(x'00ff')");
        let expected = [
            Value::Null,
            Value::Integer(i64::MIN),
            Value::Real(1.5),
            Value::from("zwölf"),
            Value::Blob(vec![0, 255]),
        ];
        assert_eq!(row.expect("query"), [expected]);
        assert_eq!(
            db.value("SELECT typeof(echo('')) || typeof(echo(x''))").expect("query"),
            Value::from("textblob")
        );
        assert_eq!(db.value("SELECT echo(1, 2)").expect("query"), Value::Integer(2));
    }

    #[test]
    fn a_wrong_number_of_arguments_is_an_error() {
        for sql in ["SELECT echo()", "SELECT echo(1, 2, 3)", "SELECT outside(1)"] {
            let error = engine().exec(sql).expect_err(sql).to_string();
            assert!(error.contains("wrong number of arguments"), "{error}");
        }
    }

    #[test]
    fn an_error_and_a_panic_are_sql_errors_with_their_text() {
        let db = engine();
        let error = db.exec("SELECT fails()").expect_err("fails").to_string();
        assert!(error.contains("x='1' is no %s setting"), "{error}");
        let error = db.exec("SELECT panics()").expect_err("panics").to_string();
        assert!(error.contains("BUG: on purpose"), "{error}");
        assert_eq!(db.value("SELECT echo(7)").expect("the connection lives on"), Value::Integer(7));
    }

    #[test]
    fn a_function_for_direct_use_is_refused_in_a_view() {
        let db = engine();
        db.exec("SELECT outside()").expect("direct use");
        db.exec("CREATE VIEW v AS SELECT outside()").expect("a view is only text");
        let error = db.exec("SELECT * FROM v").expect_err("must be refused").to_string();
        assert!(error.contains("unsafe use of outside()"), "{error}");
    }

    #[test]
    fn a_function_sees_the_schemas_of_its_connection() {
        let db = engine();
        db.exec("ATTACH ':memory:' AS \"Zwei 2\"").expect("attach");
        assert_eq!(db.value("SELECT schemas()").expect("query"), Value::from("main,Zwei 2"));
        assert_eq!(db.connection().path("main"), None);
        assert_eq!(db.connection().path("nosuch"), None);
    }

    #[test]
    fn later_connections_have_our_functions() {
        let db = Engine::open(":memory:", None).expect("open");
        assert!(matches!(db.value("SELECT replica_version()").expect("call"), Value::Text(_)));
    }
}
