use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn one(raw: &str, table: &Table) -> Option<[u64; 10]> {
    read(raw, table, &mut Counts::default()).map(|usage| usage.classes())
}

#[test]
fn classes_do_not_overlap() {
    for (raw, expected) in [
        (r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}"#, [10, 0, 0, 0, 5, 0, 0, 0, 0, 0]),
        (
            r#"{"prompt_tokens":100,"completion_tokens":50,
                "prompt_tokens_details":{"cached_tokens":60,"cache_write_tokens":30,"audio_tokens":4},
                "completion_tokens_details":{"reasoning_tokens":20,"audio_tokens":1}}"#,
            [6, 60, 30, 0, 29, 20, 4, 1, 0, 0],
        ),
        (
            r#"{"prompt_tokens":1,"completion_tokens":2,"prompt_tokens_details":null,
                "completion_tokens_details":null}"#,
            [1, 0, 0, 0, 2, 0, 0, 0, 0, 0],
        ),
        (
            r#"{"prompt_tokens":5,"completion_tokens":5,
                "prompt_tokens_details":{"cached_tokens":5,"audio_tokens":5},
                "completion_tokens_details":{"reasoning_tokens":5,"audio_tokens":5}}"#,
            [0, 5, 0, 0, 0, 5, 0, 0, 0, 0],
        ),
        (
            r#"{"prompt_tokens":5,"completion_tokens":5,
                "prompt_tokens_details":{"cached_tokens":6},
                "completion_tokens_details":{"reasoning_tokens":6}}"#,
            [5, 0, 0, 0, 5, 0, 0, 0, 0, 0],
        ),
        (
            r#"{"prompt_tokens":5,"completion_tokens":5,
                "prompt_tokens_details":{"cached_tokens":"x","cache_write_tokens":-1},
                "completion_tokens_details":[1]}"#,
            [5, 0, 0, 0, 5, 0, 0, 0, 0, 0],
        ),
        (
            r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_cache_hit_tokens":4,"prompt_cache_miss_tokens":6}"#,
            [6, 4, 0, 0, 5, 0, 0, 0, 0, 0],
        ),
    ] {
        assert_eq!(one(raw, &CHAT), Some(expected), "{raw}");
    }
}

#[test]
fn each_provider_s_overlaps_are_its_own() {
    for (raw, table, expected) in [
        (
            r#"{"input_tokens":10,"cache_read_input_tokens":20,"cache_creation_input_tokens":30,
                "cache_creation":{"ephemeral_5m_input_tokens":12,"ephemeral_1h_input_tokens":18},
                "output_tokens":40,"output_tokens_details":{"thinking_tokens":15}}"#,
            &ANTHROPIC,
            [10, 20, 12, 18, 25, 15, 0, 0, 0, 0],
        ),
        (
            r#"{"input_tokens":1,"cache_creation_input_tokens":30,"output_tokens":4}"#,
            &ANTHROPIC,
            [1, 0, 30, 0, 4, 0, 0, 0, 0, 0],
        ),
        (
            r#"{"promptTokenCount":100,"cachedContentTokenCount":60,"toolUsePromptTokenCount":7,
                "candidatesTokenCount":30,"thoughtsTokenCount":20,
                "promptTokensDetails":[{"modality":"TEXT","tokenCount":90},{"modality":"AUDIO","tokenCount":10}],
                "candidatesTokensDetails":[{"modality":"IMAGE","tokenCount":5}]}"#,
            &GEMINI,
            [37, 60, 0, 0, 25, 20, 10, 0, 0, 5],
        ),
        (r#"{"promptTokenCount":9}"#, &GEMINI, [9, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (
            r#"{"inputTokens":1,"outputTokens":2,"cacheReadInputTokens":3,"cacheWriteInputTokens":9,
                "cacheDetails":[{"ttl":"5m","inputTokens":4},{"ttl":"1h","inputTokens":5}]}"#,
            &CONVERSE,
            [1, 3, 4, 5, 2, 0, 0, 0, 0, 0],
        ),
        (
            r#"{"billed_units":{"input_tokens":5.0,"output_tokens":2.5},"tokens":{"input_tokens":99}}"#,
            &COHERE,
            [5, 0, 0, 0, 3, 0, 0, 0, 0, 0],
        ),
        (r#"{"prompt_eval_count":3,"eval_count":4}"#, &OLLAMA, [3, 0, 0, 0, 4, 0, 0, 0, 0, 0]),
        (r#"{"input_tokens":3,"output_tokens":4}"#, &IMAGES, [3, 0, 0, 0, 0, 0, 0, 0, 0, 4]),
        (r#"{"prompt_tokens":8,"total_tokens":8}"#, &EMBEDDINGS, [8, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ] {
        assert_eq!(one(raw, table), Some(expected), "{raw}");
    }
}

#[test]
fn counts_that_come_in_pieces_keep_their_last_value() {
    let mut counts = Counts::default();
    let start = r#"{"input_tokens":0,"cache_creation_input_tokens":8,"output_tokens":1,
        "cache_creation":{"ephemeral_5m_input_tokens":3,"ephemeral_1h_input_tokens":5}}"#;
    read(start, &ANTHROPIC, &mut counts);
    let delta = r#"{"input_tokens":7,"cache_creation_input_tokens":null,"output_tokens":20}"#;
    let usage = read(delta, &ANTHROPIC, &mut counts).unwrap();
    assert_eq!(usage.classes(), [7, 0, 3, 5, 20, 0, 0, 0, 0, 0]);
}

