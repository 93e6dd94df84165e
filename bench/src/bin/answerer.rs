//! Answers at once, and always the same: as the LLM provider, or as a backend that allows every call
//! without looking. One thread serves all, so that it takes as little of the machine as it can.

use std::convert::Infallible;
use std::process::ExitCode;
use std::time::Duration;

use bench::clock::now_ns;
use bench::wire::{self, ARRIVED_HEADER, Body, DELAY_HEADER, EVENTS_HEADER, GAP_HEADER};
use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response};
use purser_protocol::{MARKER_HEADER, MARKER_VALUE};

/// A chat answer as OpenAI gives it.
const ANSWER: &str = concat!(
    r#"{"id":"chatcmpl-bench0000000000000000000000","object":"chat.completion","created":1760000000,"#,
    r#""model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,"message":{"role":"assistant","content":""#,
    "Budgets are checked before a call goes out, because afterwards the money is gone. ",
    "What a call costs is known only once it has been answered, so an amount is held first and settled later.",
    r#"","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"#,
    r#""usage":{"prompt_tokens":112,"completion_tokens":41,"total_tokens":153,"#,
    r#""prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":"#,
    r#"{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},"#,
    r#""service_tier":"default","system_fingerprint":"fp_bench"}"#,
);

/// The verdict of a backend that looks at nothing.
const VERDICT: &str = concat!(
    r#"{"version":1,"hold_id":"019aab2c-7d00-7cc1-9f6e-0123456789ab","verdict":"allow","held_nanousd":100000,"#,
    r#""remaining":[{"tier":"org","window":"month","limit_nanousd":1000000000000,"remaining_nanousd":900000000000},"#,
    r#"{"tier":"team","window":"day","limit_nanousd":1000000000000,"remaining_nanousd":900000000000},"#,
    r#"{"tier":"user","window":"day","limit_nanousd":1000000000000,"remaining_nanousd":900000000000}]}"#,
);

#[derive(Parser)]
enum Role {
    /// An LLM provider.
    Provider,
    /// A budget backend.
    Constant,
}

fn main() -> ExitCode {
    let role = Role::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
        runtime.block_on(async {
            match role {
                Role::Provider => wire::serve(provide).await,
                Role::Constant => wire::serve(allow).await,
            }
        })
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}

async fn allow(request: Request<Incoming>) -> Response<Body> {
    // Read whole, so that the connection can be used again.
    let _read = request.into_body().collect().await;
    let mut response = json(VERDICT);
    response.headers_mut().insert(MARKER_HEADER, HeaderValue::from_static(MARKER_VALUE));
    response
}

async fn provide(request: Request<Incoming>) -> Response<Body> {
    let arrived = HeaderValue::from(now_ns());
    let delay = wire::number(&request, DELAY_HEADER);
    let events = wire::number(&request, EVENTS_HEADER);
    let gap = Duration::from_micros(wire::number(&request, GAP_HEADER).unwrap_or_default());
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    if let Some(delay) = delay {
        tokio::time::sleep(Duration::from_micros(delay)).await;
    }
    let mut response = match events {
        Some(events) => stream(events, gap, asks_for_usage(&body)),
        None => json(ANSWER),
    };
    response.headers_mut().insert(ARRIVED_HEADER, arrived);
    response
}

fn json(text: &'static str) -> Response<Body> {
    let mut response = Response::new(wire::whole(Bytes::from_static(text.as_bytes())));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The apps of these runs don't ask for it; the filter does.
fn asks_for_usage(body: &[u8]) -> bool {
    let asked = br#""include_usage":true"#;
    body.windows(asked.len()).any(|window| window == asked)
}

/// So many events at even distances, each with the time it was sent at as its word; then the usage, if
/// asked for, and the end.
fn stream(events: u64, gap: Duration, usage: bool) -> Response<Body> {
    let started = tokio::time::Instant::now();
    let sent = futures_util::stream::unfold(0_u64, move |number| async move {
        if number > events {
            return None;
        }
        let steps = u32::try_from(number.min(events.saturating_sub(1))).unwrap_or(u32::MAX);
        tokio::time::sleep_until(started + gap.saturating_mul(steps)).await;
        let text = if number < events { event() } else { last(events, usage) };
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from(text))), number.saturating_add(1)))
    });
    let mut response = Response::new(StreamBody::new(sent).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

fn event() -> String {
    format!(
        concat!(
            r#"data: {{"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1760000000,"#,
            r#""model":"gpt-4o-mini-2024-07-18","service_tier":"default","system_fingerprint":"fp_bench","#,
            r#""choices":[{{"index":0,"delta":{{"content":"{}"}},"logprobs":null,"finish_reason":null}}]}}"#,
            "\n\n"
        ),
        now_ns()
    )
}

fn last(events: u64, usage: bool) -> String {
    let usage = if usage {
        format!(
            concat!(
                r#"data: {{"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1760000000,"#,
                r#""model":"gpt-4o-mini-2024-07-18","choices":[],"#,
                r#""usage":{{"prompt_tokens":112,"completion_tokens":{},"total_tokens":{}}}}}"#,
                "\n\n"
            ),
            events,
            events.saturating_add(112)
        )
    } else {
        String::new()
    };
    format!("{usage}data: [DONE]\n\n")
}
