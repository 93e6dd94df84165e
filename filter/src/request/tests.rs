use super::*;
use crate::config::Dialect;
use crate::rewrite::BodyRewrite;
use crate::splice;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn chat() -> Route {
    Route::new(Api::OpenaiChat, Dialect::Openai)
}

fn read_text(body: &str) -> Result<CallRequest, Unreadable> {
    read(&chat(), &BodyKind::default(), body.as_bytes())
}

#[test]
fn reads_what_bounds_the_cost() {
    let body = r#"{"messages":[{"role":"user","content":"hi"}],"max_tokens":null,
        "n":2,"max_completion_tokens":100,"stream":false,"model":"gpt-4o-mini"}"#;
    let request = read_text(body).unwrap();
    assert_eq!(request.model, "gpt-4o-mini");
    assert_eq!(&body[request.model_at.unwrap()], "\"gpt-4o-mini\"");
    assert!(!request.stream && request.usage_switch.is_none());
    assert_eq!(request.size.text_bytes, body.len() as u64);
    assert_eq!(request.size.max_output_tokens, Some(100));
    assert_eq!(request.size.choices, 2);
    let CapPlace::At(places) = request.cap else { panic!("{:?}", request.cap) };
    let caps: Vec<&str> = places.into_iter().map(|place| &body[place.at]).collect();
    assert_eq!(caps, ["100", "null"]);
    assert_eq!(
        read_text(r#"{"model":"m"}"#).unwrap().size,
        Size { text_bytes: 13, choices: 1, ..Size::default() }
    );
    assert_eq!(
        read_text(r#"{"model":"m","max_tokens":7,"max_completion_tokens":5}"#)
            .unwrap()
            .size
            .max_output_tokens,
        Some(7)
    );
}

#[test]
fn media_payload_is_not_text() {
    let payload = "A".repeat(1000);
    let body = format!(
        r#"{{"model":"m","messages":[{{"role":"user","content":[{{"type":"text","text":"see"}},
        {{"type":"image_url","image_url":{{"url":"data:image/png;base64,{payload}"}}}}]}}]}}"#
    );
    let size = read_text(&body).unwrap().size;
    assert_eq!(size.media_parts, 1);
    let text_bytes = body.len() - 1000 - "data:image/png;base64,".len();
    assert_eq!(size.text_bytes, text_bytes as u64);
}

