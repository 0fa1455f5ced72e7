//! The SQLite that loaded us, as one struct of the functions we use.
//!
//! SQLite hands its extensions a table of functions, `sqlite3_api_routines`, to which each release only ever
//! appends (<https://sqlite.org/loadext.html>, header sqlite3ext.h). An entry is named here by its place in that
//! table. Several SQLite libraries may live in one process, each with a table of its own: so there is no global
//! table, and everything we register carries the [`Api`] it was registered with.

use std::ffi::{c_char, c_int, c_uchar, c_void};
use std::mem;

use libsqlite3_sys as sys;

/// Older hosts are refused: 3.31.0 is the first with SQLITE_DIRECTONLY and with the name layout we read.
pub const OLDEST_SQLITE: c_int = 3_031_000;

type Destructor = Option<unsafe extern "C" fn(*mut c_void)>;
type ScalarFn = Option<unsafe extern "C" fn(*mut sys::sqlite3_context, c_int, *mut *mut sys::sqlite3_value)>;
type FinalFn = Option<unsafe extern "C" fn(*mut sys::sqlite3_context)>;
pub(super) type InitFn =
    unsafe extern "C" fn(*mut sys::sqlite3, *mut *mut c_char, *const sys::sqlite3_api_routines) -> c_int;

/// Declares [`Api`] and how it is read: `field = place in the table: type`.
macro_rules! routines {
    ($($name:ident = $place:literal: $type:ty;)*) => {
        #[derive(Clone, Copy)]
        pub(super) struct Api { $(pub(super) $name: $type,)* }

        impl Api {
            /// # Safety
            /// `table` is a host's table, at least as long as that of [`OLDEST_SQLITE`].
            unsafe fn read(table: *const sys::sqlite3_api_routines) -> Option<Api> {
                let slots = table.cast::<Option<unsafe extern "C" fn()>>();
                // SAFETY: each place lies in the table, and holds a function of that type or NULL.
                unsafe { Some(Api { $($name: mem::transmute::<unsafe extern "C" fn(), $type>((*slots.add($place))?),)* }) }
            }
        }
    };
}

routines! {
    busy_timeout = 14: unsafe extern "C" fn(*mut sys::sqlite3, c_int) -> c_int;
    close = 16: unsafe extern "C" fn(*mut sys::sqlite3) -> c_int;
    column_text = 36: unsafe extern "C" fn(*mut sys::sqlite3_stmt, c_int) -> *const c_uchar;
    declare_vtab = 50: unsafe extern "C" fn(*mut sys::sqlite3, *const c_char) -> c_int;
    errmsg = 53: unsafe extern "C" fn(*mut sys::sqlite3) -> *const c_char;
    finalize = 57: unsafe extern "C" fn(*mut sys::sqlite3_stmt) -> c_int;
    free = 58: unsafe extern "C" fn(*mut c_void);
    get_autocommit = 60: unsafe extern "C" fn(*mut sys::sqlite3) -> c_int;
    libversion_number = 67: unsafe extern "C" fn() -> c_int;
    malloc = 68: unsafe extern "C" fn(c_int) -> *mut c_void;
    result_blob = 78: unsafe extern "C" fn(*mut sys::sqlite3_context, *const c_void, c_int, Destructor);
    result_double = 79: unsafe extern "C" fn(*mut sys::sqlite3_context, f64);
    result_error = 80: unsafe extern "C" fn(*mut sys::sqlite3_context, *const c_char, c_int);
    result_int64 = 83: unsafe extern "C" fn(*mut sys::sqlite3_context, i64);
    result_null = 84: unsafe extern "C" fn(*mut sys::sqlite3_context);
    result_text = 85: unsafe extern "C" fn(*mut sys::sqlite3_context, *const c_char, c_int, Destructor);
    step = 94: unsafe extern "C" fn(*mut sys::sqlite3_stmt) -> c_int;
    user_data = 101: unsafe extern "C" fn(*mut sys::sqlite3_context) -> *mut c_void;
    value_blob = 102: unsafe extern "C" fn(*mut sys::sqlite3_value) -> *const c_void;
    value_bytes = 103: unsafe extern "C" fn(*mut sys::sqlite3_value) -> c_int;
    value_double = 105: unsafe extern "C" fn(*mut sys::sqlite3_value) -> f64;
    value_int64 = 107: unsafe extern "C" fn(*mut sys::sqlite3_value) -> i64;
    value_text = 109: unsafe extern "C" fn(*mut sys::sqlite3_value) -> *const c_uchar;
    value_type = 113: unsafe extern "C" fn(*mut sys::sqlite3_value) -> c_int;
    prepare_v2 = 116: unsafe extern "C" fn(*mut sys::sqlite3, *const c_char, c_int, *mut *mut sys::sqlite3_stmt, *mut *const c_char) -> c_int;
    create_module_v2 = 119: unsafe extern "C" fn(*mut sys::sqlite3, *const c_char, *const sys::sqlite3_module, *mut c_void, Destructor) -> c_int;
    file_control = 127: unsafe extern "C" fn(*mut sys::sqlite3, *const c_char, c_int, *mut c_void) -> c_int;
    mutex_alloc = 130: unsafe extern "C" fn(c_int) -> *mut sys::sqlite3_mutex;
    mutex_free = 132: unsafe extern "C" fn(*mut sys::sqlite3_mutex);
    vfs_find = 141: unsafe extern "C" fn(*const c_char) -> *mut sys::sqlite3_vfs;
    vfs_register = 142: unsafe extern "C" fn(*mut sys::sqlite3_vfs, c_int) -> c_int;
    open_v2 = 135: unsafe extern "C" fn(*const c_char, *mut *mut sys::sqlite3, c_int, *const c_char) -> c_int;
    context_db_handle = 149: unsafe extern "C" fn(*mut sys::sqlite3_context) -> *mut sys::sqlite3;
    next_stmt = 152: unsafe extern "C" fn(*mut sys::sqlite3, *mut sys::sqlite3_stmt) -> *mut sys::sqlite3_stmt;
    create_function_v2 = 162: unsafe extern "C" fn(*mut sys::sqlite3, *const c_char, c_int, c_int, *mut c_void, ScalarFn, ScalarFn, FinalFn, Destructor) -> c_int;
    backup_finish = 155: unsafe extern "C" fn(*mut sys::sqlite3_backup) -> c_int;
    backup_init = 156: unsafe extern "C" fn(*mut sys::sqlite3, *const c_char, *mut sys::sqlite3, *const c_char) -> *mut sys::sqlite3_backup;
    backup_step = 159: unsafe extern "C" fn(*mut sys::sqlite3_backup, c_int) -> c_int;
    log = 167: unsafe extern "C" fn(c_int, *const c_char, ...);
    vtab_config = 177: unsafe extern "C" fn(*mut sys::sqlite3, c_int, ...) -> c_int;
    db_filename = 180: unsafe extern "C" fn(*mut sys::sqlite3, *const c_char) -> *const c_char;
    stmt_busy = 184: unsafe extern "C" fn(*mut sys::sqlite3_stmt) -> c_int;
    auto_extension = 192: unsafe extern "C" fn(Option<InitFn>) -> c_int;
}

