//! libchdb's C functions behind safe ones. The only file here with `unsafe` code; it knows nothing of SQL, Arrow or sinks.
//!
//! The library exports them without a header. Their shapes were found by trying them against version 26.7.3:
//!
//! - `chdb_connect` answers a pointer to a handle, null when the engine could not start (it says why on stderr);
//! - `chdb_query_n` and `chdb_stream_done` answer a result that the caller destroys;
//! - an insert stream is never null, its error is asked for, and it is destroyed by the caller after `done`;
//! - a handle serves one call at a time; different handles work side by side.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::path::Path;
use std::ptr::NonNull;
use std::slice;

use libloading::Library;

type Handle = *mut c_void;

/// How much of an insert is handed over at once. The engine copies it, so this bounds what is held twice.
const APPEND_BYTES_MAX: usize = 4 << 20;

/// The functions of a loaded library. It stays loaded as long as the process lives: the engine keeps threads.
pub(super) struct Abi {
    connect: unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut Handle,
    close: unsafe extern "C" fn(*mut Handle),
    query: unsafe extern "C" fn(Handle, *const c_char, usize, *const c_char, usize) -> Handle,
    result_buffer: unsafe extern "C" fn(Handle) -> *const c_char,
    result_length: unsafe extern "C" fn(Handle) -> usize,
    result_error: unsafe extern "C" fn(Handle) -> *const c_char,
    result_destroy: unsafe extern "C" fn(Handle),
    insert: unsafe extern "C" fn(Handle, *const c_char, usize, *const c_char, usize) -> Handle,
    insert_append: unsafe extern "C" fn(Handle, *const c_char, usize) -> c_int,
    insert_done: unsafe extern "C" fn(Handle) -> Handle,
    insert_error: unsafe extern "C" fn(Handle) -> *const c_char,
    insert_destroy: unsafe extern "C" fn(Handle),
    version: String,
}

impl fmt::Debug for Abi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Abi").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Abi {
    /// Loads the library for the rest of the process's life and keeps the engine from installing signal handlers.
    pub(super) fn load(path: &Path) -> Result<Self, libloading::Error> {
        // SAFETY: loading runs the library's initialisers. The path is one that the operator named as libchdb, whose initialisers
        // are those of an ordinary C++ library; it is never unloaded, so that its finalisers run only when the process ends.
        let library: &'static Library = Box::leak(Box::new(unsafe { Library::new(path)? }));
        // SAFETY: each type below is the function's C signature, see the head of this file; pointers and `size_t` are as wide
        // here as there, and the library outlives them all.
        unsafe {
            let silence = library.get::<unsafe extern "C" fn(c_int)>("chdb_set_signal_handlers_enabled")?;
            let version = library.get::<unsafe extern "C" fn() -> *const c_char>("chdb_version")?;
            silence(0);
            Ok(Self {
                connect: *library.get("chdb_connect")?,
                close: *library.get("chdb_close_conn")?,
                query: *library.get("chdb_query_n")?,
                result_buffer: *library.get("chdb_result_buffer")?,
                result_length: *library.get("chdb_result_length")?,
                result_error: *library.get("chdb_result_error")?,
                result_destroy: *library.get("chdb_destroy_query_result")?,
                insert: *library.get("chdb_stream_insert_n")?,
                insert_append: *library.get("chdb_stream_append")?,
                insert_done: *library.get("chdb_stream_done")?,
                insert_error: *library.get("chdb_stream_insert_error")?,
                insert_destroy: *library.get("chdb_destroy_insert_stream")?,
                version: text(version()).unwrap_or_default(),
            })
        }
    }

    /// The library's version: three numbers.
    pub(super) fn version(&self) -> &str {
        &self.version
    }
}

/// Copies a C string.
///
/// # Safety
/// `pointer` is null or points to a string with a zero byte at its end.
unsafe fn text(pointer: *const c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    Some(unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}

/// A handle of the running engine. It stays on the thread that made it.
pub(super) struct Connection {
    abi: &'static Abi,
    pointer: NonNull<Handle>,
}

impl Connection {
    /// Starts the engine with these arguments, or joins it where it runs. None when the engine refused.
    pub(super) fn open(abi: &'static Abi, arguments: &[CString]) -> Option<Self> {
        let mut pointers: Vec<*mut c_char> = arguments.iter().map(|a| a.as_ptr().cast_mut()).collect();
        let count = c_int::try_from(pointers.len()).ok()?;
        // SAFETY: `count` pointers to strings that outlive the call; the engine copies what it keeps and writes into none.
        let pointer = unsafe { (abi.connect)(count, pointers.as_mut_ptr()) };
        Some(Self { abi, pointer: NonNull::new(pointer)? })
    }

    fn handle(&self) -> Handle {
        // SAFETY: `chdb_connect` answered a pointer to a handle, valid until `chdb_close_conn`, which only `drop` calls.
        unsafe { *self.pointer.as_ptr() }
    }

    /// Runs one statement; answers its rows in `format`, or the engine's message.
    pub(super) fn query(&self, sql: &str, format: &str) -> Result<Vec<u8>, String> {
        // SAFETY: a live handle, and two buffers with their lengths that outlive the call.
        let result =
            unsafe { (self.abi.query)(self.handle(), sql.as_ptr().cast(), sql.len(), format.as_ptr().cast(), format.len()) };
        self.take(result)
    }

    /// Runs one `INSERT INTO … (…)` and feeds it `bytes` in `format`.
    pub(super) fn insert(&self, sql: &str, format: &str, bytes: &[u8]) -> Result<(), String> {
        // SAFETY: as in `query`; the stream is used by this function alone and destroyed before it returns.
        unsafe {
            let stream = (self.abi.insert)(self.handle(), sql.as_ptr().cast(), sql.len(), format.as_ptr().cast(), format.len());
            if let Some(message) = text((self.abi.insert_error)(stream)) {
                (self.abi.insert_destroy)(stream);
                return Err(message);
            }
            for part in bytes.chunks(APPEND_BYTES_MAX) {
                // A failure here is told in full by `done`.
                if (self.abi.insert_append)(stream, part.as_ptr().cast(), part.len()) != 0 {
                    break;
                }
            }
            let result = (self.abi.insert_done)(stream);
            let answer = self.take(result);
            (self.abi.insert_destroy)(stream);
            answer.map(|_| ())
        }
    }

    /// Copies a result and destroys it.
    fn take(&self, result: Handle) -> Result<Vec<u8>, String> {
        if result.is_null() {
            return Err("the engine gave no answer".to_owned());
        }
        // SAFETY: `result` is live until `result_destroy`, which is called once, after the bytes were copied.
        unsafe {
            let answer = match text((self.abi.result_error)(result)) {
                Some(message) => Err(message),
                None => {
                    let (start, length) = ((self.abi.result_buffer)(result), (self.abi.result_length)(result));
                    if start.is_null() || length == 0 {
                        Ok(Vec::new())
                    } else {
                        Ok(slice::from_raw_parts(start.cast::<u8>(), length).to_vec())
                    }
                }
            };
            (self.abi.result_destroy)(result);
            answer
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `chdb_connect` and is closed only here.
        unsafe { (self.abi.close)(self.pointer.as_ptr()) };
    }
}
