//! The calls into the proxy, all of them. Bytes go in and out, every status comes back as a value.
//!
//! The SDK's own wrappers panic on a status they don't expect and on header values that are not
//! UTF-8, and a panic ends every stream of the worker; so they are not used, with one exception:
//! [`dispatch`], because the SDK's dispatcher must know the callout to route its answer.

#![allow(unsafe_code, reason = "the proxy's ABI is raw pointers; this is the one file that speaks it")]

use std::ptr;
use std::time::Duration;

use crate::headers::{HeaderEdit, Headers, serialize};

/// A status other than success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused(pub u32);

/// The map or buffer isn't there.
pub const NOT_FOUND: Refused = Refused(1);
/// An argument doesn't fit, or the thing is gone.
pub const BAD_ARGUMENT: Refused = Refused(2);
/// A value has changed since it was read.
pub const RACED: Refused = Refused(8);
/// Something the proxy should have written is not what the ABI says.
pub const MALFORMED: Refused = Refused(4);

pub type Result<T> = std::result::Result<T, Refused>;

/// Whose headers.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub enum Map {
    Request = 0,
    Response = 2,
    CalloutResponse = 6,
}

/// Whose bytes.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub enum Buffer {
    RequestBody = 0,
    ResponseBody = 1,
    CalloutBody = 4,
    PluginConfiguration = 7,
}

/// Severity of a log line.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub enum Level {
    Warn = 3,
    Error = 4,
}

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_log(level: u32, text: *const u8, size: usize) -> u32;
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_get_buffer_bytes(
        buffer: u32,
        start: usize,
        max_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_set_buffer_bytes(
        buffer: u32,
        start: usize,
        size: usize,
        data: *const u8,
        data_size: usize,
    ) -> u32;
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_remove_header_map_value(map: u32, name: *const u8, name_size: usize) -> u32;
    fn proxy_get_property(path: *const u8, path_size: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_set_property(path: *const u8, path_size: usize, data: *const u8, data_size: usize) -> u32;
    fn proxy_continue_stream(stream: u32) -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_size: usize,
        body: *const u8,
        body_size: usize,
        headers: *const u8,
        headers_size: usize,
        grpc_status: i32,
    ) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, id: *mut u32) -> u32;
    fn proxy_increment_metric(id: u32, offset: i64) -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        key_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
        version: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(
        key: *const u8,
        key_size: usize,
        data: *const u8,
        size: usize,
        version: u32,
    ) -> u32;
    fn proxy_done() -> u32;
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn random_get(buffer: *mut u8, size: usize) -> u32;
}

const fn checked(status: u32) -> Result<()> {
    match status {
        0 => Ok(()),
        status => Err(Refused(status)),
    }
}

/// Takes over memory that the proxy allocated in this module through the exported allocator.
fn received(status: u32, data: *mut u8, size: usize) -> Result<Vec<u8>> {
    checked(status)?;
    if data.is_null() || size == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: on success the proxy returns a block of exactly `size` bytes, made by this module's
    // exported allocator as a boxed byte slice (capacity `size`, alignment 1) and filled by the
    // proxy. It is handed over once and owned by nobody else.
    Ok(unsafe { Vec::from_raw_parts(data, size, size) })
}

/// Writes a line into the proxy's log. A refused line is dropped: there is nowhere else to put it.
pub fn log(level: Level, text: &str) {
    // SAFETY: the pointer and length are those of a live string that the proxy only reads.
    let _ = unsafe { proxy_log(level as u32, text.as_ptr(), text.len()) };
}

/// The wall clock, milliseconds since the Unix epoch; 0 when the proxy has none.
pub fn now_unix_ms() -> u64 {
    let mut nanos = 0_u64;
    // SAFETY: the pointer is to a live, aligned u64 that the proxy writes before it returns.
    let status = unsafe { proxy_get_current_time_nanoseconds(&raw mut nanos) };
    checked(status).map_or(0, |()| nanos.div_euclid(1_000_000))
}

/// Random bytes from the proxy's cryptographic source.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: the pointer and length are those of a live array that is written before the return.
    checked(unsafe { random_get(bytes.as_mut_ptr(), N) })?;
    Ok(bytes)
}

/// Sets the tick of the root context, also when called from a stream; 0 stops it. Every call starts
/// the period anew.
pub fn set_tick_ms(period_ms: u32) -> Result<()> {
    // SAFETY: no pointers.
    checked(unsafe { proxy_set_tick_period_milliseconds(period_ms) })
}

/// At most `max_bytes` bytes of a buffer. A buffer that isn't there is empty.
pub fn buffer(buffer: Buffer, max_bytes: usize) -> Result<Vec<u8>> {
    let (mut data, mut size) = (ptr::null_mut(), 0);
    // SAFETY: both pointers are to live locals that the proxy writes before it returns.
    let status = unsafe { proxy_get_buffer_bytes(buffer as u32, 0, max_bytes, &raw mut data, &raw mut size) };
    match received(status, data, size) {
        Err(NOT_FOUND) => Ok(Vec::new()),
        result => result,
    }
}

/// Replaces a whole buffer.
pub fn set_buffer(buffer: Buffer, bytes: &[u8]) -> Result<()> {
    let everything = usize::try_from(i32::MAX).unwrap_or(usize::MAX);
    // SAFETY: the pointer and length are those of a live slice that the proxy only reads.
    checked(unsafe { proxy_set_buffer_bytes(buffer as u32, 0, everything, bytes.as_ptr(), bytes.len()) })
}