impl Api {
    /// Reads the table of a host, or says why this host cannot be served.
    ///
    /// # Safety
    /// `table` is NULL or what SQLite handed to an extension's entry point.
    pub(super) unsafe fn of_host(table: *const sys::sqlite3_api_routines) -> Result<Api, String> {
        const LIBVERSION_NUMBER: usize = 67;
        if table.is_null() {
            return Err("this SQLite was built without loadable extensions".to_owned());
        }
        // SAFETY: place 67 is older than loadable extensions' oldest host; it takes no argument.
        let version = unsafe {
            let slots = table.cast::<Option<unsafe extern "C" fn() -> c_int>>();
            (*slots.add(LIBVERSION_NUMBER)).map_or(0, |version| version())
        };
        if version < OLDEST_SQLITE {
            return Err(format!(
                "this SQLite is {}.{}.{}, but 3.31.0 or newer is needed",
                version / 1_000_000,
                version / 1000 % 1000,
                version % 1000
            ));
        }
        // SAFETY: the host is new enough for every place we read.
        let api = unsafe { Api::read(table) }
            .ok_or("this SQLite was built without functions we need (virtual tables, mutexes)")?;
        if !api.has_mutexes() {
            return Err(
                "this SQLite runs without mutexes (SQLITE_CONFIG_SINGLETHREAD or SQLITE_THREADSAFE=0), \
                 but replication has a thread of its own"
                    .to_owned(),
            );
        }
        Ok(api)
    }

    /// Without mutexes the allocator answers NULL or the same small number to all
    /// (mutex_noop.c); sqlite3_threadsafe() tells only how SQLite was compiled.
    fn has_mutexes(&self) -> bool {
        // SAFETY: c3ref/mutex_alloc.html; a fast mutex is freed by who allocated it.
        unsafe {
            let mutex = (self.mutex_alloc)(sys::SQLITE_MUTEX_FAST);
            let real = mutex as usize > 4096;
            if real {
                (self.mutex_free)(mutex);
            }
            real
        }
    }

    /// A copy of `text` that SQLite frees; NULL when memory is out.
    pub(super) fn c_copy(&self, text: &str) -> *mut c_char {
        let Ok(length) = c_int::try_from(text.len() + 1) else { return std::ptr::null_mut() };
        // SAFETY: malloc answers `length` bytes or NULL; they are filled and closed with a NUL.
        unsafe {
            let copy = (self.malloc)(length).cast::<u8>();
            if !copy.is_null() {
                std::ptr::copy_nonoverlapping(text.as_ptr(), copy, text.len());
                *copy.add(text.len()) = 0;
            }
            copy.cast()
        }
    }

