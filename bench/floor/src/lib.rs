//! What any check by callout costs at least, for the benchmarks and nothing else.
//!
//! The plugin's configuration is one word, or the JSON of Purser's own filter, which stands for `callout`.
//! `noop`: a filter that lets everything pass. `callout`: holds the headers, lets the proxy buffer the
//! body, asks the backend's cluster with a question of the usual size, and lets the request go when any
//! answer comes; nothing is read, parsed, measured or settled.

use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, BufferType, ContextType};

/// Where the constant answer comes from: the cluster that Purser's own backend has in the same configuration.
const CLUSTER: &str = "purser_backend";

/// Longer than any answer takes.
const TIMEOUT: Duration = Duration::from_secs(60);

const HEADERS: [(&str, &str); 5] = [
    (":method", "POST"),
    (":path", "/v1/holds"),
    (":authority", CLUSTER),
    ("authorization", "Bearer data-plane-token-of-a-benchmark"),
    ("content-type", "application/json"),
];

/// As long as a hold's.
const QUESTION: &[u8] = concat!(
    r#"{"version":1,"hold_id":"019aab2c-7d00-7cc1-9f6e-0123456789ab","payer":{"org":"bench","team":"team","#,
    r#""user":"user"},"call":{"api":"openai_chat","provider":"openai","model":"gpt-4o-mini","stream":false},"#,
    r#""size":{"text_bytes":680,"media_parts":0,"max_output_tokens":64,"choices":1},"deadline_ms":250}"#,
)
.as_bytes();

#[allow(missing_docs, unsafe_code, reason = "what the macro expands to")]
mod entry {
    proxy_wasm::main! {{
        proxy_wasm::set_root_context(|_| Box::new(super::Root { asks: false }));
    }}
}

struct Root {
    asks: bool,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        let configured = hostcalls::get_buffer(BufferType::PluginConfiguration, 0, size);
        match configured.ok().flatten().as_deref().map(<[u8]>::trim_ascii) {
            Some(b"noop") => self.asks = false,
            Some(b"callout" | [b'{', ..]) => self.asks = true,
            // Envoy then refuses the configuration.
            _ => return false,
        }
        true
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(if self.asks { Box::new(Asking) } else { Box::new(Idle) })
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Idle;

impl Context for Idle {}
impl HttpContext for Idle {}

struct Asking;

impl HttpContext for Asking {
    fn on_http_request_headers(&mut self, _: usize, end_of_stream: bool) -> Action {
        // A request without a body has nothing to ask about.
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

impl Context for Asking {
    fn on_http_call_response(&mut self, _: u32, _: usize, _: usize, _: usize) {
        // A client that has left has nothing to be resumed.
        let _gone = hostcalls::resume_http_request();
    }
}
