//! Every API with its vendors' own SDKs through Envoy, the real backend and the database: the app gets the
//! objects it gets without the filter, and the ledger is the provider's bill.

use purser_protocol::{Deny, DenyReason, Verdict};
use serde_json::Value;
use system_tests::fake_llm::FakeLlm;
use system_tests::harness::scripted::Script;
use system_tests::harness::sdk::{assert_same, run};
use system_tests::harness::stack::{Setup, Stack};
use system_tests::harness::wait_until;

use crate::ledger::{assert_billed, entries, start};

/// An SDK, and what its calls are.
struct Sdk {
    driver: &'static str,
    /// The filter's `provider`.
    provider: &'static str,
    /// What the fake provider charges, where the catalogue doesn't list it.
    prices: &'static str,
    /// Calls that are metered.
    metered: &'static [&'static str],
    /// Calls that the provider refuses; they are metered, and cost nothing.
    refused: &'static [&'static str],
    /// Whether the API tells how much of the output is reasoning.
    tells_reasoning: bool,
}

impl Sdk {
    async fn start(&self) -> Stack {
        start(Setup::default().provider(self.provider), self.prices).await
    }

    /// Makes the calls on both ways; compares what was seen, then the ledger with the bill.
    async fn check(&self) {
        let stack = self.start().await;
        let direct = FakeLlm::start().await.unwrap();
        let calls = [self.metered, self.refused].concat();
        let expected = run(self.driver, direct.addr, "acme", &calls).await;
        let seen = run(self.driver, stack.envoy.egress, "acme", &calls).await;
        assert_same(&expected, &seen, &calls);
        assert_eq!(stack.fake.received().attempts, calls.len() as u64, "one request for each call");
        let settled = entries(&stack, calls.len()).await;
        let bill = stack.fake.billed().rows;
        assert_eq!(bill, direct.billed().rows, "the provider bills the same on both ways");
        assert_eq!(bill.len(), self.metered.len(), "{bill:?}");
        let (metered, refused) = settled.split_at(self.metered.len());
        for (name, (entry, billed)) in self.metered.iter().zip(metered.iter().zip(&bill)) {
            assert_billed(name, entry, billed, self.tells_reasoning);
        }
        for entry in refused {
            assert_eq!(entry.cost_nanousd, 0, "{entry:?}");
            assert!(entry.http_status >= 400, "{entry:?}");
        }
        stack.assert_healthy().await;
    }

    /// Checks that a denial reaches the app as this exception, or as one of its kinds, after one
    /// request.
    async fn check_denial(&self, class: &str) {
        let deny =
            Deny { reason: DenyReason::OverBudget, message: "No more money.".to_owned(), ..Deny::default() };
        let script = Script::Verdict(Box::new(Verdict::Deny(deny)));
        let stack = Setup::default().provider(self.provider).start_scripted(script).await;
        let calls = ["denied", "denied_stream"];
        let seen = run(self.driver, stack.envoy.egress, "acme", &calls).await;
        for name in calls {
            let failure = &seen[name]["failure"];
            let classes = failure["classes"].as_array().cloned().unwrap_or_default();
            assert!(classes.contains(&Value::from(class)), "{name}: {failure}");
            assert_eq!(seen[name]["chunks"], Value::Array(Vec::new()), "{name}: {failure}");
        }
        assert_eq!(stack.backend.holds().len(), calls.len(), "no SDK asks again");
        assert_eq!(stack.fake.received().attempts, 0);
        stack.assert_healthy().await;
    }

    /// Checks that a client that leaves a stream is charged what came, and not less than is billed.
    async fn check_abort(&self, call: &str) {
        let stack = self.start().await;
        let direct = FakeLlm::start().await.unwrap();
        let expected = run(self.driver, direct.addr, "acme", &[call]).await;
        let seen = run(self.driver, stack.envoy.egress, "acme", &[call]).await;
        assert_same(&expected, &seen, &[call]);
        let entry = &entries(&stack, 1).await[0];
        assert_eq!(
            (entry.usage_quality.as_str(), entry.ending.as_str()),
            ("at_least", "client_gone"),
            "{entry:?}"
        );
        assert!(entry.output_tokens >= 1, "{entry:?}");
        let billed =
            wait_until("the provider to see it", async || match stack.fake.billed().rows.as_slice() {
                [row] if !row.complete => Ok(row.clone()),
                rows => Err(format!("{rows:?}")),
            })
            .await;
        assert_billed(call, entry, &billed, false);
        stack.assert_healthy().await;
    }
}

const RESPONSES: Sdk = Sdk {
    driver: "openai_calls",
    provider: "openai",
    prices: "",
    metered: &[
        "responses",
        "responses_stream",
        "responses_tools",
        "responses_capped",
        "responses_failed",
        "responses_search",
        "responses_helper",
    ],
    refused: &[],
    tells_reasoning: true,
};

const OLDER_OPENAI: Sdk = Sdk {
    driver: "openai_calls",
    provider: "openai",
    prices: "set --provider openai --model gpt-3.5-turbo-instruct --rate input=1.5 --rate output=2",
    metered: &[
        "embeddings",
        "embeddings_float",
        "completions",
        "completions_stream",
        "completions_stream_usage",
    ],
    refused: &[],
    tells_reasoning: true,
};