    /// One line to the application's sqlite3_log.
    pub(super) fn write_log(&self, code: c_int, text: &str) {
        let line: Vec<u8> = text.bytes().filter(|&byte| byte != 0).chain([0]).collect();
        // SAFETY: the format takes one NUL-terminated string, an argument never read as a format.
        unsafe { (self.log)(code, c"%s".as_ptr(), line.as_ptr().cast::<c_char>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::library::Library;

    /// The linked library hands out a table of its own functions: each place must hold the function we mean.
    #[test]
    fn every_place_in_the_table_holds_the_function_it_is_named_for() {
        let api = Library::linked().api();
        let pairs: &[(usize, usize)] = &[
            (api.busy_timeout as usize, sys::sqlite3_busy_timeout as *const () as usize),
            (api.close as usize, sys::sqlite3_close as *const () as usize),
            (api.errmsg as usize, sys::sqlite3_errmsg as *const () as usize),
            (api.open_v2 as usize, sys::sqlite3_open_v2 as *const () as usize),
            (api.backup_finish as usize, sys::sqlite3_backup_finish as *const () as usize),
            (api.backup_init as usize, sys::sqlite3_backup_init as *const () as usize),
            (api.backup_step as usize, sys::sqlite3_backup_step as *const () as usize),
            (api.column_text as usize, sys::sqlite3_column_text as *const () as usize),
            (api.declare_vtab as usize, sys::sqlite3_declare_vtab as *const () as usize),
            (api.finalize as usize, sys::sqlite3_finalize as *const () as usize),
            (api.free as usize, sys::sqlite3_free as *const () as usize),
            (api.get_autocommit as usize, sys::sqlite3_get_autocommit as *const () as usize),
            (api.libversion_number as usize, sys::sqlite3_libversion_number as *const () as usize),
            (api.malloc as usize, sys::sqlite3_malloc as *const () as usize),
            (api.result_blob as usize, sys::sqlite3_result_blob as *const () as usize),
            (api.result_double as usize, sys::sqlite3_result_double as *const () as usize),
            (api.result_error as usize, sys::sqlite3_result_error as *const () as usize),
            (api.result_int64 as usize, sys::sqlite3_result_int64 as *const () as usize),
            (api.result_null as usize, sys::sqlite3_result_null as *const () as usize),
            (api.result_text as usize, sys::sqlite3_result_text as *const () as usize),
            (api.step as usize, sys::sqlite3_step as *const () as usize),
            (api.user_data as usize, sys::sqlite3_user_data as *const () as usize),
            (api.value_blob as usize, sys::sqlite3_value_blob as *const () as usize),
            (api.value_bytes as usize, sys::sqlite3_value_bytes as *const () as usize),
            (api.value_double as usize, sys::sqlite3_value_double as *const () as usize),
            (api.value_int64 as usize, sys::sqlite3_value_int64 as *const () as usize),
            (api.value_text as usize, sys::sqlite3_value_text as *const () as usize),
            (api.value_type as usize, sys::sqlite3_value_type as *const () as usize),
            (api.prepare_v2 as usize, sys::sqlite3_prepare_v2 as *const () as usize),
            (api.create_module_v2 as usize, sys::sqlite3_create_module_v2 as *const () as usize),
            (api.file_control as usize, sys::sqlite3_file_control as *const () as usize),
            (api.mutex_alloc as usize, sys::sqlite3_mutex_alloc as *const () as usize),
            (api.mutex_free as usize, sys::sqlite3_mutex_free as *const () as usize),
            (api.vfs_find as usize, sys::sqlite3_vfs_find as *const () as usize),
            (api.vfs_register as usize, sys::sqlite3_vfs_register as *const () as usize),
            (api.context_db_handle as usize, sys::sqlite3_context_db_handle as *const () as usize),
            (api.next_stmt as usize, sys::sqlite3_next_stmt as *const () as usize),
            (api.create_function_v2 as usize, sys::sqlite3_create_function_v2 as *const () as usize),
            (api.log as usize, sys::sqlite3_log as *const () as usize),
            (api.vtab_config as usize, sys::sqlite3_vtab_config as *const () as usize),
            (api.db_filename as usize, sys::sqlite3_db_filename as *const () as usize),
            (api.stmt_busy as usize, sys::sqlite3_stmt_busy as *const () as usize),
            (api.auto_extension as usize, sys::sqlite3_auto_extension as *const () as usize),
        ];
        for (index, (ours, theirs)) in pairs.iter().enumerate() {
            assert_eq!(ours, theirs, "entry {index} of this list");
        }
    }

    /// A table of a host that is too old must be refused without reading beyond its end.
    #[test]
    fn an_old_host_and_a_host_without_a_table_are_refused_with_the_reason() {
        unsafe extern "C" fn old_version() -> c_int {
            3_030_001
        }
        let mut table: Vec<usize> = vec![0; 68];
        table[67] = old_version as *const () as usize;
        // SAFETY: of_host reads place 67 first and stops there.
        let refused = unsafe { Api::of_host(table.as_ptr().cast()) }.err().expect("must refuse");
        assert!(refused.contains("3.30.1") && refused.contains("3.31.0"), "{refused}");
        // SAFETY: NULL is allowed.
        assert!(unsafe { Api::of_host(std::ptr::null()) }.is_err());
    }
}
