//! Odd answers; the corpus has the ordinary ones.

use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn reader(api: Api) -> Reader {
    Reader::new(&Route::new(api, Dialect::Openai))
}

#[test]
fn hostile_answers_do_no_harm() {
    let deep = "[".repeat(100_000);
    for api in Api::ALL {
        for hostile in [
            "",
            "null",
            "[]",
            "7",
            "\"\"",
            "{",
            "{\"usage\":[]}",
            "{\"usage\":7,\"type\":7,\"delta\":7,\"message\":7,\"response\":null,\"item\":0,\"choices\":7}",
            "{\"type\":\"message_start\",\"message\":[]}",
            "{\"candidates\":[7,{\"content\":7}],\"usageMetadata\":{\"promptTokensDetails\":[7]}}",
            "{\"output\":{\"a\":[]},\"bytes\":\"e30=\"}",
            &format!("{{\"usage\":{deep}"),
            &format!("{{\"choices\":{deep}{}}}", "]".repeat(100_000)),
        ] {
            let mut reading = Reading::default();
            let _ = reader(api).event(Some("metadata"), hostile.as_bytes(), &mut reading);
            let _ = reader(api).body(hostile.as_bytes(), &mut reading);
            assert_eq!(reading.usage, None, "{api:?} {hostile:.40}");
        }
        let mut reading = Reading::default();
        assert!(reader(api).event(None, b"\xff", &mut reading).is_err());
        assert!(reader(api).event(None, b"[DONE]", &mut reading).is_ok() && reading.is_done);
    }
}

#[test]
fn the_last_usage_of_a_chat_counts() {
    let mut reading = Reading::default();
    for (data, tokens, is_final) in [
        (r#"{"id":"c-1","model":"m-1","choices":[{"delta":{"content":"four"}}],"usage":null}"#, None, false),
        (
            r#"{"id":"c-2","choices":[{}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#,
            Some((1, 1)),
            false,
        ),
        (r#"{"choices":[{}],"usage":{"prompt_tokens":"x","completion_tokens":9}}"#, Some((1, 1)), false),
        (r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":6}}"#, Some((5, 6)), true),
    ] {
        reader(Api::OpenaiChat).event(None, data.as_bytes(), &mut reading).unwrap();
        let told = reading.usage.map(|usage| (usage.input_tokens, usage.output_tokens));
        assert_eq!((told, reading.usage_is_final), (tokens, is_final), "{data}");
    }
    assert_eq!(
        (reading.response_id.as_deref(), reading.answered_model.as_deref()),
        (Some("c-1"), Some("m-1"))
    );
    assert_eq!(reading.output_bytes, 4);
}

#[test]
fn metrics_tell_the_output_that_the_vendor_s_usage_left_out() {
    let start = r#"{"type":"message_start","message":{"usage":{"input_tokens":5,"cache_read_input_tokens":2,"output_tokens":1}}}"#;
    let text = r#"{"type":"content_block_delta","delta":{"text":"twelve bytes"}}"#;
    for (metrics, output_tokens, is_open) in [
        (r#"{"inputTokenCount":5,"outputTokenCount":30}"#, 30, false),
        (r#"{"inputTokenCount":5,"outputTokenCount":-1}"#, 1, true),
        (r#"{"inputTokenCount":5}"#, 1, true),
    ] {
        let stop = format!(r#"{{"type":"message_stop","amazon-bedrock-invocationMetrics":{metrics}}}"#);
        let mut reading = Reading::default();
        for event in [start, text, &stop] {
            let event = format!(r#"{{"bytes":"{}"}}"#, encoded(event.as_bytes()));
            reader(Api::BedrockInvoke).event(None, event.as_bytes(), &mut reading).unwrap();
        }
        let usage = reading.usage.unwrap();
        assert_eq!((usage.input_tokens, usage.cached_input_tokens), (5, 2), "{metrics}");
        assert_eq!((usage.output_tokens, reading.output_is_open), (output_tokens, is_open), "{metrics}");
        assert!(reading.is_done);
    }
}

/// Base64, as Bedrock wraps a vendor's event.
fn encoded(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits =
            three.iter().chain(&[0, 0]).take(3).fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        for place in 0..4 {
            let digit = DIGITS[bits >> (18 - 6 * place) & 63];
            text.push(if place > three.len() { '=' } else { char::from(digit) });
        }
    }
    text
}

#[test]
fn only_openrouter_s_cost_is_money() {
    let data = br#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":6,"cost":0.00014}}"#;
    for (dialect, cost) in [(Dialect::Openrouter, Some(140_000)), (Dialect::Compatible, None)] {
        let mut reading = Reading::default();
        Reader::new(&Route::new(Api::OpenaiChat, dialect)).event(None, data, &mut reading).unwrap();
        assert_eq!(reading.reported_cost_nanousd, cost);
    }
}