#[test]
fn switches_usage_on_where_the_app_did_not() {
    for (body, expected) in [
        (
            r#"{"stream":true,"model":"m"}"#,
            Some(r#"{"stream":true,"stream_options":{"include_usage":true},"model":"m"}"#),
        ),
        (
            r#"{"model":"m","stream_options":null,"stream":true}"#,
            Some(r#"{"model":"m","stream_options":{"include_usage":true},"stream":true}"#),
        ),
        (
            r#"{"model":"m","stream":true,"stream_options":{ }}"#,
            Some(r#"{"model":"m","stream":true,"stream_options":{"include_usage":true }}"#),
        ),
        (
            r#"{"model":"m","stream":true,"stream_options":{"x":1}}"#,
            Some(r#"{"model":"m","stream":true,"stream_options":{"include_usage":true,"x":1}}"#),
        ),
        (
            r#"{"model":"m","stream":true,"stream_options":{"x":1, "include_usage" : false}}"#,
            Some(r#"{"model":"m","stream":true,"stream_options":{"x":1, "include_usage" : true}}"#),
        ),
        (
            r#"{"model":"m","stream":true,"stream_options":{"include_usage":null}}"#,
            Some(r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#),
        ),
        (r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#, None),
        (r#"{"model":"m","stream":null,"stream_options":{}}"#, None),
        (r#"{"model":"m","stream":false}"#, None),
    ] {
        let request = read_text(body).unwrap();
        let edited = request.usage_switch.map(|edit| splice::apply(body.as_bytes(), &[edit]).unwrap());
        assert_eq!(edited.as_deref(), expected.map(str::as_bytes), "{body}");
        if let Some(edited) = edited {
            let again = read(&chat(), &BodyKind::default(), &edited).unwrap();
            assert!(again.stream && again.usage_switch.is_none(), "{body}");
        }
    }
}

#[test]
fn says_what_is_wrong_and_where() {
    let long = format!(r#"{{"model":"{}"}}"#, "m".repeat(257));
    for (body, expected) in [
        ("", "expected a JSON object, got no body"),
        ("hello", "expected JSON: expected value at line 1 column 1"),
        ("[]", "expected a JSON object"),
        ("\u{feff}{}", "expected JSON: expected value at line 1 column 1"),
        (r#"{"model":"m"} {}"#, "expected JSON: trailing characters at line 1 column 15"),
        (r#"{"model":"m","model":"n"}"#, "model: given twice"),
        (r#"{"model":"m","stream":true,"str\u0065am":false}"#, "stream: given twice"),
        (
            r#"{"model":"m","stream":true,"stream_options":{"include_usage":true,"include_usage":false}}"#,
            "include_usage: given twice",
        ),
        ("{}", "model: expected the name of a model, 1 to 256 bytes of text"),
        (r#"{"model":""}"#, "model: expected the name of a model, 1 to 256 bytes of text"),
        (r#"{"model":7}"#, "model: expected the name of a model, 1 to 256 bytes of text"),
        (r#"{"model":null}"#, "model: expected the name of a model, 1 to 256 bytes of text"),
        (r#"{"model":"a\u0000"}"#, "model: expected the name of a model, 1 to 256 bytes of text"),
        (r#"{"model":"gpt-4o\n"}"#, "model: expected the name of a model, 1 to 256 bytes of text"),
        (r#"{"model":"\u001b[2Jm"}"#, "model: expected the name of a model, 1 to 256 bytes of text"),
        (r#"{"model":"m\u0085"}"#, "model: expected the name of a model, 1 to 256 bytes of text"),
        (long.as_str(), "model: expected the name of a model, 1 to 256 bytes of text"),
        (r#"{"model":"m","stream":"true"}"#, "stream: expected true or false"),
        (r#"{"model":"m","stream":1}"#, "stream: expected true or false"),
        (r#"{"model":"m","stream":true,"stream_options":[]}"#, "stream_options: expected an object"),
        (
            r#"{"model":"m","stream":true,"stream_options":{"include_usage":1}}"#,
            "stream_options.include_usage: expected true or false",
        ),
        (r#"{"model":"m","max_tokens":-1}"#, "max_tokens: expected a whole number of tokens, 0 or more"),
        (
            r#"{"model":"m","max_completion_tokens":1e9}"#,
            "max_completion_tokens: expected a whole number of tokens, 0 or more",
        ),
        (
            r#"{"model":"m","max_tokens":99999999999999999999}"#,
            "max_tokens: expected a whole number of tokens, 0 or more",
        ),
        (r#"{"model":"m","n":0}"#, "n: expected a whole number of choices, 1 or more"),
        (r#"{"model":"m","n":"2"}"#, "n: expected a whole number of choices, 1 or more"),
    ] {
        let error = read_text(body).unwrap_err();
        assert_eq!(error.to_string(), expected, "{body}");
    }
    assert_eq!(
        read(&chat(), &BodyKind::default(), b"\xff{}").unwrap_err(),
        Unreadable::Scan(ScanError::NotUtf8)
    );
}

#[test]
fn survives_hostile_nesting() {
    let deep = 100_000;
    for key in ["messages", "stream_options", "model", "other"] {
        let body = format!("{{\"{key}\":{}{}}}", "[".repeat(deep), "]".repeat(deep));
        assert!(read_text(&body).is_err(), "{key}");
    }
    let messages = format!(
        "{{\"model\":\"m\",\"messages\":[{{\"content\":[{{\"image_url\":{{\"url\":{}{}}}}}]}}]}}",
        "[".repeat(deep),
        "]".repeat(deep)
    );
    assert_eq!(read_text(&messages).unwrap().size.media_parts, 1);
}

fn route(api: Api) -> Route {
    let mut route = Route::new(api, Dialect::Openai);
    if matches!(api, Api::GeminiGenerate | Api::GeminiEmbed | Api::BedrockConverse | Api::BedrockInvoke) {
        (route.model, route.stream) = (Some("path-model".to_owned()), Some(true));
    }
    route
}

/// What bounds the cost: cap, choices, media parts, context that isn't in the body.
type Bounds = (Option<u64>, u32, u32, bool);

#[test]
fn each_api_says_in_its_own_way_what_bounds_its_cost() {
    let cases: [(Api, &str, Bounds); 28] = [
        (Api::OpenaiResponses, r#"{"model":"m","input":"x","max_output_tokens":5}"#, (Some(5), 1, 0, false)),
        (Api::OpenaiResponses, r#"{"model":"m","previous_response_id":"r"}"#, (None, 1, 0, true)),
        (Api::OpenaiResponses, r#"{"model":"m","conversation":{"id":"c"}}"#, (None, 1, 0, true)),
        (
            Api::OpenaiResponses,
            r#"{"model":"m","previous_response_id":null,
                "input":[{"content":[{"type":"input_image","image_url":"data:,1"}]}]}"#,
            (None, 1, 1, false),
        ),
        (
            Api::OpenaiCompletions,
            r#"{"model":"m","prompt":["a","b"],"n":2,"best_of":3}"#,
            (None, 6, 0, false),
        ),
        (Api::OpenaiCompletions, r#"{"model":"m","prompt":[1,2,3],"max_tokens":4}"#, (Some(4), 1, 0, false)),
        (Api::OpenaiCompletions, r#"{"model":"m","prompt":[[1],[2]]}"#, (None, 2, 0, false)),
        (Api::OpenaiEmbeddings, r#"{"model":"m","input":["a","b"]}"#, (Some(0), 1, 0, false)),
        (Api::Rerank, r#"{"model":"m","documents":["a"]}"#, (Some(0), 1, 0, false)),
        (Api::OllamaEmbed, r#"{"model":"m","input":["a"]}"#, (Some(0), 1, 0, false)),
        (Api::CohereEmbed, r#"{"model":"m","images":["data:,1","data:,2"]}"#, (Some(0), 1, 2, false)),
        (Api::GeminiEmbed, r#"{"content":{"parts":[{"inlineData":{"data":"AA"}}]}}"#, (Some(0), 1, 1, false)),
        (Api::OpenaiImages, r#"{"model":"m","prompt":"x","n":4}"#, (None, 4, 0, false)),
        (Api::OpenaiAudio, r#"{"model":"m","input":"say this"}"#, (None, 1, 0, false)),
        (Api::OpenaiBatches, r#"{"input_file_id":"f"}"#, (None, 1, 0, true)),
        (
            Api::AnthropicBatches,
            r#"{"requests":[{"custom_id":"a","params":{"model":"m","max_tokens":5}},
                {"custom_id":"b","params":{"model":"m","max_tokens":9}}]}"#,
            (Some(9), 2, 0, false),
        ),
        (Api::AnthropicMessages, r#"{"model":"m","max_tokens":5,"messages":[]}"#, (Some(5), 1, 0, false)),
        (
            Api::GeminiGenerate,
            r#"{"contents":[{"parts":[{"inlineData":{"data":"AAAA"}}]}],
                "generationConfig":{"maxOutputTokens":8,"candidateCount":2}}"#,
            (Some(8), 2, 1, false),
        ),
        (
            Api::GeminiGenerate,
            r#"{"contents":[],"cachedContent":"cachedContents/x","generation_config":{"max_output_tokens":8}}"#,
            (Some(8), 1, 0, true),
        ),
        (Api::GeminiGenerate, r#"{"contents":[]}"#, (None, 1, 0, false)),
        (
            Api::BedrockConverse,
            r#"{"messages":[],"inferenceConfig":{"maxTokens":6}}"#,
            (Some(6), 1, 0, false),
        ),
        (Api::BedrockConverse, r#"{"messages":[]}"#, (None, 1, 0, false)),
        (
            Api::BedrockInvoke,
            r#"{"anthropic_version":"x","max_tokens":6,"messages":[]}"#,
            (Some(6), 1, 0, false),
        ),
        (Api::BedrockInvoke, r#"{"textGenerationConfig":{"maxTokenCount":7}}"#, (Some(7), 1, 0, false)),
        (Api::BedrockInvoke, r#"{"prompt":"x","max_gen_len":8}"#, (Some(8), 1, 0, false)),
        (Api::CohereChat, r#"{"model":"m","max_tokens":9,"messages":[]}"#, (Some(9), 1, 0, false)),
        (
            Api::Ollama,
            r#"{"model":"m","messages":[{"images":["AAAA"]}],"options":{"num_predict":3}}"#,
            (Some(3), 1, 1, false),
        ),
        (
            Api::Ollama,
            r#"{"model":"m","images":["AA","BB"],"options":{"num_predict":-1}}"#,
            (None, 1, 2, false),
        ),
    ];
    for (api, body, expected) in cases {
        let size = read(&route(api), &BodyKind::default(), body.as_bytes()).unwrap().size;
        let got = (size.max_output_tokens, size.choices, size.media_parts, size.server_context);
        assert_eq!(got, expected, "{api:?} {body}");
        let signed = BodyKind { is_signed: true, boundary: None };
        let signed = read(&route(api), &signed, body.as_bytes()).unwrap();
        assert!(signed.size.unchangeable && signed.usage_switch.is_none() && signed.model_at.is_none());
        assert_eq!(signed.cap, CapPlace::Fixed);
    }
}

#[test]
fn each_api_says_in_its_own_way_that_it_streams() {
    for (api, body, stream) in [
        (Api::OpenaiResponses, r#"{"model":"m","stream":true}"#, true),
        (Api::AnthropicMessages, r#"{"model":"m"}"#, false),
        (Api::GeminiGenerate, "{}", true),
        (Api::BedrockConverse, r#"{"stream":false}"#, true),
        (Api::Ollama, r#"{"model":"m"}"#, true),
        (Api::Ollama, r#"{"model":"m","stream":false}"#, false),
        (Api::OpenaiEmbeddings, r#"{"model":"m","stream":true}"#, false),
    ] {
        let request = read(&route(api), &BodyKind::default(), body.as_bytes()).unwrap();
        assert_eq!(request.stream, stream, "{api:?} {body}");
        assert_eq!(request.usage_switch, None, "{api:?} tells its usage unasked");
    }
    let legacy = r#"{"model":"m","stream":true}"#;
    let request = read(&route(Api::OpenaiCompletions), &BodyKind::default(), legacy.as_bytes()).unwrap();
    assert!(request.usage_switch.is_some());
    let mistral = Route::new(Api::OpenaiChat, Dialect::Mistral);
    assert_eq!(read(&mistral, &BodyKind::default(), legacy.as_bytes()).unwrap().usage_switch, None);
}

#[test]
fn a_cap_is_written_where_each_api_has_it() {
    let compatible = Route::new(Api::OpenaiChat, Dialect::Compatible);
    for (route, body, expected) in [
        (compatible, r#"{"model":"m"}"#, r#"{"model":"m","max_tokens":7}"#),
        (route(Api::OpenaiResponses), r#"{"model":"m"}"#, r#"{"model":"m","max_output_tokens":7}"#),
        (
            route(Api::OpenaiResponses),
            r#"{"max_output_tokens":900,"model":"m"}"#,
            r#"{"max_output_tokens":7,"model":"m"}"#,
        ),
        (route(Api::GeminiGenerate), " {}", r#" {"generationConfig":{"maxOutputTokens":7}}"#),
        (
            route(Api::GeminiGenerate),
            r#"{"generationConfig":{ },"contents":[]}"#,
            r#"{"generationConfig":{"maxOutputTokens":7 },"contents":[]}"#,
        ),
        (
            route(Api::GeminiGenerate),
            r#"{"generationConfig":{"maxOutputTokens":90,"topK":1}}"#,
            r#"{"generationConfig":{"maxOutputTokens":7,"topK":1}}"#,
        ),
        (
            route(Api::BedrockConverse),
            r#"{"messages":[]}"#,
            r#"{"inferenceConfig":{"maxTokens":7},"messages":[]}"#,
        ),
        (
            route(Api::Ollama),
            r#"{"model":"m","options":{"temperature":0}}"#,
            r#"{"model":"m","options":{"num_predict":7,"temperature":0}}"#,
        ),
    ] {
        let request = read(&route, &BodyKind::default(), body.as_bytes()).unwrap();
        let verdict = purser_protocol::Rewrite { max_output_tokens: Some(7), ..Default::default() };
        let out = BodyRewrite::of(&request, &verdict).unwrap().apply(body.as_bytes(), 1000).unwrap();
        assert_eq!(String::from_utf8(out.clone()).unwrap(), expected);
        let again = read(&route, &BodyKind::default(), &out).unwrap();
        assert_eq!(again.size.max_output_tokens, Some(7), "{expected}");
    }
}

#[test]
fn what_is_done_later_is_said_to_be() {
    for (api, body, deferred) in [
        (Api::OpenaiResponses, r#"{"model":"m","background":true}"#, true),
        (Api::OpenaiResponses, r#"{"model":"m","background":false}"#, false),
        (Api::OpenaiBatches, "{}", true),
        (Api::AnthropicBatches, r#"{"requests":[{"params":{"model":"m","max_tokens":1}}]}"#, true),
    ] {
        let request = read(&route(api), &BodyKind::default(), body.as_bytes()).unwrap();
        assert_eq!(request.is_deferred, deferred, "{body}");
    }
    for body in [
        r#"{"requests":[]}"#,
        r#"{"requests":{}}"#,
        r#"{"requests":[{}]}"#,
        r#"{"requests":[{"params":{"model":"a"}},{"params":{"model":"b"}}]}"#,
    ] {
        let read = read(&route(Api::AnthropicBatches), &BodyKind::default(), body.as_bytes());
        assert!(matches!(read, Err(Unreadable::Member { .. })), "{body}");
    }
    let speech = Route { is_speech: true, ..route(Api::OpenaiAudio) };
    let spoken = |body: &str| read(&speech, &BodyKind::default(), body.as_bytes());
    assert_eq!(spoken("{\"model\":\"m\",\"input\":\"hé\"}").unwrap().input_characters, Some(2));
    for body in [r#"{"model":"m"}"#, r#"{"model":"m","input":["a"]}"#, r#"{"model":"m","input":null}"#] {
        assert_eq!(spoken(body).unwrap_err().member(), Some("input"), "{body}");
    }
}

#[test]
fn hostile_bodies_do_no_harm_to_any_reader() {
    let deep = "[".repeat(100_000);
    let closed = format!("{deep}{}", "]".repeat(100_000));
    for api in Api::ALL {
        for key in
            ["messages", "contents", "input", "requests", "generationConfig", "inferenceConfig", "prompt"]
        {
            for value in
                [&deep, &closed, "7", "null", "\"x\"", "{}", "[[7]]", "{\"a\":", "{\"maxTokens\":-1}"]
            {
                let body = format!("{{\"model\":\"m\",\"{key}\":{value}}}");
                // Whatever it is taken for, its size is that of its text.
                if let Ok(request) = read(&route(api), &BodyKind::default(), body.as_bytes()) {
                    assert!(request.size.text_bytes <= body.len() as u64, "{api:?} {key}");
                }
            }
        }
        let not_text = read(&route(api), &BodyKind::default(), b"\xff");
        assert_eq!(not_text, Err(Unreadable::Scan(ScanError::NotUtf8)), "{api:?}");
        assert_eq!(read(&route(api), &BodyKind::default(), b""), Err(Unreadable::Empty));
    }
}

#[test]
fn a_key_in_other_letters_is_refused_where_servers_may_take_it() {
    let ollama = Route::new(Api::Ollama, Dialect::Ollama);
    let compatible = Route::new(Api::OpenaiChat, Dialect::Compatible);
    for (route, body, key) in [
        (&ollama, r#"{"model":"m","Model":"dear"}"#, "model"),
        (&ollama, r#"{"Model":"m"}"#, "model"),
        (&ollama, r#"{"model":"m","Options":{"num_predict":9}}"#, "options"),
        (&ollama, r#"{"model":"m","options":{"Num_Predict":9}}"#, "num_predict"),
        (&compatible, r#"{"model":"m","N":9}"#, "n"),
        (&compatible, r#"{"model":"m","MAX_TOKENS":9}"#, "max_tokens"),
        (
            &compatible,
            r#"{"model":"m","stream":true,"stream_options":{"Include_Usage":false}}"#,
            "include_usage",
        ),
    ] {
        let refused = read(route, &BodyKind::default(), body.as_bytes()).unwrap_err();
        assert_eq!(refused, Unreadable::Scan(ScanError::OtherCase(key)), "{body}");
        assert_eq!(refused.member(), Some(key));
    }
    let batches = Route::new(Api::AnthropicBatches, Dialect::Compatible);
    let body = r#"{"requests":[{"params":{"model":"m","Model":"dear","max_tokens":1}}]}"#;
    let refused = read(&batches, &BodyKind::default(), body.as_bytes()).unwrap_err();
    assert_eq!(refused.member(), Some("model"));
    // OpenAI itself refuses such keys.
    assert!(read_text(r#"{"model":"m","N":9}"#).is_ok());
}
