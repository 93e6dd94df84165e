//! What any filter that checks before it lets a request go has to do at least: it holds the headers
//! back, lets the proxy buffer the body, asks with a question of the usual size, and lets the request go
//! when the answer comes. It reads nothing and settles nothing. `make bench-filter` measures against it.

use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType};

/// The backend's cluster in the shipped configuration.
const CLUSTER: &str = "purser_backend";

/// As the filter's own in the benchmark.
const TIMEOUT: Duration = Duration::from_secs(60);

const HEADERS: [(&str, &str); 5] = [
    (":method", "POST"),
    (":path", "/v1/holds"),
    (":authority", CLUSTER),
    ("authorization", "Bearer 0123456789abcdef0123456789abcdef"),
    ("content-type", "application/json"),
];

/// As long as a hold's.
const QUESTION: &[u8] = br#"{"version":1,"hold_id":"019aab2c-7d00-7cc1-9f6e-0123456789ab","payer":{"org":"acme","team":"research","user":"ann"},"call":{"api":"openai_chat","provider":"openai","model":"gpt-4o-mini","stream":false},"size":{"text_bytes":1000,"media_parts":0,"max_output_tokens":100,"choices":1,"server_context":false,"unchangeable":false},"tags":{},"deadline_ms":250}"#;

#[allow(missing_docs, unsafe_code, reason = "what the macro expands to")]
mod entry {
    proxy_wasm::main! {{
        proxy_wasm::set_root_context(|_| Box::new(super::Root));
    }}
}

struct Root;

impl Context for Root {}

impl RootContext for Root {
    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Stream;

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _: usize, end_of_stream: bool) -> Action {
        if end_of_stream { Action::Continue } else { Action::Pause }
    }

    fn on_http_request_body(&mut self, _: usize, end_of_stream: bool) -> Action {
        if !end_of_stream {
            return Action::Pause;
        }
        match hostcalls::dispatch_http_call(CLUSTER, HEADERS.to_vec(), Some(QUESTION), Vec::new(), TIMEOUT) {
            Ok(_) => Action::Pause,
            Err(_) => Action::Continue,
        }
    }
}

impl Context for Stream {
    fn on_http_call_response(&mut self, _: u32, _: usize, _: usize, _: usize) {
        // A client that has left has nothing to be let go.
        let _gone = hostcalls::resume_http_request();
    }
}