#[test]
fn parts_of_a_call_add_up_where_they_come_to_more() {
    let told = Usage { input_tokens: 10, cache_write_1h_tokens: 5, output_tokens: 20, ..Usage::default() };
    let told = Usage { reasoning_tokens: 10, ..told };
    for (list, expected) in [
        ("[]", Some(told)),
        (r#"[{"input_tokens":4,"output_tokens":30}]"#, Some(told)),
        (
            r#"[{"type":"compaction","input_tokens":30,"output_tokens":4,"cache_creation_input_tokens":7},
                {"type":"message","input_tokens":10,"output_tokens":30}]"#,
            Some(Usage { input_tokens: 40, cache_write_5m_tokens: 2, output_tokens: 24, ..told }),
        ),
        (r#"[{"input_tokens":100000000,"output_tokens":1},{"input_tokens":1,"output_tokens":1}]"#, None),
        (r#"[{"input_tokens":-1,"output_tokens":1}]"#, None),
        (r#"[{"input_tokens":1}]"#, None),
        ("[7]", None),
        ("{}", None),
    ] {
        assert_eq!(with_iterations(list, told), expected, "{list}");
    }
}

#[test]
fn nonsense_is_unknown() {
    for raw in [
        "null",
        "[]",
        "7",
        "{}",
        r#"{"prompt_tokens":1}"#,
        r#"{"prompt_tokens":null,"completion_tokens":1}"#,
        r#"{"prompt_tokens":"1","completion_tokens":1}"#,
        r#"{"prompt_tokens":-1,"completion_tokens":1}"#,
        r#"{"prompt_tokens":1.5,"completion_tokens":1}"#,
        r#"{"prompt_tokens":1e3,"completion_tokens":1}"#,
        r#"{"prompt_tokens":NaN,"completion_tokens":1}"#,
        r#"{"prompt_tokens":18446744073709551616,"completion_tokens":1}"#,
        r#"{"prompt_tokens":18446744073709551615,"completion_tokens":1}"#,
        r#"{"prompt_tokens":1,"prompt_tokens":2,"completion_tokens":1}"#,
        r#"{"prompt_tokens":100000001,"completion_tokens":1}"#,
        r#"{"prompt_tokens":1,"completion_tokens":100000001}"#,
    ] {
        assert_eq!(one(raw, &CHAT), None, "{raw}");
    }
    for (raw, expected) in
        [("1.0", Some(1)), ("1.01", Some(2)), ("1.", Some(1)), ("1.5e3", None), ("-1.5", None)]
    {
        assert_eq!(count(raw, true), expected, "{raw}");
    }
}

#[test]
fn video_is_told_beside_the_tokens_that_count_it() {
    let raw = r#"{"promptTokenCount":100,"candidatesTokenCount":9,
        "promptTokensDetails":[{"modality":"TEXT","tokenCount":10},{"modality":"VIDEO","tokenCount":70},
            {"modality":"VIDEO","tokenCount":20}],
        "candidatesTokensDetails":[{"modality":"VIDEO","tokenCount":8}]}"#;
    let usage = read(raw, &GEMINI, &mut Counts::default()).unwrap();
    assert_eq!((usage.input_tokens, usage.output_tokens), (100, 9));
    let mut told = Vec::new();
    units(raw, &GEMINI, |name, count| told.push((name, count)));
    assert_eq!(told, [("video_input_tokens", 90), ("video_output_tokens", 8)]);
    units(r#"{"promptTokenCount":100}"#, &GEMINI, |name, _| panic!("{name}"));
}