/// By the token, the image, the character and the second.
const MEDIA: Sdk = Sdk {
    driver: "openai_calls",
    provider: "openai",
    prices:
        "set --provider openai --model gpt-image-1 --rate input=5 --rate cached_input=1.25 --rate output=40
        set --provider openai --model dall-e-3 --rate input=0 --rate output=0 --unit images=0.04
        set --provider openai --model gpt-4o-transcribe --rate input=2.5 --rate audio_input=6 --rate output=10
        set --provider openai --model whisper-1 --rate input=0 --rate output=0 --unit audio_seconds=0.0001
        set --provider openai --model tts-1 --rate input=0 --rate output=0 --unit input_characters=0.000015",
    metered: &[
        "image",
        "image_stream",
        "image_by_piece",
        "image_edit",
        "speech",
        "transcript",
        "transcript_by_second",
    ],
    refused: &[],
    tells_reasoning: true,
};

const AZURE: Sdk = Sdk {
    driver: "openai_calls",
    provider: "azure",
    // Its answers name the model, whose price is another provider's.
    prices: "alias --provider azure gpt-4o-mini --model gpt-4o-mini --to-provider openai",
    metered: &["azure", "azure_stream", "azure_stream_usage"],
    refused: &[],
    tells_reasoning: true,
};

const ANTHROPIC: Sdk = Sdk {
    driver: "anthropic_calls",
    provider: "anthropic",
    prices: "",
    metered: &[
        "plain",
        "tools",
        "search",
        "stream",
        "stream_search",
        "stream_capped",
        "stream_error",
        "helper",
        "helper_tools",
        "async",
    ],
    refused: &["refused"],
    tells_reasoning: true,
};

const GOOGLE: Sdk = Sdk {
    driver: "google_calls",
    provider: "gemini",
    prices: "",
    metered: &["embed", "plain", "two", "tools", "stream", "stream_tools", "stream_capped", "stream_error"],
    refused: &["failed"],
    tells_reasoning: true,
};

const BEDROCK: Sdk = Sdk {
    driver: "bedrock_calls",
    provider: "bedrock",
    prices: "",
    metered: &[
        "plain",
        "tools",
        "stream",
        "stream_tools",
        "stream_capped",
        "stream_error",
        "invoke",
        "invoke_stream",
    ],
    refused: &["failed"],
    tells_reasoning: false,
};

const COHERE: Sdk = Sdk {
    driver: "cohere_calls",
    provider: "cohere",
    prices: "set --provider cohere --model embed-v4.0 --rate input=0.12 --rate output=0
        set --provider cohere --model rerank-v3.5 --rate input=0 --rate output=0 --unit search_units=0.002",
    metered: &[
        "plain",
        "cached",
        "stream",
        "stream_capped",
        "older",
        "older_stream",
        "embed",
        "older_embed",
        "rerank",
    ],
    refused: &["failed"],
    tells_reasoning: false,
};

const MISTRAL: Sdk = Sdk {
    driver: "mistral_calls",
    provider: "mistral",
    prices: "",
    metered: &["plain", "stream", "stream_capped"],
    refused: &["failed"],
    tells_reasoning: true,
};

const OLLAMA: Sdk = Sdk {
    driver: "ollama_calls",
    provider: "ollama",
    prices: "set --provider ollama --model llama3.2 --rate input=0.01 --rate output=0.02",
    metered: &["embed", "plain", "stream", "stream_error", "generate", "generate_stream"],
    refused: &["failed"],
    tells_reasoning: false,
};

#[tokio::test(flavor = "multi_thread")]
async fn openai_responses() {
    RESPONSES.check().await;
    RESPONSES.check_abort("abort_responses").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_embeddings_and_completions() {
    OLDER_OPENAI.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_images_and_audio() {
    MEDIA.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn azure() {
    AZURE.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropic() {
    ANTHROPIC.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropic_left_and_denied() {
    ANTHROPIC.check_abort("abort").await;
    ANTHROPIC.check_denial("RateLimitError").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counting_tokens_is_free() {
    for (driver, provider) in [("anthropic_calls", "anthropic"), ("google_calls", "gemini")] {
        let stack = Setup::default().provider(provider).start_scripted(Script::Allow).await;
        let direct = FakeLlm::start().await.unwrap();
        let expected = run(driver, direct.addr, "acme", &["count"]).await;
        let seen = run(driver, stack.envoy.egress, "acme", &["count"]).await;
        assert_same(&expected, &seen, &["count"]);
        assert!(seen["count"]["result"].is_object(), "{seen}");
        assert_eq!(stack.backend.holds(), []);
        stack.assert_healthy().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn google() {
    GOOGLE.check().await;
    GOOGLE.check_denial("ClientError").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bedrock() {
    BEDROCK.check().await;
    BEDROCK.check_denial("ServiceQuotaExceededException").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cohere() {
    COHERE.check().await;
    COHERE.check_denial("ApiError").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mistral() {
    MISTRAL.check().await;
    MISTRAL.check_denial("SDKError").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ollama() {
    OLLAMA.check().await;
    OLLAMA.check_denial("ResponseError").await;
}