/// All headers of a map.
pub fn headers(map: Map) -> Result<Headers> {
    let (mut data, mut size) = (ptr::null_mut(), 0);
    // SAFETY: both pointers are to live locals that the proxy writes before it returns.
    let status = unsafe { proxy_get_header_map_pairs(map as u32, &raw mut data, &raw mut size) };
    Headers::parse(received(status, data, size)?).map_err(|_| MALFORMED)
}

/// Changes a map.
pub fn edit_header(map: Map, edit: &HeaderEdit) -> Result<()> {
    // SAFETY: the pointers and lengths are those of live strings that the proxy only reads.
    checked(unsafe {
        match edit {
            HeaderEdit::Set(name, value) => proxy_replace_header_map_value(
                map as u32,
                name.as_ptr(),
                name.len(),
                value.as_ptr(),
                value.len(),
            ),
            HeaderEdit::Remove(name) => proxy_remove_header_map_value(map as u32, name.as_ptr(), name.len()),
        }
    })
}

/// A property by its path, its parts separated by zero bytes.
pub fn property(path: &str) -> Result<Vec<u8>> {
    let (mut data, mut size) = (ptr::null_mut(), 0);
    // SAFETY: the path is a live string that the proxy only reads; the other pointers are to live
    // locals that it writes before it returns.
    let status = unsafe { proxy_get_property(path.as_ptr(), path.len(), &raw mut data, &raw mut size) };
    received(status, data, size)
}

/// A property that is a number.
pub fn property_u64(path: &str) -> Option<u64> {
    let bytes = property(path).ok()?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// Sets a property of the stream, readable in the access log as filter state `wasm.<path>`.
pub fn set_property(path: &str, value: &[u8]) -> Result<()> {
    // SAFETY: the pointers and lengths are those of live slices that the proxy only reads.
    checked(unsafe { proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len()) })
}

/// Lets a request go on that was held back.
pub fn continue_request() -> Result<()> {
    // SAFETY: no pointers.
    checked(unsafe { proxy_continue_stream(0) })
}

/// Answers a request in the upstream's place.
pub fn reply(status: u16, details: &str, headers: &[(&str, String)], body: &[u8]) -> Result<()> {
    let headers = serialize(headers);
    // SAFETY: the pointers and lengths are those of live slices that the proxy only reads. -1 means
    // that this is no gRPC answer.
    checked(unsafe {
        proxy_send_local_response(
            u32::from(status),
            details.as_ptr(),
            details.len(),
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            -1,
        )
    })
}

/// A kind of metric.
#[derive(Debug, Clone, Copy)]
pub enum Metric {
    /// Only grows.
    Counter = 0,
    /// Goes up and down.
    Gauge = 1,
}

/// Defines a metric; its id.
pub fn metric(kind: Metric, name: &str) -> Result<u32> {
    let mut id = 0;
    // SAFETY: the name is a live string that the proxy only reads, the pointer to a live u32 that it
    // writes before it returns.
    checked(unsafe { proxy_define_metric(kind as u32, name.as_ptr(), name.len(), &raw mut id) })?;
    Ok(id)
}

/// Moves a gauge up, or down when `by` is negative.
pub fn shift(id: u32, by: i64) -> Result<()> {
    // SAFETY: no pointers.
    checked(unsafe { proxy_increment_metric(id, by) })
}

/// Adds to a counter.
pub fn count(id: u32, by: u64) -> Result<()> {
    match i64::try_from(by) {
        // The proxy takes no zero.
        Ok(0) => Ok(()),
        // SAFETY: no pointers.
        Ok(by) => checked(unsafe { proxy_increment_metric(id, by) }),
        Err(_) => Err(BAD_ARGUMENT),
    }
}

/// A value that all VMs of this id share, and its version.
pub fn shared_data(key: &str) -> Result<(Vec<u8>, u32)> {
    let (mut data, mut size, mut version) = (ptr::null_mut(), 0, 0);
    // SAFETY: the key is a live string that the proxy only reads; the other pointers are to live locals that
    // it writes before it returns.
    let status = unsafe {
        proxy_get_shared_data(key.as_ptr(), key.len(), &raw mut data, &raw mut size, &raw mut version)
    };
    Ok((received(status, data, size)?, version))
}

/// Sets such a value, if it still has a version; 0 sets it whatever it has.
pub fn set_shared_data(key: &str, value: &[u8], version: u32) -> Result<()> {
    // SAFETY: the pointers and lengths are those of live slices that the proxy only reads.
    checked(unsafe { proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), version) })
}

/// Tells the proxy that a context which was not done yet now is.
pub fn done() -> Result<()> {
    // SAFETY: no pointers.
    checked(unsafe { proxy_done() })
}

/// Sends an HTTP callout; its token. The SDK's function panics only on a status that Envoy doesn't
/// return here (it returns success, bad argument for an unknown cluster or broken headers, and
/// internal failure when nothing could be sent).
pub fn dispatch(cluster: &str, headers: Vec<(&str, &str)>, body: &[u8], timeout_ms: u32) -> Result<u32> {
    let timeout = Duration::from_millis(u64::from(timeout_ms));
    proxy_wasm::hostcalls::dispatch_http_call(cluster, headers, Some(body), Vec::new(), timeout)
        .map_err(|status| Refused(status as u32))
}
