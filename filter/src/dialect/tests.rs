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
fn only_openrouter_s_cost_is_money() {
    let data = br#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":6,"cost":0.00014}}"#;
    for (dialect, cost) in [(Dialect::Openrouter, Some(140_000)), (Dialect::Compatible, None)] {
        let mut reading = Reading::default();
        Reader::new(&Route::new(Api::OpenaiChat, dialect)).event(None, data, &mut reading).unwrap();
        assert_eq!(reading.reported_cost_nanousd, cost);
    }
}
